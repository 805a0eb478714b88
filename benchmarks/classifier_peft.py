"""Tuning methods of classifiers over shares of the data: F1 of a ResNet and a vision transformer on held-out patients.

    python benchmarks/classifier_peft.py --output_dir DIR                                   # phantoms
    python benchmarks/classifier_peft.py --output_dir DIR --real FOLDER                     # and radiographs (NIH14)
    python benchmarks/classifier_peft.py --output_dir DIR --data DATASET --findings Pneumonia   # another dataset folder
    python benchmarks/classifier_peft.py --output_dir DIR --jobs 8 --cnn resnet26 --vit vit_tiny_patch16_224 \\
        --resolution 128 --scenes 20000 --pretraining_steps 4000 --batch_size 64 --steps 400 --seeds 3      # a GPU

The bases are pretrained here, by `train.py --tune classifier` on the embedded captioned scenes (which words their
captions have): no ImageNet weights. Then `train.py --method` on each share of the patients, the share of one seed being
a part of the next larger one. Thresholds come from the validation split; F1, AUROC and average precision from the test
split, with intervals over patients and seeds. No learning rate is searched: each method has its default factor of one
rate. All runs of a seed come before those of the next one. The same command again resumes, and adds seeds, shares or
methods.
"""

import math
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sdcxr.io.files import check_same_settings, read_json, write_json, write_text
from sdcxr.io.locks import locked
from sdcxr.io.manifest import image_ids, read_metadata
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.threads import available_cores

METHODS = {
    "cnn": ("full", "linear", "norm", "bias", "ssf", "tsa"),
    "vit": ("full", "linear", "norm", "bias", "attention", "ssf", "lora", "adaptformer", "vpt-deep"),
}
FINDINGS = "Cardiomegaly,Right Effusion,Left Effusion,Right Pneumothorax,Left Pneumothorax"  # of phantoms
REAL_FINDINGS = "Pneumonia"
REAL_SPLITS = {"validation_fraction": 0.2, "test_fraction": 0.4}  # few images: most of the doubt is of the test split
SETTINGS = ("steps", "batch_size", "learning_rate", "resolution", "scenes", "pretraining_steps", "findings")
PREDICTIONS = "predictions.json"
METRICS = ("f1", "auroc", "average_precision")
FREQUENT = (0.04, 0.5)  # share of the scenes whose captions have a word that becomes a label


@dataclass
class ClassifierPeftConfig:
    """What to compare."""

    output_dir: Path
    """Folder for scenes, bases and runs."""
    cnn: str = "test_resnet"
    """timm's name of a convolutional network; empty for none."""
    vit: str = "test_vit"
    """timm's name of a vision transformer; empty for none."""
    data: Path | None = None
    """Dataset folder with train, validation and test. Default: the embedded phantoms."""
    labels: Path | None = None
    """Their labels, as train.py takes them. Default: those of metadata.csv, or the truth of the phantoms."""
    findings: str = ""
    """Names separated by commas. Default: all, of the phantoms five."""
    real: Path | None = None
    """Folder with images/ and Data_Entry_2017_v2020.csv of ChestX-ray14, whole or a part, to compare on as well:
    pneumonia or not."""
    methods: str = ""
    """Separated by commas. Default: all that fit."""
    fractions: str = "0.05,0.25,1"
    """Shares of the training patients."""
    real_fractions: str = "0.25,1"
    """The same of the images of --real."""
    seeds: int = 2
    """Runs of each cell."""
    steps: int = 150
    """Optimizer steps of each run."""
    batch_size: int = 16
    """Images of a step."""
    learning_rate: float = 1e-3
    """Of `full`; the others have their factor of it (docs/classifiers.md). Small networks take more than train.py's
    default."""
    resolution: int = 64
    """Side of the images in pixels."""
    scenes: int = 4000
    """Scenes of the pretraining."""
    pretraining_steps: int = 300
    """Optimizer steps of the pretraining, of 64 images."""
    jobs: int = 1
    """Runs at once, on one device."""
    table: bool = False
    """Print the table of the runs that are finished, and run nothing."""
    output: Path | None = None
    """JSON file for the figures. Default: classifier_peft.json in the folder."""


class Dataset(NamedTuple):
    name: str
    folder: Path
    labels: Path | None
    fractions: tuple[str, ...]


