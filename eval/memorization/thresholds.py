"""From the best match of each synthetic image to a verdict: what likeness is too much among different patients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.diversity import patients_of
from eval.inputs.folders import ImageFolder
from eval.memorization.copies import copy_threshold
from eval.metrics.bootstrap import group_interval, mean
from eval.scores import score_row
from sdcxr.runtime.errors import UserError

FEWEST = 20  # real images from which a threshold can be fitted
CALIBRATION = 1000  # training images searched for their likes of other patients


@dataclass(frozen=True)
class Detection:
    """What is looked for, by the names of its rows and columns."""

    share: str
    highest: str
    number: str
    known: str
    """Images in which it is known to be, in words."""


COPIES = Detection("copy_share", "copy_correlation_max", "n_copies", "altered training images")


def calibrate(
    train: ImageFolder,
    of_held_out: np.ndarray,
    n_queries: int,
    to_others: Callable[[np.ndarray, np.ndarray], np.ndarray],
    seed: int,
) -> tuple[float, int]:
    """The correlation from which a match is a copy, and from how many real images of other patients it was fitted.

    Held-out images serve, and training images against those of other patients where patients are known.

    Args:
        train: the images that are searched.
        of_held_out: correlations of held-out images with their best match.
        n_queries: images that will be judged.
        to_others: the same of some training images (row numbers, and the patients of all) with other patients.
        seed: of the draw of these.

    Raises:
        UserError: there are fewer than FEWEST such images.
    """
    correlations = of_held_out
    if "subject_id" in train.rows and (train.rows["subject_id"] != "").all():
        patients = patients_of(train)
        chosen = np.random.default_rng(seed).permutation(len(train))[:CALIBRATION]
        others = to_others(chosen, patients)
        correlations = np.concatenate([correlations, others[others > -1]])
    if len(correlations) < FEWEST:
        raise UserError(
            f"{len(correlations)} real images of other patients: a threshold needs {FEWEST}. "
            f"Give more in --real, or --train with subject_id in its metadata.csv"
        )
    return copy_threshold(correlations, n_queries), len(correlations)


def found_rows(
    what: Detection,
    correlation: np.ndarray,
    threshold: float,
    with_held_out: np.ndarray,
    of_known: np.ndarray,
    groups: Sequence[str],
    about: dict[str, Any],
) -> list[dict[str, Any]]:
    """Share of images above a threshold, and the highest value; the floors are those of images that are innocent.

    Args:
        what: is looked for.
        correlation: of each synthetic image with its best match among the training images.
        threshold: from which it counts.
        with_held_out: the same where nothing is to be found.
        of_known: the same where something is, for the sensitivity.
        groups: the prompt of each synthetic image.
        about: further columns.
    """
    found = (correlation >= threshold).astype(float)
    low, high = group_interval(found, groups, mean)
    if not found.any():  # a bootstrap of zeros knows nothing: the rule of three
        high = min(1.0, 3 / len(set(groups)))
    sensitivity = float(np.mean(of_known >= threshold)) if len(of_known) else None
    notes = list(about["notes"])
    if sensitivity is None:
        notes.append(f"how many of {what.known} the threshold finds is unknown: there are none")
    elif sensitivity < 0.9:
        notes.append(f"the threshold finds only {sensitivity:.0%} of {what.known}")
    about = about | {"threshold": threshold}
    return [
        score_row(what.share, mean(found), images="synthetic", ci_low=low, ci_high=high)
        | {"floor": mean(with_held_out >= threshold)}
        | about
        | {what.number: int(found.sum()), "sensitivity": sensitivity, "notes": notes},
        score_row(what.highest, float(correlation.max()), images="synthetic")
        | {"floor": float(with_held_out.max())}
        | about,
    ]
