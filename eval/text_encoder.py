"""Text encoder before and after fine-tuning: probes for findings, compositional prompts, similarity of the embeddings.

    python -m eval.text_encoder --model RUN --data DATASET --output scores.json
    python -m eval.text_encoder --base CompVis/stable-diffusion-v1-4 --model RUN --data DATASET
    python -m eval.text_encoder --base BERT --model T5 --data DATASET

Both sides are any text encoder that training takes: of a pipeline, of a run, or a folder or hub name of its own.

Linear probe: the base encoder and the fine-tuned one embed the texts of the dataset, frozen. A logistic regression per
finding is fitted on the training split and scored on texts of the test split: other patients, and no text that is also
in training. RoentGen reports such a gain for pneumothorax.

Composition: which of two prompts that differ in side, size, presence or finding, or in which of two findings is where,
is nearest to a paraphrase of one of them (eval/radiology_text/composition.py).

Forgetting: both encoders embed 60 everyday captions. `kept_cosine` is the mean cosine between a caption's two
embeddings (its `chance` is that of different captions), `kept_cka` the linear CKA of the two sets (1: the same up to
rotation and scale, which a UNet that trains along can follow), `kept_neighbours` the share of a caption's 5 nearest
captions that stayed. The same for the dataset's texts, which training is meant to change.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from eval.inputs.folders import ImageFolder, say_phantoms
from eval.metrics.bootstrap import group_interval, mean
from eval.metrics.classification import auroc
from eval.metrics.embeddings import linear_cka, neighbours_kept, probe
from eval.metrics.retrieval import unit
from eval.radiology_text import composition
from eval.scores import Result, Rows, note_text, publish, score_row, value_text
from sdcxr.io.files import existing_folder
from sdcxr.io.labels import UncertainPolicy, fill_labels, read_labels, uncertain_policy
from sdcxr.io.manifest import read_metadata, split_folder, text_key
from sdcxr.io.run_folder import read_config
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError

VERSION = 4  # of the rows: raise it when a value changes for the same texts
MIN_TEXTS = 5  # with and without a finding, in training and test: an AUROC of fewer says nothing
NEIGHBOURS = 5
OPTIONS = ("pooling", "regularisation", "seed", "trust_remote_code")  # of `evaluate`, as in the configuration
CAPTIONS = files("eval.radiology_text").joinpath("general_captions.txt").read_text(encoding="utf-8").splitlines()


@dataclass
class TextEncoderConfig:
    """Which encoders to compare, and on which texts."""

    model: str
    """The encoder after fine-tuning: run folder, pipeline or text encoder, by folder or hub name."""
    data: str
    """Dataset folder made by data_prep, with train and test."""
    base: str | None = None
    """The encoder before fine-tuning, likewise. Default: what the run began with, --text_encoder or else --base."""
    output: str | None = None
    """JSON file of score rows. Default: the table is printed only."""
    blanks: str = "zeros"
    """What an empty label of a text counts as: zeros (it does not claim the finding) or ignore. Uncertain ones (-1)
    never count."""
    pooling: Literal["mean", "end"] = "mean"
    """Embedding of a text: the mean of its tokens' last states, which the UNet attends to, or the state of its end
    token."""
    regularisation: float = 1.0
    """C of the logistic regression, on standardised embeddings; smaller is stronger."""
    seed: int = 0
    """Seed of the bootstrap."""
    trust_remote_code: bool = False
    """Run the code that comes with a text encoder."""

    def __post_init__(self) -> None:
        if not self.regularisation > 0:
            raise UserError(f"--regularisation {self.regularisation}: must be positive")


def main(config: TextEncoderConfig) -> int:
    options: dict[str, Any] = {name: getattr(config, name) for name in OPTIONS}
    options["blanks"] = uncertain_policy(config.blanks, "--blanks")
    result = evaluate(config.base or base_of(config.model), config.model, config.data, **options)
    say_phantoms(Path(config.data))
    publish(result, config.output, table)
    return 0


def base_of(run_folder: str) -> str:
    """What the text encoder of a run began as, by its config.yaml: the `text_encoder` or else the `base`.

    Raises:
        UserError: there is none.
    """
    settings = _settings(run_folder)
    base = settings.get("text_encoder") or settings.get("base")
    if not base:
        raise UserError(f"--model {run_folder} is no run folder that names its base: give --base")
    return str(base)


def needs_code(run_folder: str) -> bool:
    """Whether a run was begun with --trust_remote_code, which `base_of` then needs too."""
    settings = _settings(run_folder)
    return bool(settings.get("text_encoder") and settings.get("trust_remote_code"))


def _settings(run_folder: str) -> dict[str, Any]:
    path = Path(run_folder).expanduser() / "config.yaml"
    return read_config(path) if path.is_file() else {}


def evaluate(
    base: str,
    model: str,
    data: str | Path,
    *,
    blanks: UncertainPolicy = "zeros",
    pooling: Literal["mean", "end"] = "mean",
    regularisation: float = 1.0,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> Result:
    """Score rows of the probe for each finding, of compositional prompts, and of what was kept; `data` is a dataset.

    Raises:
        UserError: an encoder cannot be loaded; a patient is in both splits; no finding has texts of both kinds.
    """
    train, test = distinct_texts(existing_folder(data, "--data"))
    truths = [fill_labels(read_labels(rows), blanks=blanks) for rows in (train, test)]
    findings, absent = learnable(*truths)
    texts = [train["text"].tolist(), test["text"].tolist(), CAPTIONS, composition.TEXTS]
    found = {}
    for which, name in (("base", base), ("model", model)):
        found[which] = embed(load_encoder(name, f"--{which}", trust_remote_code), texts, pooling)
    embedded = {which: one.vectors for which, one in found.items()}
    n_texts = sum(map(len, texts))
    warnings = [
        f"{one.n_cut} of {n_texts} texts are longer than the text encoder of {name} reads: what follows is not seen"
        for name, one in ((base, found["base"]), (model, found["model"]))
        if one.n_cut
    ]
    same_kind = found["base"].architecture == found["model"].architecture
    if not same_kind:
        kinds = ", the model a ".join(one.architecture for one in found.values())
        warnings.append(
            f"different text encoders (the base is a {kinds}): their differences are not of training alone, and their "
            "embeddings have no common directions (no kept_cosine)"
        )
    groups = test["group"].to_numpy()
    scores = {
        which: np.stack(
            [probe(vectors[0], truths[0][label].to_numpy(), vectors[1], regularisation) for label in findings], axis=1
        )
        for which, vectors in embedded.items()
    }
    rows = probe_rows(truths[1][findings], scores["base"], scores["model"], groups, seed)
    rows += composition.composition_rows(embedded["base"][3], embedded["model"][3], seed)
    for label, before, after, who in (
        ("everyday captions", embedded["base"][2], embedded["model"][2], np.arange(len(CAPTIONS))),
        ("texts of the dataset", embedded["base"][1], embedded["model"][1], groups),
    ):
        rows += kept_rows(before, after, who, label, seed, cosine=same_kind)
    omitted = []
    if absent:
        omitted.append(f"{', '.join(absent)} (fewer than {MIN_TEXTS} texts with or without, in train or test)")
    return Result([row | {"extractor": model, "base": base, "pooling": pooling} for row in rows], omitted, warnings)


def distinct_texts(data: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The first row of every text of the training split, and of every text of the test split that training lacks.

    Returns:
        Two tables with a `group` column, the patient, who is resampled as a whole.

    Raises:
        UserError: a patient is in both splits, or no text is left.
    """
    splits = []
    for split in ("train", "test"):
        folder = split_folder(data, split)
        rows = read_metadata(folder)
        rows["group"] = ImageFolder(folder, rows).groups
        rows["key"] = rows["text"].map(text_key)
        splits.append(rows[rows["key"] != ""])
    train, test = splits
    if "subject_id" in train and "subject_id" in test:
        shared = (set(train["subject_id"]) & set(test["subject_id"])) - {""}
        if shared:
            raise UserError(f"{data}: {len(shared)} patients are in train and in test: prepare it again with data_prep")
    train = train.drop_duplicates("key").reset_index(drop=True)
    test = test[~test["key"].isin(train["key"])].drop_duplicates("key").reset_index(drop=True)
    if not len(train) or not len(test):
        raise UserError(f"{data}: a probe needs texts in train, and others in test ({len(train)} and {len(test)})")
    return train, test


