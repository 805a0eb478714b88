"""Patients on both sides of a split, and of the prompts of synthetic images: refused where they would leak."""

from collections.abc import Mapping
from itertools import combinations

import pandas as pd

from sdcxr.io.manifest import image_ids
from sdcxr.runtime.errors import UserError


def check_splits(splits: Mapping[str, pd.DataFrame]) -> None:
    """Refuse a patient who is in two splits; rows without a `subject_id` are not compared.

    Raises:
        UserError: names both splits and the first patient.
    """
    patients = {name: set(_patients(rows)) - {""} for name, rows in splits.items()}
    for one, other in combinations(patients, 2):
        if both := sorted(patients[one] & patients[other]):
            raise UserError(f"{len(both)} patients are in the splits {one} and {other} (first: {both[0]})")


def check_prompts(samples: pd.DataFrame, train: pd.DataFrame, held_out: Mapping[str, pd.DataFrame]) -> int:
    """Refuse synthetic images whose prompts, or patients, are of a held-out split.

    Args:
        samples: rows of a samples folder; the prompt of each is its `id` (else its dicom_id).
        train: rows of the training split.
        held_out: rows of the other splits by name.

    Returns:
        How many prompts are not of the training split and name no patient: whose they are cannot be checked.

    Raises:
        UserError: counts them.
    """
    prompts, patients = prompt_ids(samples), pd.Series(_patients(samples), samples.index)
    for split, rows in held_out.items():
        seen = prompts.isin(set(image_ids(rows))) | patients.isin(set(_patients(rows)) - {""})
        if seen.any():
            raise UserError(
                f"the prompts of {int(seen.sum())} of {len(samples)} synthetic images are of patients of the {split} "
                f"split (first: {prompts[seen].iloc[0]}): a classifier that learnt from them cannot be judged there; "
                "generate from the training split"
            )
    return int((~prompts.isin(set(image_ids(train))) & (patients == "")).sum())


def prompt_ids(samples: pd.DataFrame) -> pd.Series:
    """Id of the prompt of each synthetic image."""
    return samples["id"].astype(str) if "id" in samples else image_ids(samples)


def _patients(rows: pd.DataFrame) -> list[str]:
    return rows["subject_id"].astype(str).tolist() if "subject_id" in rows else [""] * len(rows)
