"""Use of images as training data: a classifier that was trained on them, scored on real test images.

    python -m eval.utility --real DATASET/test --classifier RUN --output_dir DIR
    python ablate.py --grid configs/grids/augmentation.yaml --output_dir DIR     # trains the classifiers, and compares

The classifier is a run of `train.py --tune classifier` on real images (--data), synthetic ones (--synthetic), or both.
AUROC, average precision and F1 of each finding or class and their means, with intervals over patients. Thresholds of F1
are those of the run's validation split; of classes the most probable one is decided. A classifier whose training
or validation images, or prompts of synthetic ones, are of patients of --real is refused, as are the runs that it began
from. Which patients the images' generator was trained on cannot be seen here.
"""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eval.classifier import score_labels
from eval.command import weights_folder
from eval.extractors.classifiers import EvalClassifier, find_classifier
from eval.inputs.folders import ImageFolder, read_folder, say_phantoms
from eval.inputs.labels import choose_findings, left_out, truth_of
from eval.scores import Result, Rows, publish, value_text
from eval.summary.steps import EvalStep, run_steps
from sdcxr.io.files import checksum
from sdcxr.io.labels import UncertainPolicy, chexpert_name, read_classes
from sdcxr.io.manifest import read_metadata, split_folder
from sdcxr.io.patients import check_prompts, check_splits
from sdcxr.io.run_folder import read_config, read_run_state
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError

VERSION = 3  # of the rows: raise it when a value changes for the same images


@dataclass
class UtilityConfig:
    """Which classifier, and on which images."""

    real: str
    """Test split of the dataset folder that the classifier was trained on."""
    classifier: str
    """Run folder of `train.py --tune classifier`."""
    output_dir: str
    """Folder of scores.json."""
    weights_dir: str | None = None
    """Folder with torchxrayvision's weights, where --classifier names one of its networks for comparison."""
    labels: str | None = None
    """CSV with a dicom_id column and columns of 1, 0, -1 and empty, or the column of classes. Default: metadata.csv."""
    class_column: str | None = None
    """Of a classifier of classes: column of --labels or metadata.csv with that of each image. Default: the run's."""
    findings: str | None = None
    """Names separated by commas. Default: all that the classifier and the labels have in common."""
    uncertain: UncertainPolicy = "ignore"
    """What the label -1 counts as: nothing, negative (zeros) or positive (ones). Empty never counts."""
    seed: int = 0
    """Seed of the bootstrap."""

    def __post_init__(self) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError("python -m eval.utility is one process: start it without accelerate launch")


def main(config: UtilityConfig) -> int:
    real = read_folder(config.real, "--real")
    say_phantoms(real.folder)
    classifier = find_classifier(config.classifier, weights_folder(config.weights_dir))
    warnings = check_patients(real, Path(config.classifier).expanduser())
    options = {name: getattr(config, name) for name in ("labels", "findings", "uncertain", "seed")}
    options["class_column"] = class_column_of(config, classifier)
    output = Path(config.output_dir).expanduser()
    step = EvalStep(
        partial(evaluate, real, classifier, warnings, **options),
        options | {"images": real.fingerprint, "labels": labels_state(config.labels)},
        (classifier.extractor,),
        name="utility",
        version=VERSION,
    )
    outcome = run_steps([step], [], output)
    result = Result(outcome.rows, [one.reason for one in outcome.skipped], outcome.warnings)
    publish(result, output / "scores.json", table)
    return 0


def class_column_of(config: UtilityConfig, classifier: EvalClassifier) -> str | None:
    """The column of classes, of a classifier that tells classes apart; None for one of findings.

    Raises:
        UserError: it is given for findings, or not known for classes.
    """
    if not classifier.one_class:
        if config.class_column is not None:
            raise UserError(f"--class_column: {config.classifier} names findings, not one class of several")
        return None
    settings = run_folder_of(Path(config.classifier).expanduser()) / "config.yaml"
    column = config.class_column or (read_config(settings).get("class_column") if settings.is_file() else None)
    if column is None:
        raise UserError(f"{config.classifier} tells classes apart: name the column that has them with --class_column")
    return str(column)


def run_folder_of(classifier: Path) -> Path:
    """The run folder around the classifier/ that may have been named."""
    return classifier.parent if classifier.name == "classifier" else classifier


def labels_state(labels: str | None) -> str | None:
    """Checksum of the labels' file.

    Raises:
        UserError: it does not exist.
    """
    if labels is not None and not Path(labels).expanduser().is_file():
        raise UserError(f"--labels {labels}: no such file")
    return checksum(Path(labels).expanduser()) if labels else None


