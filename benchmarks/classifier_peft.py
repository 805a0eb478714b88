"""Tuning methods of classifiers over shares of the data: F1 of a ResNet and a vision transformer on held-out patients.

    python benchmarks/classifier_peft.py --output_dir DIR --jobs 8                          # phantoms
    python benchmarks/classifier_peft.py --output_dir DIR --data DATASET --findings Pneumonia   # another dataset folder

The bases are pretrained here, by `train.py --tune classifier` on the embedded captioned scenes (which words their
captions have): no ImageNet weights. Then `train.py --method` on each share of the patients, the share of one seed being
a part of the next larger one. Thresholds come from the validation split; F1, AUROC and average precision from the test
split, with intervals over patients and seeds. No learning rate is searched: each method has its default. The same
command again resumes, and adds seeds, shares or methods.
"""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sdcxr.io.files import read_json, write_json
from sdcxr.io.manifest import image_ids, read_metadata
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError

ROOT = Path(__file__).parents[1]
METHODS = {
    "cnn": ("full", "linear", "norm", "bias", "ssf", "tsa"),
    "vit": ("full", "linear", "norm", "bias", "attention", "ssf", "lora", "adaptformer", "vpt-shallow", "vpt-deep"),
}
FINDINGS = "Cardiomegaly,Right Effusion,Left Effusion,Right Pneumothorax,Left Pneumothorax"  # of phantoms
METRICS = ("f1", "auroc", "average_precision")
FREQUENT = (0.04, 0.5)  # share of the scenes whose captions have a word that becomes a label


@dataclass
class ClassifierPeftConfig:
    """What to compare."""

    output_dir: Path
    """Folder for scenes, bases and runs."""
    cnn: str = "resnet26"
    """timm's name of a convolutional network; empty for none."""
    vit: str = "vit_tiny_patch16_224"
    """timm's name of a vision transformer; empty for none."""
    data: Path | None = None
    """Dataset folder with train, validation and test. Default: the embedded phantoms."""
    labels: Path | None = None
    """Their labels, as train.py takes them. Default: those of metadata.csv, or the truth of the phantoms."""
    findings: str = ""
    """Names separated by commas. Default: all, of the phantoms five."""
    methods: str = ""
    """Separated by commas. Default: all that fit."""
    fractions: str = "0.01,0.05,0.1,0.5,1"
    """Shares of the training patients."""
    seeds: int = 3
    """Runs of each cell."""
    steps: int = 400
    """Optimizer steps of each run, of 64 images."""
    resolution: int = 128
    """Side of the images in pixels."""
    scenes: int = 20000
    """Scenes of the pretraining."""
    pretraining_steps: int = 4000
    """Optimizer steps of the pretraining, of 128 images."""
    jobs: int = 1
    """Runs at once, on one device."""
    output: Path | None = None
    """JSON file for the figures. Default: classifier_peft.json in the folder."""


class Cell(NamedTuple):
    network: str
    method: str
    fraction: str
    seed: int

    @property
    def folder(self) -> str:
        return "/".join(("runs", self.network, self.method, f"fraction-{self.fraction}", f"seed-{self.seed}"))


def main(config: ClassifierPeftConfig) -> int:
    root = config.output_dir.expanduser().resolve()
    data, labels = prepare(config, root)
    kinds = {kind: name for kind, name in (("cnn", config.cnn), ("vit", config.vit)) if name}
    wanted = config.methods.split(",") if config.methods else []
    methods = {kind: [m for m in METHODS[kind] if not wanted or m in wanted] for kind in kinds}
    bases = {name: pretrain(config, root, name) for name in kinds.values()}
    cells = [
        Cell(name, method, fraction, seed)
        for kind, name in kinds.items()
        for method in methods[kind]
        for fraction in config.fractions.split(",")
        for seed in range(config.seeds)
    ]
    with ThreadPoolExecutor(config.jobs) as pool:
        for done, _ in enumerate(pool.map(lambda cell: train(config, root, bases, cell, data, labels), cells)):
            print(f"{done + 1} of {len(cells)}: {cells[done].folder}", file=sys.stderr, flush=True)
    rows = list(table(config, root, cells, data, labels))
    settings = {"steps": config.steps, "resolution": config.resolution, "scenes": config.scenes}
    figures = settings | {"pretraining_steps": config.pretraining_steps, "data": str(data), "rows": rows}
    write_json(config.output or root / "classifier_peft.json", figures)
    show(rows, config.fractions.split(","))
    return 0


def prepare(config: ClassifierPeftConfig, root: Path) -> tuple[Path, Path | None]:
    """Data and labels; these cut to the findings."""
    from sdcxr.embedded import phantoms
    from sdcxr.io.files import user_cache

    data, labels, findings = config.data, config.labels, config.findings
    if data is None:
        data = phantoms.ensure_phantoms()
        labels = labels or user_cache() / "phantom" / "phantom-truth.csv"
        findings = findings or FINDINGS
    if not findings:
        return data, labels
    splits = pd.concat([read_metadata(data / split) for split in ("train", "validation", "test")])
    given = pd.read_csv(labels, dtype={"dicom_id": str}) if labels else splits.assign(dicom_id=image_ids(splits))
    names = findings.split(",")
    if missing := [name for name in names if name not in given]:
        raise UserError(f"--findings: no column {missing[0]}")
    root.mkdir(parents=True, exist_ok=True)
    given[["dicom_id", *names]].to_csv(root / "labels.csv", index=False)
    return data, root / "labels.csv"


