"""Captions and text encoders for language.py: styles, reports with added clauses, a tower of `--tune clip`, a BERT."""

import random
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from sdcxr.io.manifest import LABELS, SPLITS, read_metadata, write_metadata
from sdcxr.text.fields import chexpert_findings, finding_fields
from sdcxr.text.refocusing import TextMode, use_mode
from sdcxr.text.templates import write_prompts

STYLES = {
    "impression": "{text}",
    "list of labels": "{findings}.",
    "single word": "{word}",
    "photo": "a photo of a lung xray[ with {finding}]",
}
MODES: tuple[TextMode, ...] = ("raw", "clean", "refocused")
WIDTH = 64  # of the base's text encoder
COMPARED = (
    "Compared with the prior study of ___, ",
    "In comparison with the study from ___, ",
    "As compared to the previous radiograph, ",
)
UNCHANGED = (
    ", unchanged since ___",
    ", stable compared to the prior study",
    ", unchanged from the previous radiograph",
)
SENTENCES = (
    ("No relevant change since the prior study of ___.", "There has been no significant interval change."),
    ("Clinical correlation is recommended.", "Follow-up radiographs are suggested if symptoms persist."),
    (
        "Findings were discussed with Dr. ___ by telephone at ___ on ___.",
        "These results were communicated to the referring team on ___.",
    ),
    ("This may be positional.", "This may be partly technical."),
)


def write_dataset(phantoms: Path, folder: Path, captions: Callable[[pd.DataFrame], list[str]]) -> None:
    """A dataset of the images of the phantoms that have a positive label, with other captions."""
    for split in SPLITS:
        target = folder / split
        if not (target / "metadata.csv").is_file():
            target.mkdir(parents=True, exist_ok=True)
            (target / "images").unlink(missing_ok=True)
            (target / "images").symlink_to(phantoms / split)
            rows = read_metadata(phantoms / split)
            rows = rows[(rows[list(LABELS)] == 1).any(axis=1)].reset_index(drop=True)
            write_metadata(target, rows.assign(file_name="images/" + rows["file_name"], text=captions(rows)))


def captions_of(captions: str, rows: pd.DataFrame) -> list[str]:
    """The captions of a style, or the reports in a mode ("clean reports")."""
    ids = rows["dicom_id"]
    if captions in STYLES:
        fields = {"text": rows["text"]} | finding_fields(chexpert_findings(rows), ids, seed=0)
        return write_prompts([STYLES[captions]], fields, ids, seed=0)
    mode: Any = captions.removesuffix(" reports")
    return [use_mode(add_clauses(text, name), mode) for text, name in zip(rows["text"], ids, strict=True)]


def describe_captions(data: Path) -> dict[str, Any]:
    """Number, different ones and mean length of the captions of training, and an example."""
    texts = read_metadata(data / "train")["text"]
    mean = round(float(texts.str.len().mean()), 1)
    return {"n": len(texts), "different": texts.nunique(), "mean_characters": mean, "example": texts.iloc[0]}


def add_clauses(text: str, name: str) -> str:
    """An impression with comparison, time, advice, communication and marks around its findings, drawn by the id.

    Findings, sides, sizes and negations stay as they are, in their order.
    """
    draw = random.Random(f"clauses:{name}")
    first, stop, rest = text.partition(".")
    if first[0].isalpha():  # not of a numbered list
        first += draw.choice(("", *UNCHANGED))
        opening = draw.choice(("", *COMPARED))
        keeps_capital = not opening or first[1].isupper()  # ET tube
        first = opening + (first if keeps_capital else first[0].lower() + first[1:])
    kinds = draw.sample(SENTENCES, draw.randint(1, 2))
    return " ".join([first + stop + rest, *map(draw.choice, kinds)])


def save_text_tower(run_folder: Path, folder: Path) -> None:
    """The text tower of a run of `--tune clip` with its tokenizer, as transformers saves them."""
    import torch

    from sdcxr.backbones.image_text_towers import Clip

    clip = Clip(run_folder, torch.device("cpu"))
    clip.tokenizer.save_pretrained(folder)
    clip.towers.text.save_pretrained(folder)


def save_random_bert(texts: Iterable[str], folder: Path, seed: int) -> None:
    """A BERT of the size of the base's encoder with random weights, whose vocabulary is the words of the texts."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    if (folder / "model.safetensors").is_file():
        return
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())})
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = dict.fromkeys([*special, *words, *letters, *(f"##{letter}" for letter in letters)])
    tokenizer = BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, model_max_length=77)
    torch.manual_seed(seed)
    size = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4}
    encoder = BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=80, **size))
    tokenizer.save_pretrained(folder)
    encoder.save_pretrained(folder)