class Cell(NamedTuple):
    dataset: Dataset
    network: str
    method: str
    fraction: str
    seed: int

    @property
    def folder(self) -> str:
        parts = (self.dataset.name, self.network, self.method, f"fraction-{self.fraction}", f"seed-{self.seed}")
        return "/".join(("runs", *parts))


def main(config: ClassifierPeftConfig) -> int:
    root = config.output_dir.expanduser().resolve()
    root.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(config, name) for name in SETTINGS}
    if (root / "settings.json").is_file():
        check_same_settings(root, read_json(root / "settings.json"), settings)
    write_json(root / "settings.json", settings)
    record_sources(config, root / "sources.json")
    datasets = list(prepare(config, root))
    kinds = {kind: name for kind, name in (("cnn", config.cnn), ("vit", config.vit)) if name}
    wanted = config.methods.split(",") if config.methods else []
    methods = {kind: [m for m in METHODS[kind] if not wanted or m in wanted] for kind in kinds}
    cells = [
        Cell(dataset, name, method, fraction, seed)
        for seed in range(config.seeds)
        for dataset in datasets
        for kind, name in kinds.items()
        for method in methods[kind]
        for fraction in dataset.fractions
    ]
    if not config.table:
        train_all(config, root, list(kinds.values()), cells)
    rows = list(table(root, [cell for cell in cells if (root / cell.folder / PREDICTIONS).is_file()]))
    write_json(config.output or root / "classifier_peft.json", settings | {"rows": rows})
    for dataset in datasets:
        show([row for row in rows if row["dataset"] == dataset.name], dataset)
    return 0


def record_sources(config: ClassifierPeftConfig, record: Path) -> None:
    """Note where each dataset comes from: runs are found again by its name, which others could have too.

    Raises:
        UserError: one of that name came from elsewhere.
    """
    of_main = {"data" if config.data else "phantoms": [config.data, config.labels]}
    given = of_main | ({"real": [config.real]} if config.real else {})
    texts = {name: " ".join(str(p.expanduser().resolve()) for p in paths if p) for name, paths in given.items()}
    known = read_json(record) if record.is_file() else {}
    check_same_settings(record.parent, *({name: of[name] for name in texts.keys() & known} for of in (known, texts)))
    write_json(record, dict(known) | texts)


