"""Splits by patient: by folder, official, and what is in two of them."""

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from data_prep import splits


def test_folder_splits():
    subject = pd.Series([f"1{folder}{n:06d}" for folder in range(10) for n in range(2000)])
    split = splits.folder_splits(subject, 0.02, 0)
    assert set(split[subject.str.startswith("19")]) == {"test"}
    assert set(split[~subject.str.startswith("19")]) == {"train", "validation"}
    assert 0.015 < (split[:18_000] == "validation").mean() < 0.025
    assert (splits.folder_splits(subject, 0.0, 0) != "validation").all()
    assert splits.folder_splits(pd.Series(["20000000", "1", "x"]), 0.02, 0).tolist() == ["", "", ""]


def test_official_splits():
    table = pd.DataFrame({"dicom_id": ["a", "b", "c", "c"], "split": ["train", "validate", "test", "train"]})
    assert splits.official_splits(pd.Series(["c", "a", "z", "b"]), table).tolist() == [
        "test",
        "train",
        "",
        "validation",
    ]


@given(st.lists(st.tuples(st.sampled_from("ABCD"), st.sampled_from(["train", "test"])), min_size=1))
def test_shared_patients(pairs):
    rows = pd.DataFrame(pairs, columns=["subject_id", "split"])
    expected = [p for p in "ABCD" if {(p, "train"), (p, "test")} <= set(pairs)]
    assert splits.shared_patients(rows) == expected
