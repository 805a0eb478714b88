"""BERTScore, CheXbert labels and RadGraph F1 of radiology reports, from local weights. Experimental.

Tested with small random networks of the same architectures only, never with the published weights: compare with the
original packages before relying on a value. Nothing is downloaded; the error for an absent file names its size and
origin.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eval.extractors.weights import WeightsFile, hub_folder, load_pretrained, loading
from sdcxr.io.files import read_json
from sdcxr.runtime.errors import UserError, first_line

EXPERIMENTAL = "experimental: not yet verified with the published weights"

SCORERS = "https://huggingface.co/StanfordAIMI/RRG_scorers/resolve/main/"
CHEXBERT = WeightsFile("chexbert.pth", SCORERS + "chexbert.pth", about="1.31 GB")
CHEXBERT_TOKENIZER = "google-bert/bert-base-uncased", "0.2 MB, its tokenizer files are enough"
# The order of CheXbert's 14 heads, and the labels of its four classes. The last head has two classes only.
CHEXBERT_HEADS = (
    *("Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation"),
    *("Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture"),
    *("Support Devices", "No Finding"),
)
CHEXBERT_CLASSES = np.array([np.nan, 1.0, 0.0, -1.0])
HEAD_WIDTH = 64  # of BERT's attention, in all sizes

# As in RoentGen's evaluation. The baseline is the score of random English sentence pairs at that layer, from the table
# of bert-score for this model.
BERTSCORE_MODEL = "distilbert/distilbert-base-uncased", "268 MB"
BERTSCORE_LAYER = 5
BERTSCORE_BASELINE = 0.66620487

RADGRAPH = WeightsFile("radgraph/weights.th", SCORERS + "radgraph.tar.gz", about="unpack radgraph.tar.gz, 432 MB")
RADGRAPH_LEVELS = ("simple", "partial", "complete")


def locate_metric_weights(metric: str, weights_dir: Path | None) -> None:
    """Check that a metric's package and weights are there, without loading them.

    Args:
        metric: "bertscore", "chexbert" or "radgraph".
        weights_dir: folder of the weights.

    Raises:
        UserError: a package or a file is absent; the message names its size and origin.
    """
    if metric == "bertscore":
        hub_folder(BERTSCORE_MODEL[0], weights_dir, BERTSCORE_MODEL[1])
    elif metric == "chexbert":
        CHEXBERT.find(weights_dir)
        hub_folder(CHEXBERT_TOKENIZER[0], weights_dir, CHEXBERT_TOKENIZER[1])
    elif metric == "radgraph":
        if importlib.util.find_spec("radgraph") is None:
            raise UserError("--metrics radgraph needs the package radgraph: pip install radgraph")
        settings = read_json(RADGRAPH.find(weights_dir).parent / "config.json")
        encoder = settings["dataset_reader"]["token_indexers"]["bert"]["model_name"]
        if not Path(encoder).is_dir():
            hub_folder(encoder, None, "438 MB")  # the package searches the hub's cache only


def bertscore(
    references: Sequence[str],
    hypotheses: Sequence[str],
    weights_dir: Path | None,
    layer: int = BERTSCORE_LAYER,
    baseline: float = BERTSCORE_BASELINE,
    batch_size: int = 64,
) -> np.ndarray:
    """BERTScore F1 of each pair (Zhang et al. 2020), without idf weights, rescaled to 0 for unrelated sentences.

    Almost insensitive to negation: "no pneumothorax" and "pneumothorax" are close to each other.

    Args:
        references: reference texts.
        hypotheses: generated texts, as many.
        weights_dir: folder with distilbert-base-uncased.
        layer: layer of the hidden states that are compared; 0: the embeddings.
        baseline: F1 that is rescaled to 0.
        batch_size: texts per forward pass.

    Returns:
        Shape (pairs,); at most 1; before rescaling 0 if a text is empty.

    Raises:
        UserError: the model is absent.
    """
    folder = hub_folder(BERTSCORE_MODEL[0], weights_dir, BERTSCORE_MODEL[1])
    distinct = sorted({*references, *hypotheses})
    place = {text: i for i, text in enumerate(distinct)}
    embedded = _embed(distinct, folder, layer, batch_size)
    scores = [_greedy_f1(embedded[place[a]], embedded[place[b]]) for a, b in zip(references, hypotheses, strict=True)]
    return (np.array(scores) - baseline) / (1 - baseline)


def _greedy_f1(reference: np.ndarray, hypothesis: np.ndarray) -> float:
    """F1 of greedy matching of unit token embeddings. Special tokens (first, last) can be matched but do not count."""
    cosine = hypothesis @ reference.T
    precision, recall = cosine.max(axis=1)[1:-1], cosine.max(axis=0)[1:-1]
    if not len(precision) or not len(recall):
        return 0.0
    p, r = precision.mean(), recall.mean()
    return float(2 * p * r / (p + r))


def _embed(texts: list[str], folder: Path, layer: int, batch_size: int) -> list[np.ndarray]:
    """Unit hidden states of each text's tokens, special tokens included: (tokens, width) each."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from sdcxr.runtime.processes import processes

    with loading(str(folder)):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, absent = load_pretrained(AutoModel, folder)
    if absent:
        raise UserError(f"{folder}: {len(absent)} weights are absent (first: {absent[0]}): download it again")
    model = model.eval().to(processes().device)
    found = []
    for start in range(0, len(texts), batch_size):
        inputs = tokenizer(
            texts[start : start + batch_size], padding=True, truncation=True, max_length=512, return_tensors="pt"
        ).to(model.device)
        with torch.inference_mode():
            states = model(**inputs, output_hidden_states=True).hidden_states[layer]
        unit = torch.nn.functional.normalize(states, dim=-1).cpu().numpy()
        found += [row[mask] for row, mask in zip(unit, inputs["attention_mask"].bool().cpu().numpy(), strict=True)]
    return found