def evaluate(
    real: ImageFolder,
    classifier: EvalClassifier,
    warnings: list[str],
    *,
    labels: str | None = None,
    findings: str | None = None,
    uncertain: UncertainPolicy = "ignore",
    seed: int = 0,
    class_column: str | None = None,
) -> Result:
    """Rows of `utility_auroc`, `utility_average_precision` and `utility_f1`: a row per finding, and their mean.

    Labels (a CSV, or those in the table) and findings (separated by commas; None: all that are known on both sides) are
    checked before the first image is read.

    Raises:
        UserError: labels or findings do not fit; images are unreadable.
    """
    truth = truth_of(real, labels, uncertain, "--real") if class_column is None else None
    if truth is None:
        truth = classes_of(real, labels, str(class_column), classifier.findings)
    chosen, absent = choose_findings(findings, {"the classifier": classifier.findings, "--real": truth.columns})
    seen = classifier.probabilities(real)
    decided = classifier.decisions(seen if classifier.one_class else seen[chosen])
    omitted = left_out(absent, "not in")
    if decided is None:
        without = ", ".join(name for name in chosen if name not in classifier.f1_thresholds)
        omitted.append(f"F1 (no threshold of {without}: the validation split of the run has to show both values)")
    rows = score_labels({"real": (truth[chosen], seen[chosen], np.array(real.groups))}, seed, decided)
    state = read_run_state(Path(classifier.name).expanduser())
    sizes = {f"n_train_{kind}": state.get(f"n_{kind}") for kind in ("real", "synthetic")}
    # Not of the real images, which are the same for all classifiers.
    about = {"images": None, "extractor": None, "uncertain": uncertain} | sizes
    return Result([row | {"metric": f"utility_{row['metric']}"} | about for row in rows], omitted, warnings)


def classes_of(real: ImageFolder, labels: str | None, column: str, names: list[str]) -> pd.DataFrame:
    """Truth as `truth_of` gives it, of classes: 1 for an image's own and 0 for the others, NaN where it is unknown.

    Raises:
        UserError: the column is missing, or has none of the classes.
    """
    own = read_classes(real.rows, column, labels).map(chexpert_name)
    if not (known := own.isin(names)).any():
        there = ", ".join(sorted(set(own) - {""})[:10]) or "nothing"
        raise UserError(f"--class_column {column}: has none of the classes {', '.join(names)}, but {there}")
    return pd.DataFrame({name: (own == name).astype(float).where(known) for name in names})


def check_patients(real: ImageFolder, classifier: Path) -> list[str]:
    """Refuse patients of the test images among those that a run, or one that it began from, was trained on.

    Returns:
        What could not be compared.

    Raises:
        UserError: counts the patients or prompts.
    """
    classifier = run_folder_of(classifier)
    warnings, run_folder = [], classifier
    while (run_folder / "config.yaml").is_file():
        settings = read_config(run_folder / "config.yaml")
        warnings += _check_run(real.rows, run_folder, settings)
        run_folder = Path(str(settings.get("base"))).expanduser()
    if run_folder == classifier:
        return [f"{classifier} is no run of train.py: whom it was trained on cannot be checked"]
    return list(dict.fromkeys(warnings))


def _check_run(test: pd.DataFrame, run_folder: Path, settings: dict[str, Any]) -> list[str]:
    data, synthetic = (settings.get(name) and Path(settings[name]).expanduser() for name in ("data", "synthetic"))
    if data is None or not (data / "train" / "metadata.csv").is_file():
        return [f"the data of {run_folder} are gone: whether its patients are in --real cannot be checked"]
    splits = {
        name: read_metadata(split_folder(data, name))
        for name in ("train", "validation")
        if (data / name / "metadata.csv").is_file()
    }
    check_splits({**splits, "test": test})
    if synthetic is None:
        return []
    if not (synthetic / "metadata.csv").is_file():
        return [f"the synthetic images of {run_folder} are gone: whose prompts they had cannot be checked"]
    held_out = {name: rows for name, rows in {**splits, "test": test}.items() if name != "train"}
    samples = read_metadata(synthetic)
    unknown = check_prompts(samples, splits["train"], held_out)
    about = f"{unknown} of {len(samples)} prompts of {run_folder} are not of its data: whose they are cannot be checked"
    return [about] if unknown else []


def table(rows: Rows) -> str:
    """The scores as text: a row per finding, and their mean."""
    cells = {(row["metric"], row["label"]): row for row in rows}
    metrics = [name for name in ("auroc", "average_precision", "f1") if (f"utility_{name}", "macro") in cells]
    titles = {"auroc": "AUROC", "average_precision": "average precision", "f1": "F1"}
    lines = [f"{'real test images':28}" + "".join(f"{titles[name]:>24}" for name in metrics)]
    for label in dict.fromkeys(row["label"] for row in rows):
        shown = [value_text(cells[f"utility_{metric}", label]) for metric in metrics]
        lines.append(f"{label:28}" + "".join(f"{value:>24}" for value in shown))
    row = rows[0]
    trained = {kind: row.get(f"n_train_{kind}") for kind in ("real", "synthetic")}
    counts = " and ".join(f"{n} {kind}" for kind, n in trained.items() if n is not None)
    lines.append(f"{row['n_real']} test images" + (f"; trained on {counts} images" if counts else ""))
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
