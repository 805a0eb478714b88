"""The filters: boundaries, repair, and independence from the order of the rows."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import filters


def images(n: int, no_finding: float = 1.0) -> pd.DataFrame:
    ids = [f"image{number}" for number in range(n)]
    return pd.DataFrame({"dicom_id": ids, "split": "train", "No Finding": no_finding})


def kept(rows: pd.DataFrame, cap: int, seed: int = 0) -> set[str]:
    return set(rows["dicom_id"][filters.cap_reasons(rows, cap, seed) == ""])


def test_length_boundaries_are_inclusive():
    text = pd.Series(["x" * n for n in (0, 6, 7, 8, 76, 77, 78, 500)])
    short, fine, long = "impression too short", "", "impression too long"
    assert filters.length_reasons(text, 7, 77).tolist() == [short, short, fine, fine, fine, fine, long, long]


@pytest.mark.parametrize(
    ("position", "code", "procedure", "view"),
    [
        ("PA", "lateral", "CHEST (PORTABLE AP)", "PA"),  # what is there is not repaired
        (" pa ", "", "", "PA"),
        ("", "postero-anterior", "CHEST (PORTABLE AP)", "PA"),
        ("", "antero-posterior", "", "AP"),
        ("", "lateral", "", "LATERAL"),
        ("", "Left Lateral", "", "LL"),
        ("", "", "CHEST (PORTABLE AP)", "AP"),
        ("", "", "CHEST (PA ONLY)", "PA"),
        ("", "", "CHEST (LAT)", "LATERAL"),
        ("", "", "CHEST (PA AND LAT)", ""),  # either
        ("", "", "CHEST (SINGLE VIEW)", ""),
        ("", "oblique", "TRAP IN A PATIENT", ""),
        ("", "", "", ""),
    ],
)
def test_views_are_repaired_from_the_code_then_the_procedure(position, code, procedure, view):
    columns = ["ViewPosition", "ViewCodeSequence_CodeMeaning", "PerformedProcedureStepDescription"]
    table = pd.DataFrame([[position, code, procedure], ["PA", "x", "x"]], columns=columns)
    assert filters.repaired_views(table).tolist() == [view, "PA"]
    if not code and not procedure:
        assert filters.repaired_views(table[["ViewPosition"]]).tolist() == [view, "PA"]


def test_view_reasons():
    reasons = filters.view_reasons(pd.Series(["PA", "AP", "", "LL"]), ["PA", "LL"])
    assert reasons.tolist() == ["", "view not wanted", "view unknown", ""]


def test_the_cap_concerns_training_images_without_finding_only():
    other = [images(5, 0.0), images(5, np.nan), images(5).assign(split="test"), images(5).assign(split="validation")]
    rows = pd.concat(
        [images(10), *(table.assign(dicom_id=f"{n}" + table["dicom_id"]) for n, table in enumerate(other))]
    )
    rows = rows.reset_index(drop=True)
    dropped = filters.cap_reasons(rows, 3, 0) == "over the No Finding cap"
    assert dropped.sum() == 7
    assert not dropped[10:].any()
    assert (filters.cap_reasons(rows, 10, 0) == "").all()
    assert (filters.cap_reasons(rows, 0, 0) == "").sum() == 20


@given(st.permutations(range(40)), st.integers(0, 40), st.integers(0, 40), st.integers(0, 3))
@settings(max_examples=60)
def test_the_cap_is_stable_under_order_and_nested(order, cap, other_cap, seed):
    rows = images(40)
    shuffled = rows.iloc[order].reset_index(drop=True)
    assert kept(rows, cap, seed) == kept(shuffled, cap, seed)
    small, large = sorted((cap, other_cap))
    assert kept(rows, small, seed) <= kept(rows, large, seed)


def test_the_seed_changes_what_is_kept():
    assert kept(images(40), 20, 0) != kept(images(40), 20, 1)


def test_the_limit_is_nested():
    rows = images(40)
    small, large = (rows["dicom_id"][filters.limit_reasons(rows, n, 0) == ""] for n in (5, 9))
    assert len(small) == 5
    assert set(small) < set(large)


def test_hash_order_is_uniform_and_fixed():
    numbers = filters.hash_order(pd.Series([str(n) for n in range(10_000)]), 0)
    assert numbers.between(0, 1, inclusive="left").all()
    assert abs(numbers.mean() - 0.5) < 0.01
    # A dataset prepared again years later must get the same patients.
    assert filters.hash_order(pd.Series(["10000032"]), 0).iloc[0] == pytest.approx(0.0884467, abs=1e-7)