def chexbert_labels(texts: Sequence[str], weights_dir: Path | None, batch_size: int = 64) -> pd.DataFrame:
    """CheXbert labels (Smit et al. 2020) of each text (rows) for each finding (columns): 1, 0, -1 or NaN.

    Raises:
        UserError: its weights or its tokenizer are absent or damaged.
    """
    import torch
    from transformers import AutoTokenizer

    from sdcxr.runtime.processes import processes

    path = CHEXBERT.find(weights_dir)
    folder = hub_folder(CHEXBERT_TOKENIZER[0], weights_dir, CHEXBERT_TOKENIZER[1])
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    device = processes().device
    encoder, heads = (part.eval().to(device) for part in _load_chexbert(path))
    found = []
    for start in range(0, len(texts), batch_size):
        chunk = [" ".join(text.split()) for text in texts[start : start + batch_size]]
        inputs = tokenizer(chunk, padding=True, truncation=True, max_length=512, return_tensors="pt").to(device)
        with torch.inference_mode():
            first = encoder(**inputs).last_hidden_state[:, 0]
            found.append(torch.stack([head(first).argmax(dim=1) for head in heads], dim=1).cpu().numpy())
    classes = np.concatenate(found) if found else np.zeros((0, len(CHEXBERT_HEADS)), dtype=int)
    return pd.DataFrame(CHEXBERT_CLASSES[classes], columns=list(CHEXBERT_HEADS))


def _load_chexbert(path: Path) -> tuple[Any, Any]:
    """BERT and the 14 heads of a checkpoint; all sizes are inferred from the weights."""
    import pickle

    import torch
    from transformers import BertConfig, BertModel

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["model_state_dict"]
        state = {name.removeprefix("module."): value for name, value in state.items()}
        words, width = state["bert.embeddings.word_embeddings.weight"].shape
        config = BertConfig(
            vocab_size=words,
            hidden_size=width,
            num_attention_heads=width // HEAD_WIDTH,
            num_hidden_layers=len({name.split(".")[3] for name in state if name.startswith("bert.encoder.layer.")}),
            intermediate_size=state["bert.encoder.layer.0.intermediate.dense.weight"].shape[0],
            max_position_embeddings=state["bert.embeddings.position_embeddings.weight"].shape[0],
        )
        encoder = BertModel(config)
        heads = torch.nn.ModuleList([torch.nn.Linear(width, 4) for _ in range(13)] + [torch.nn.Linear(width, 2)])
        whole = torch.nn.ModuleDict({"bert": encoder, "linear_heads": heads})
        state.pop("bert.embeddings.position_ids", None)  # a buffer that older transformers saved
        whole.load_state_dict(state)
    except (OSError, KeyError, RuntimeError, TypeError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{path} is not CheXbert's checkpoint ({first_line(error)}): download it from {CHEXBERT.url}"
        ) from None
    return encoder, heads


def radgraph_f1(references: Sequence[str], hypotheses: Sequence[str], weights_dir: Path | None) -> np.ndarray:
    """RadGraph F1 of each pair (Delbrouck et al. 2022) at the levels `RADGRAPH_LEVELS`, shape (3, pairs).

    Raises:
        UserError: the package radgraph, its weights or its text encoder are absent.
    """
    locate_metric_weights("radgraph", weights_dir)  # the package would download absent files
    score = importlib.import_module("radgraph").F1RadGraph(
        reward_level="all", model_type="radgraph", model_cache_dir=str(weights_dir)
    )
    _, values, *_ = score(refs=list(references), hyps=list(hypotheses))
    return np.array(values, dtype=float)