def pretrain(config: ClassifierPeftConfig, root: Path, name: str) -> Path:
    """A base whose outputs are the frequent words of captions of scenes."""
    from sdcxr.embedded.pretraining import draw_scenes

    folder, scenes = root / "bases" / name, root / "scenes"
    labels = scenes / "words.csv"
    draw_scenes(scenes, config.scenes, seed=0)
    if not labels.is_file():
        word_labels(scenes).to_csv(labels, index=False)
    command(
        config, "train.py", "--tune", "classifier", "--base", name, "--random_weights", "true", "--data", scenes,
        "--labels", labels, "--output_dir", folder, "--resolution", config.resolution, "--train_batch_size", 128,
        "--max_train_steps", config.pretraining_steps, "--learning_rate", 1e-3, "--lr_scheduler", "cosine",
        "--lr_warmup_steps", 200, "--use_ema", "false", "--validation_steps", config.pretraining_steps,
        "--checkpointing_steps", 1000, "--dataloader_num_workers", min(12, os.cpu_count() or 1),
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


def train(
    config: ClassifierPeftConfig, root: Path, bases: dict[str, Path], cell: Cell, data: Path, labels: Path | None
) -> None:
    """One run, unless it is finished."""
    command(
        config, "train.py", "--tune", "classifier", "--base", bases[cell.network], "--new_head", "true",
        "--method", cell.method, "--data", data, *(["--labels", labels] if labels else []),
        "--data_fraction", cell.fraction, "--seed", cell.seed, "--output_dir", root / cell.folder,
        "--resolution", config.resolution, "--train_batch_size", 64, "--max_train_steps", config.steps,
        "--lr_warmup_steps", config.steps // 10, "--lr_scheduler", "cosine", "--use_ema", "false",
        "--validation_steps", config.steps, "--checkpointing_steps", config.steps, "--checkpoints_total_limit", 1,
        "--dataloader_num_workers", 1 if config.jobs > 1 else 0,
    )  # fmt: skip


def command(config: ClassifierPeftConfig, *arguments: object) -> None:
    """Run one of the project's commands; its last lines are shown where it fails."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    threads = str(max(1, (os.cpu_count() or 1) // config.jobs))
    texts = [sys.executable, *map(str, arguments), "--report_to", "none", "--torch_compile", "false"]
    environment = {"OMP_NUM_THREADS": threads} | os.environ | {"PYTHONPATH": path}
    done = subprocess.run(texts, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(texts[1:])} failed: {done.stderr.strip().splitlines()[-1:]}")


def table(
    config: ClassifierPeftConfig, root: Path, cells: list[Cell], data: Path, labels: Path | None
) -> Iterator[dict[str, Any]]:
    """A row for each network, method and share: means over seeds of scores on the test split, with intervals."""
    for network, method, fraction in dict.fromkeys(cell[:3] for cell in cells):
        runs = [root / cell.folder for cell in cells if cell[:3] == (network, method, fraction)]
        seen = [predictions(run, data, labels) for run in runs]
        row: dict[str, Any] = {"network": network, "method": method, "fraction": float(fraction), "seeds": len(runs)}
        row["trained"] = read_json(runs[0] / "predictions.json")["trained"]
        yield row | {name: value for metric in METRICS for name, value in score(metric, seen).items()}


def predictions(run_folder: Path, data: Path, labels: Path | None) -> dict[str, Any]:
    """Truth, probabilities and thresholds of the test images; kept in the run's folder."""
    kept = run_folder / "predictions.json"
    if not kept.is_file():
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
        write_json(kept, {
            "truth": truth.tolist(), "said": said.tolist(), "patients": patients.astype(str).tolist(),
            "thresholds": [about["thresholds"].get(label, 0.5) for label in classifier.labels], "trained": sum(body),
        })  # fmt: skip
    return dict(read_json(kept))


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


def show(rows: list[dict[str, Any]], fractions: list[str]) -> None:
    """F1 as a table for each network: a line for each method, a column for each share."""
    for network in dict.fromkeys(row["network"] for row in rows):
        print(f"\n| {network} | trained | " + " | ".join(f"{float(f):.0%}" for f in fractions) + " |")
        print("|---|--:|" + "---|" * len(fractions))
        for method in dict.fromkeys(row["method"] for row in rows if row["network"] == network):
            own = [row for row in rows if (row["network"], row["method"]) == (network, method)]
            cells = [f"{row['f1']:.3f} ({row['f1_low']:.3f}–{row['f1_high']:.3f})" for row in own]
            print(f"| {method} | {own[0]['trained']:,} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    run(main)
