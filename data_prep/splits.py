"""Train, validation and test splits by patient: by folder, by hash, official; no patient in two splits."""

import pandas as pd

from data_prep.filters import hash_order

TEST_FOLDER = "p19"  # MIMIC-CXR's ten patient folders p10 … p19; RoentGen and ChexGen test on the last

# In tables and as names of folders, in small letters.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validate": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}

OFFICIAL_SPLITS = {"train": "train", "validate": "validation", "test": "test"}


def folder_splits(subject_id: pd.Series, validation_fraction: float, seed: int) -> pd.Series:
    """RoentGen's split: p19 is test, p10–p18 train, except a hashed share of the patients for validation.

    Patients outside these folders get no split ("").
    """
    folder = "p" + subject_id.str[:2]
    split = pd.Series("train", index=subject_id.index, dtype=object)
    split[hash_order(subject_id, seed) < validation_fraction] = "validation"
    split[folder == TEST_FOLDER] = "test"
    split[~folder.str.fullmatch("p1[0-9]")] = ""
    return split


def hash_splits(subject_id: pd.Series, validation_fraction: float, test_fraction: float, seed: int) -> pd.Series:
    """Random split by patient, for datasets without an official one; deterministic, from `hash_order`."""
    order = hash_order(subject_id, seed)
    split = pd.Series("train", index=subject_id.index, dtype=object)
    split[order < validation_fraction + test_fraction] = "test"
    split[order < validation_fraction] = "validation"
    return split


def official_splits(dicom_id: pd.Series, table: pd.DataFrame) -> pd.Series:
    """Official split of MIMIC-CXR-JPG, in this package's names; "" for images that are not in its table."""
    of_image = table.drop_duplicates("dicom_id").set_index("dicom_id")["split"].map(OFFICIAL_SPLITS)
    return dicom_id.map(of_image).fillna("").astype(object)


def shared_patients(rows: pd.DataFrame) -> list[str]:
    """Patients in more than one split: leakage between training and test."""
    n_splits = rows.groupby("subject_id")["split"].nunique()
    return sorted(n_splits.index[n_splits > 1])