def train_all(config: ClassifierPeftConfig, root: Path, networks: list[str], cells: list[Cell]) -> None:
    """Pretrain and train, in fresh processes that take one run after the other: importing takes as long as training."""
    threads = max(1, available_cores() // config.jobs)
    with ProcessPoolExecutor(config.jobs, get_context("spawn"), limit_threads, (threads,)) as pool:
        bases = dict(zip(networks, pool.map(partial(pretrain, config, root), networks), strict=True))
        for done, _ in enumerate(pool.map(partial(train, config, root, bases), cells)):
            print(f"{done + 1} of {len(cells)}: {cells[done].folder}", file=sys.stderr, flush=True)


def prepare(config: ClassifierPeftConfig, root: Path) -> Iterator[Dataset]:
    """The datasets, their labels cut to the findings."""
    from sdcxr.embedded import phantoms
    from sdcxr.io.files import user_cache

    data, labels, findings, name = config.data, config.labels, config.findings, "data"
    if data is None:
        data, name = phantoms.ensure_phantoms(), "phantoms"
        labels = labels or user_cache() / "phantom" / "phantom-truth.csv"
        findings = findings or FINDINGS
    yield Dataset(name, data, chosen(data, labels, findings, root / f"{name}.csv"), fractions(config.fractions))
    if config.real is not None:
        from data_prep import nih14

        folder, table = root / "real", config.real / "Data_Entry_2017_v2020.csv"
        settings: Any = {"resolution": 2 * config.resolution} | REAL_SPLITS
        if nih14.main(nih14.Nih14Config(config.real / "images", table, output_dir=folder, **settings)):
            raise UserError(f"--real {config.real}: not prepared, see above")
        file = chosen(folder, None, REAL_FINDINGS, root / "real.csv")
        yield Dataset("real", folder, file, fractions(config.real_fractions))


def fractions(texts: str) -> tuple[str, ...]:
    return tuple(text.strip() for text in texts.split(","))


def chosen(data: Path, labels: Path | None, findings: str, file: Path) -> Path | None:
    """A table with the labels that are wanted alone; the given one where all are."""
    if not findings:
        return labels
    splits = pd.concat([read_metadata(data / split) for split in ("train", "validation", "test")])
    given = pd.read_csv(labels, dtype={"dicom_id": str}) if labels else splits.assign(dicom_id=image_ids(splits))
    names = findings.split(",")
    if missing := [name for name in names if name not in given]:
        raise UserError(f"--findings: no column {missing[0]}")
    given[["dicom_id", *names]].to_csv(file, index=False)
    return file


def limit_threads(n: int) -> None:
    import torch

    os.environ["OMP_NUM_THREADS"] = str(n)
    torch.set_num_threads(n)


def pretrain(config: ClassifierPeftConfig, root: Path, name: str) -> Path:
    """A base whose outputs are the frequent words of captions of scenes."""
    from sdcxr.embedded.pretraining import draw_scenes

    folder, scenes = root / "bases" / name, root / "scenes"
    labels = scenes / "words.csv"
    with locked(root, math.inf):
        draw_scenes(scenes, config.scenes, seed=0)
        if not labels.is_file():
            write_text(labels, word_labels(scenes).to_csv(index=False))
    train_once(
        config, folder, base=name, random_weights=True, data=str(scenes), labels=str(labels), train_batch_size=64,
        max_train_steps=config.pretraining_steps, learning_rate=1e-3, lr_warmup_steps=config.pretraining_steps // 20,
        checkpointing_steps=1000,
    )  # fmt: skip
    return folder


def word_labels(scenes: Path) -> pd.DataFrame:
    """Which frequent words each caption has, by dicom_id."""
    rows = pd.concat([read_metadata(scenes / split) for split in ("train", "validation")])
    words = [set(re.findall("[a-z]{3,}", text.lower())) for text in rows["text"]]
    counts = Counter(word for caption in words for word in caption)
    low, high = (share * len(rows) for share in FREQUENT)
    frequent = sorted(word for word, n in counts.items() if low <= n <= high)
    table = {word: [int(word in caption) for caption in words] for word in frequent}
    return pd.DataFrame({"dicom_id": image_ids(rows).tolist()} | table)


def train(config: ClassifierPeftConfig, root: Path, bases: dict[str, Path], cell: Cell) -> None:
    """One run, unless it is finished, and its predictions."""
    from sdcxr.tuning.registry import find_method

    rate, data, labels = config.learning_rate, cell.dataset.folder, cell.dataset.labels
    rate *= find_method(cell.method, "classifier").learning_rate_factor
    if not (root / cell.folder / PREDICTIONS).is_file():
        train_once(
            config, root / cell.folder, base=str(bases[cell.network]), new_head=True, method=cell.method,
            data=str(data), labels=str(labels) if labels else None, data_fraction=float(cell.fraction),
            seed=cell.seed, train_batch_size=config.batch_size, max_train_steps=config.steps, learning_rate=rate,
            lr_warmup_steps=config.steps // 10, checkpointing_steps=config.steps,
        )  # fmt: skip
        predict(root / cell.folder, data, labels)


def train_once(config: ClassifierPeftConfig, folder: Path, **settings: Any) -> None:
    """`train.py --tune classifier` in this process, its output in the run's log.txt, unless it is finished."""
    from sdcxr.commands import train as command
    from sdcxr.config import TrainConfig

    folder.mkdir(parents=True, exist_ok=True)
    common: dict[str, Any] = {"tune": "classifier", "output_dir": str(folder), "resolution": config.resolution}
    common |= {"lr_scheduler": "cosine", "use_ema": False, "report_to": "none", "torch_compile": False}
    common |= {"validation_steps": settings["max_train_steps"], "dataloader_num_workers": 0}
    with (folder / "log.txt").open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        if command.main(TrainConfig(**common, **settings)):
            raise UserError(f"{folder} was stopped: run the same command again to resume")


def table(root: Path, cells: list[Cell]) -> Iterator[dict[str, Any]]:
    """A row for each dataset, network, method and share: means over seeds on the test split, with intervals."""
    for names in dict.fromkeys(cell[:4] for cell in cells):
        seen = [dict(read_json(root / cell.folder / PREDICTIONS)) for cell in cells if cell[:4] == names]
        dataset, network, method, fraction = names
        row: dict[str, Any] = {"dataset": dataset.name, "network": network, "method": method}
        row |= {"fraction": float(fraction), "seeds": len(seen), "trained": seen[0]["trained"]}
        row |= {"test_images": len(seen[0]["truth"]), "test_patients": len(set(seen[0]["patients"]))}
        yield row | {name: value for metric in METRICS for name, value in score(metric, seen).items()}


def predict(run_folder: Path, data: Path, labels: Path | None) -> None:
    """Keep truth, probabilities and thresholds of the test images in the run's folder, and delete what is large."""
    import torch
    from safetensors.torch import load_file

    from sdcxr.backbones.image_classifier import Classifier
    from sdcxr.io.pixels import read_pixels
    from sdcxr.tasks.classifier import label_table

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classifier = Classifier(run_folder, device)
    rows = read_metadata(data / "test")
    truth = label_table(rows.assign(id=image_ids(rows)), str(labels) if labels else None, classifier.labels)[1]
    pixels = [read_pixels(data / "test" / name, classifier.resolution) for name in rows["file_name"]]
    said = np.concatenate([classifier.predict(torch.stack(pixels[i : i + 64])) for i in range(0, len(pixels), 64)])
    about = read_json(run_folder / "classifier" / "config.json")
    (newest,) = (run_folder / "checkpoints").iterdir()
    trained = load_file(newest / "model.safetensors")
    body = [t.numel() for name, t in trained.items() if "running_" not in name and "num_batches" not in name]
    patients = rows["subject_id"] if "subject_id" in rows else image_ids(rows)
    write_json(run_folder / PREDICTIONS, {
        "truth": truth.tolist(), "said": said.tolist(), "patients": patients.astype(str).tolist(),
        "thresholds": [about["thresholds"].get(label, 0.5) for label in classifier.labels], "trained": sum(body),
    })  # fmt: skip
    for folder in ("checkpoints", "classifier", "adapter"):
        shutil.rmtree(run_folder / folder, ignore_errors=True)


def score(metric: str, seen: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over seeds and labels, its 95 % interval over patients and seeds, and the value of each seed."""
    from functools import partial

    from eval.metrics.bootstrap import percentiles, resampled
    from eval.metrics.classification import Ranking, Statistic, f1

    truth = np.array(seen[0]["truth"], float)
    labels = [j for j in range(truth.shape[1]) if len(np.unique(truth[np.isfinite(truth[:, j]), j])) == 2]
    statistics: list[list[Statistic]] = []
    for run_scores in seen:
        said = np.array(run_scores["said"])
        of_run: list[Statistic] = []
        for j in labels:
            if metric == "f1":
                known = np.isfinite(truth[:, j])
                predicted = (said[:, j] >= run_scores["thresholds"][j]) & known
                of_run.append(partial(f1, truth[:, j] == 1, predicted))
            else:
                of_run.append(getattr(Ranking(truth[:, j], said[:, j]), metric))
        statistics.append(of_run)
    values = [float(np.mean([each(None) for each in of_run])) for of_run in statistics]
    drawn = resampled([each for of_run in statistics for each in of_run], np.array(seen[0]["patients"]), resamples=500)
    by_seed = drawn.reshape(len(drawn), len(seen), len(labels)).mean(axis=2)
    seeds = np.random.default_rng(0).integers(len(seen), size=by_seed.shape)
    low, high = percentiles(np.take_along_axis(by_seed, seeds, axis=1).mean(axis=1))
    return {metric: float(np.mean(values)), f"{metric}_low": low, f"{metric}_high": high, f"{metric}_seeds": values}


def show(rows: list[dict[str, Any]], dataset: Dataset) -> None:
    """F1 as a table for each network: a line for each method, a column for each share."""
    for network in dict.fromkeys(row["network"] for row in rows):
        print(f"\n| {dataset.name}, {network} | trained | {' | '.join(f'{float(f):.0%}' for f in dataset.fractions)} |")
        print("|---|--:|" + "---|" * len(dataset.fractions))
        for method in dict.fromkeys(row["method"] for row in rows if row["network"] == network):
            own = {row["fraction"]: row for row in rows if (row["network"], row["method"]) == (network, method)}
            cells = [cell_text(own.get(float(fraction))) for fraction in dataset.fractions]
            print(f"| {method} | {next(iter(own.values()))['trained']:,} | " + " | ".join(cells) + " |")


def cell_text(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{row['f1']:.3f} ({row['f1_low']:.3f}–{row['f1_high']:.3f})"


if __name__ == "__main__":
    run(main)
