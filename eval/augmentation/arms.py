"""Arms of the augmentation experiment: training sets of real and synthetic images, without leakage of patients."""

import os
import re
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eval.inputs.folders import ImageFolder, read_folder, read_samples
from eval.inputs.labels import choose_findings, left_out, truth_of
from sdcxr.io.files import atomic, existing_folder, inside
from sdcxr.io.labels import UncertainPolicy
from sdcxr.io.manifest import SPLITS, image_ids, split_folder, write_metadata
from sdcxr.runtime.errors import UserError

ARM = re.compile(r"R|(?P<alone>[\d.]*)S|R\+(?P<mixed>[\d.]*)S|(?P<first>[\d.]*)S(?:>|→)R")


@dataclass(frozen=True)
class TrainingSet:
    """A set of training images."""

    real: bool
    """Whether it contains all real training images."""
    factor: float = 0.0
    """Synthetic images per real training image."""

    @property
    def folder(self) -> str:
        """Name of its dataset folder."""
        parts = ["real"] * self.real + [f"synthetic-{self.factor:g}"] * (self.factor > 0)
        return "-and-".join(parts)


@dataclass(frozen=True)
class Arm:
    """The training sets of one classifier of the experiment, in one stage or two."""

    name: str
    stages: tuple[TrainingSet, ...]

    @property
    def folder(self) -> str:
        """Name of the folder of its runs: the training sets with their factors."""
        return "-then-".join(stage.folder for stage in self.stages)

    def steps(self, budget: int) -> list[int]:
        """Optimizer steps of each stage. The sum is the same for all arms; of two stages the last has the odd step."""
        first = budget // len(self.stages)
        return [first] * (len(self.stages) - 1) + [budget - first * (len(self.stages) - 1)]


def parse_arms(text: str, factor: float) -> list[Arm]:
    """The arms of `--arms`: R, S, R+S and S>R, separated by commas; a number before S replaces the factor.

    Raises:
        UserError: an arm is unknown, comes twice, or a factor is not positive.
    """
    arms: list[Arm] = []
    for word in text.replace(" ", "").split(","):
        found = ARM.fullmatch(word)
        if not found:
            raise UserError(f"--arms: {word!r} is not R, S, R+S or S>R (a number before S is a factor, as in R+3S)")
        number = next((value for value in found.groups() if value is not None), None)
        try:
            times = float(number or factor)
        except ValueError:
            raise UserError(f"--arms: {number!r} in {word!r} is not a number") from None
        if times <= 0:
            raise UserError(f"--arms {word}: the number of synthetic images per real one must be positive")
        real, synthetic = TrainingSet(real=True), TrainingSet(False, times)
        if number is None:
            stages: tuple[TrainingSet, ...] = (real,)
        elif found["alone"] is not None:
            stages = (synthetic,)
        else:
            stages = (TrainingSet(True, times),) if found["mixed"] is not None else (synthetic, real)
        arms.append(Arm(word.replace("→", ">"), stages))
    names = [arm.name for arm in arms]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise UserError(f"--arms: {repeated[0]} comes twice")
    return arms


@dataclass(frozen=True)
class Labelled:
    """Images and their ground truth."""

    images: ImageFolder
    truth: pd.DataFrame
    """A column per finding: 1, 0 or NaN (unknown)."""

    def take(self, rows: np.ndarray, findings: list[str] | None = None) -> "Labelled":
        """A subset of the images, with a subset of the findings."""
        truth = self.truth[findings or list(self.truth.columns)].iloc[rows].reset_index(drop=True)
        return Labelled(self.images.take(rows), truth)

    @property
    def learnable(self) -> list[str]:
        """Findings with both classes."""
        return [str(name) for name in self.truth if self.truth[name].nunique() == 2]


@dataclass(frozen=True)
class ExperimentData:
    """All images of the experiment with the same findings in the same order."""

    train: Labelled
    validation: Labelled
    test: Labelled
    synthetic: Labelled
    """In random order; an arm takes the first so many."""
    omitted: list[str] = field(default_factory=list)
    """Findings without both classes, and where."""
    warnings: list[str] = field(default_factory=list)

    @property
    def findings(self) -> list[str]:
        return [str(name) for name in self.train.truth]

    def n_synthetic(self, training_set: TrainingSet) -> int:
        """How many synthetic images a training set has."""
        return round(training_set.factor * len(self.train.images))


