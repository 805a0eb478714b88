"""Detection thresholds for copies and re-identified patients, fitted to real images of different patients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.inputs.folders import ImageFolder, patients_of
from eval.memorization.copies import copy_threshold
from eval.metrics.bootstrap import group_interval, mean
from eval.scores import score_row
from sdcxr.runtime.errors import UserError

FEWEST = 20  # real images that a threshold is fitted to
CALIBRATION = 1000  # training images matched with those of other patients


@dataclass(frozen=True)
class Detection:
    """A kind of memorisation: the names of its metrics and columns."""

    share_metric: str
    max_metric: str
    count_column: str
    positives: str
    """Images that are known to show it, in words."""


COPY_DETECTION = Detection("copy_share", "copy_correlation_max", "n_copies", "altered training images")


def match_other_patients(
    train: ImageFolder, match: Callable[[np.ndarray, np.ndarray], np.ndarray], seed: int
) -> np.ndarray:
    """Similarities of some training images with those of other patients; none unless all patients are known.

    Args:
        train: the images that are searched.
        match: gives the similarities of some training images (row numbers) with their best match of another patient
            (patients of all training images); -1 where there is none.
        seed: of the draw of these training images.
    """
    if train.n_unknown_patients:
        return np.zeros(0)
    others = match(np.random.default_rng(seed).permutation(len(train))[:CALIBRATION], patients_of(train))
    return others[others > -1]


def fit_threshold(of_held_out: np.ndarray, of_others: np.ndarray, n_queries: int) -> tuple[float, int]:
    """The similarity from which a match is a copy, and how many real images it was fitted to.

    Args:
        of_held_out: similarity of each held-out image with its best match.
        of_others: that of training images with other patients (`match_other_patients`).
        n_queries: number of images that will be compared with the threshold.

    Raises:
        UserError: there are fewer than FEWEST such images.
    """
    similarities = np.concatenate([of_held_out, of_others])
    if len(similarities) < FEWEST:
        raise UserError(
            f"{len(similarities)} real images of other patients: a threshold needs {FEWEST}. "
            f"Give more in --real, or --train with subject_id in its metadata.csv"
        )
    return copy_threshold(similarities, n_queries), len(similarities)


def leak_warning(n_copies: int, n_synthetic: int) -> str:
    """The warning about synthetic images that are copies of held-out ones."""
    return (
        f"{n_copies} of {n_synthetic} synthetic images are copies of images in --real: if the model was trained on "
        "them, they are not held out, and every score is too good"
    )


def detection_rows(
    detection: Detection,
    similarity: np.ndarray,
    threshold: float,
    with_held_out: np.ndarray,
    of_positives: np.ndarray,
    groups: Sequence[str],
    about: dict[str, Any],
) -> list[dict[str, Any]]:
    """Score rows: share of synthetic images above the threshold, and the highest similarity.

    The floor is the same statistic where nothing can be detected: matches with held-out images. Similarities are those
    with the best match: of synthetic images among training images, then among held-out images, and of images that are
    known to be positive, for the sensitivity (columns sensitivity, n_tested, n_found). Groups are the prompts of the
    synthetic images, `about` further columns.
    """
    detected = (similarity >= threshold).astype(float)
    low, high = group_interval(detected, groups, mean)
    if not detected.any():  # a bootstrap of zeros has no width: the rule of three
        high = min(1.0, 3 / len(set(groups)))
    sensitivity = float(np.mean(of_positives >= threshold)) if len(of_positives) else None
    tested = {"n_units": len(set(groups)), "sensitivity": sensitivity, "n_tested": len(of_positives)}
    tested |= {"n_found": int((of_positives >= threshold).sum())}
    notes = list(about["notes"])
    if (with_held_out >= threshold).any():
        notes.append("held-out images are found, too: the floor is no floor")
    if sensitivity is None:
        notes.append(f"sensitivity unknown: there are no {detection.positives}")
    elif sensitivity < 0.9:
        notes.append(f"the threshold finds only {sensitivity:.0%} of {detection.positives}")
    about = about | {"threshold": threshold}
    return [
        score_row(detection.share_metric, mean(detected), (low, high), images="synthetic")
        | {"floor": mean(with_held_out >= threshold)}
        | about
        | {detection.count_column: int(detected.sum()), "notes": notes}
        | tested,
        score_row(detection.max_metric, float(similarity.max()), images="synthetic")
        | {"floor": float(with_held_out.max())}
        | about,
    ]