def learnable(train: pd.DataFrame, test: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Labels with enough texts of both kinds on both sides, and the other labels.

    Raises:
        UserError: there is none.
    """
    known = [str(label) for label in train if label in test]
    enough = [
        label
        for label in known
        if all((side[label] == value).sum() >= MIN_TEXTS for side in (train, test) for value in (0, 1))
    ]
    if not enough:
        raise UserError(f"no finding has {MIN_TEXTS} texts with and without it in train and in test")
    return enough, [label for label in known if label not in enough]


class Embedded(NamedTuple):
    """Texts by one encoder."""

    vectors: list[np.ndarray]
    """Of each list of texts, shape (n, width), float32."""
    n_cut: int
    """How many of all texts are longer than the encoder reads."""
    architecture: str
    """Class, size and mask of the encoder, in words."""


def load_encoder(name: str, flag: str, trust_remote_code: bool = False) -> Any:
    """The TextEncoder of a pipeline or a run, as its UNet is given it, or an encoder of its own.

    Args:
        name: folder or hub name.
        flag: that named it, for messages.
        trust_remote_code: run code that comes with an encoder.

    Raises:
        UserError: it cannot be loaded.
    """
    from sdcxr import backbones
    from sdcxr.backbones.encoder_files import is_encoder, load_encoder
    from sdcxr.backbones.text_encoders import TextEncoder

    if not is_encoder(name):
        return backbones.load(name).text_encoder
    return TextEncoder.of(*load_encoder(name, trust_remote_code, flag))


def embed(encoder: Any, lists: Sequence[Sequence[str]], pooling: Literal["mean", "end"] = "mean") -> Embedded:
    """Embeddings of lists of texts.

    Args:
        encoder: TextEncoder.
        lists: the texts; what passes the tokenizer's length is cut off.
        pooling: "mean" of the last states over a text's tokens without padding, or the state of its "end" token.
    """
    from sdcxr.runtime.processes import processes
    from sdcxr.runtime.threads import use_all_cores

    use_all_cores()
    module = encoder.module.eval().to(processes().device)
    n_cut = encoder.tokenize([text for texts in lists for text in texts]).n_cut
    kind = f"{module.config.num_hidden_layers}-layer {type(module).__name__} of width {module.config.hidden_size}"
    architecture = f"{kind} {'with' if encoder.use_mask else 'without'} attention mask"
    return Embedded([encoder.embed(texts, pooling) for texts in lists], n_cut, architecture)


def probe_rows(truth: pd.DataFrame, before: np.ndarray, after: np.ndarray, groups: np.ndarray, seed: int = 0) -> Rows:
    """AUROC of either probe and their paired difference, per finding and as the mean over the findings.

    `truth` is 1, 0 or NaN; it and the scores of the probes `before` and `after` have the shape (texts, findings).
    """
    rows = []
    n = len(truth.columns)
    known = truth.to_numpy(float)
    everything = np.concatenate([known, before, after], axis=1)
    columns = [(str(label), [j]) for j, label in enumerate(truth.columns)] + [("macro", list(range(n)))]
    statistics = {"base": partial(_area, first=n), "tuned": partial(_area, first=2 * n), "gain": partial(_gain, n=n)}
    for metric, statistic in statistics.items():
        for label, chosen in columns:
            of_label = partial(statistic, findings=chosen)
            interval = group_interval(everything, groups, of_label, resamples=200, seed=seed)
            note = f"mean of {n} findings" if label == "macro" else "texts that training lacks"
            counts = {"n_real": len(truth), "n_positive": int((known[:, chosen] == 1).sum())}
            row = score_row(f"probe_auroc_{metric}", of_label(everything), interval, label=label, note=note, **counts)
            rows.append(row | {"images": None})
    return rows


def _area(everything: np.ndarray, findings: list[int], first: int) -> float:
    """Mean AUROC of the findings, their scores beginning at column `first`."""
    areas = [auroc(everything[:, j], everything[:, first + j]) for j in findings]
    return float(np.mean(areas))  # NaN if one is undefined: a mean over fewer findings is another statistic


def _gain(everything: np.ndarray, findings: list[int], n: int) -> float:
    return _area(everything, findings, 2 * n) - _area(everything, findings, n)


def kept_rows(
    before: np.ndarray, after: np.ndarray, groups: np.ndarray, label: str, seed: int = 0, cosine: bool = True
) -> Rows:
    """Similarity to the embeddings of the base, (n, width) and (n, other width): cosine, linear CKA and neighbours.

    The cosine is left out between other encoders, whose directions mean nothing to each other, also of the same width.
    """
    n = len(before)
    rows = []
    if cosine and before.shape[1] == after.shape[1]:
        cosines = unit(before) @ unit(after).T
        own = np.diag(cosines)
        others = float((cosines.sum() - own.sum()) / (n * (n - 1))) if n > 1 else float("nan")
        note = "the text encoder did not change" if np.array_equal(before, after) else None
        interval = group_interval(own, groups, mean, seed=seed)
        rows.append(score_row("kept_cosine", mean(own), interval, note=note, chance=others))
    rows.append(score_row("kept_cka", linear_cka(before, after), note="no interval: repeated texts raise it"))
    if n > NEIGHBOURS + 1:
        kept = neighbours_kept(before, after, NEIGHBOURS)
        interval = group_interval(kept, groups, mean, seed=seed)
        rows.append(score_row("kept_neighbours", mean(kept), interval, chance=NEIGHBOURS / (n - 1)))
    return [row | {"label": label, "images": None, "n_real": n} for row in rows]


def table(rows: Rows) -> str:
    """The rows as text: probes and compositional prompts of both encoders side by side, then the similarities."""
    cells = {(row["metric"], row["label"]): row for row in rows}
    lines = [f"{which + ':':8}{rows[0][key]}" for which, key in (("base", "base"), ("model", "extractor"))]
    for kind, title, counted in (
        ("probe_auroc", "AUROC of the linear probe", "n_positive"),
        ("composition", f"Searches won (chance {composition.CHANCE})", "n_pairs"),
    ):
        over = {"n_positive": "texts with", "n_pairs": "pairs"}[counted]
        lines.append(f"{title:32}{over:>10}" + "".join(f"{w:>23}" for w in ("base", "model", "gain of model")))
        for label in (row["label"] for row in rows if row["metric"] == f"{kind}_base"):
            trio = [cells[f"{kind}_{which}", label] for which in ("base", "tuned", "gain")]
            lines.append(f"{label:32}{trio[0][counted]:>10}" + "".join(f"{value_text(row):>23}" for row in trio))
    kept = [row for row in rows if row["metric"].startswith("kept_")]
    for row in kept:
        beside = f"  unrelated {row['chance']:.3f}" if row.get("chance") is not None else ""
        about = f"{row['metric']} ({row['label']}, {row['n_real']})"
        lines.append(f"{about:52}{value_text(row):>23}{beside}" + f"  {note_text(row)}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