def gather(
    real: str,
    synthetic: str,
    arms: list[Arm],
    *,
    labels: str | None = None,
    findings: str | None = None,
    uncertain: UncertainPolicy = "ignore",
    max_real_samples: int | None = None,
    seed: int = 0,
) -> ExperimentData:
    """Read, draw and check everything that the arms need before anything trains; arguments as in `eval.utility`.

    Raises:
        UserError: folders, labels, numbers of images or patients do not fit.
    """
    dataset = existing_folder(real, "--real")
    if (dataset / "metadata.csv").is_file():
        raise UserError(f"--real {real} is one split: give the dataset folder that holds {', '.join(SPLITS)}")
    splits = {split: read_folder(split_folder(dataset, split), "--real") for split in SPLITS}
    samples = read_samples(synthetic)
    if samples.folder.resolve().is_relative_to(dataset.resolve()):
        raise UserError(f"--synthetic {synthetic} lies in --real")
    known = {split: Labelled(images, truth_of(images, labels, uncertain, "--real")) for split, images in splits.items()}
    made = Labelled(samples, truth_of(samples, labels, uncertain, "--synthetic"))
    warnings = check_patients(splits, samples)
    n_real = len(known["train"].images) if max_real_samples is None else max_real_samples
    draws = np.random.default_rng(seed)
    train = known["train"].take(np.sort(_draw(len(known["train"].images), n_real, draws, "--max_real_samples", real)))
    factors = {stage.factor for arm in arms for stage in arm.stages if stage.factor}
    needed = {factor: round(factor * n_real) for factor in factors}
    most = max(needed.values(), default=0)
    if most > len(samples):
        arm = next(arm.name for arm in arms if any(stage.factor == max(factors) for stage in arm.stages))
        raise UserError(
            f"--arms {arm} needs {most} synthetic images ({max(factors):g} × {n_real} real ones) and {synthetic} has "
            f"{len(samples)}: generate more, or lower --synthetic_factor or --max_real_samples"
        )
    made = made.take(draws.permutation(len(samples))[:most])
    sources = {
        "the real training images": train.learnable,
        "the validation split": known["validation"].learnable,
        "the test split": known["test"].learnable,
    } | {f"{n} synthetic images": made.take(np.arange(n)).learnable for n in sorted(set(needed.values()))}
    chosen, absent = choose_findings(findings, sources)
    train, validation, test, made = (
        part.take(np.arange(len(part.images)), chosen) for part in (train, known["validation"], known["test"], made)
    )
    return ExperimentData(train, validation, test, made, left_out(absent, "not both classes in"), warnings)


def _draw(n: int, wanted: int, draws: np.random.Generator, flag: str, where: str) -> np.ndarray:
    if not 0 < wanted <= n:
        raise UserError(f"{flag} {wanted}: {where} has {n} training images")
    return draws.permutation(n)[:wanted]


def check_patients(splits: dict[str, ImageFolder], samples: ImageFolder) -> list[str]:
    """Refuse patients in two of training, validation and test; warn of prompts whose patient is unknown.

    Raises:
        UserError: a patient is in two splits, or that of a prompt in validation or test.
    """
    patients = {split: set(_patients(images)) - {""} for split, images in splits.items()}
    prompts = samples.prompt_ids or samples.ids
    of_samples = _patients(samples)
    for one, other in combinations(SPLITS, 2):
        if both := sorted(patients[one] & patients[other]):
            raise UserError(f"{len(both)} patients are in the splits {one} and {other} (first: {both[0]})")
    for split in ("validation", "test"):
        ids = set(image_ids(splits[split].rows))
        seen = [i for i, name in enumerate(prompts) if name in ids or of_samples[i] in patients[split]]
        if seen:
            raise UserError(
                f"the prompts of {len(seen)} of {len(samples)} synthetic images are of patients of the {split} split "
                f"(first: {prompts[seen[0]]}): a classifier that learnt from them cannot be judged there; generate "
                f"from the training split"
            )
    known = set(image_ids(splits["train"].rows))
    unknown = sum(name not in known and not patient for name, patient in zip(prompts, of_samples, strict=True))
    if not unknown:
        return []
    return [f"{unknown} of {len(samples)} prompts are not of --real: whose they are cannot be checked"]


def _patients(images: ImageFolder) -> list[str]:
    return images.rows["subject_id"].tolist() if "subject_id" in images.rows else [""] * len(images)


def write_training_set(folder: Path, training_set: TrainingSet, data: ExperimentData) -> None:
    """Write a dataset folder for train.py: links to the images of a training set, and labels.csv by dicom_id."""
    parts: list[pd.DataFrame] = []
    chosen: dict[str, Labelled] = {"real": data.train} if training_set.real else {}
    if training_set.factor:
        chosen["synthetic"] = data.synthetic.take(np.arange(data.n_synthetic(training_set)))
    for kind, part in chosen.items():
        names = [f"{kind}/{name}" for name in part.images.rows["file_name"]]
        for name, source in zip(names, part.images.paths, strict=True):
            link(source, inside(folder / "train", name))
        about: dict[str, Any] = {"file_name": names, "text": "", "subject_id": _patients(part.images)}
        # Ids of prompts repeat, file names do not.
        parts.append(pd.DataFrame(about | {"dicom_id": names}).join(part.truth))
    rows = pd.concat(parts, ignore_index=True)
    with atomic(folder / "labels.csv") as temporary:
        rows[["dicom_id", *data.findings]].to_csv(temporary, index=False)
    write_metadata(folder / "train", rows[["file_name", "text", "subject_id", "dicom_id"]])


def link(source: Path, target: Path) -> None:
    """Link a file under another name: a hard link, or a symbolic one across file systems.

    Raises:
        UserError: the source does not exist.
    """
    source = source.resolve()
    if not source.is_file():
        raise UserError(f"{source} is named in metadata.csv and does not exist")
    if target.is_file() and target.samefile(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        target.symlink_to(source)
