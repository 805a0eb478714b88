"""Fields of prompts: age, sex, race, view and findings in words."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcxr.text.fields import (
    age_words,
    chexpert_findings,
    finding_fields,
    join_words,
    person_fields,
    positive_findings,
    sex_words,
    view_words,
)


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("58", "58"), ("058Y", "58"), ("013M", "1"), ("020D", "0"), ("104W", "2"), ("58.0", "58"), (58.0, "58"),
        ("411", ""), ("", ""), ("unknown", ""), ("-3", ""), (float("nan"), ""),
    ],
)  # fmt: skip
def test_age(text, age):
    assert age_words(text) == age


@given(st.text())
def test_any_age_is_a_human_age_or_none(text):
    assert age_words(text) in ("", *map(str, range(121)))


@pytest.mark.parametrize(
    ("cell", "sex"),
    [("M", "male"), ("Female", "female"), (" f ", "female"), ("unknown", ""), ("", ""), ("nan", ""), ("X", "")],
)
def test_sex(cell, sex):
    assert sex_words(cell) == sex


@pytest.mark.parametrize(
    ("cell", "view"), [("PA", "PA"), ("LATERAL", "lateral"), ("LL", "left lateral"), ("unknown", ""), ("", "")]
)
def test_view(cell, view):
    assert view_words(cell) == view


def test_columns_of_persons_are_found_under_their_usual_names():
    table = pd.DataFrame({"Patient Age": ["058Y"], "GENDER": ["F"], "race": ["WHITE"], "sexton": [1]})
    assert {name: words.tolist() for name, words in person_fields(table).items()} == {
        "age": ["58"], "race": ["WHITE"], "sex": ["female"],
    }  # fmt: skip
    assert person_fields(pd.DataFrame({"text": ["a"]})) == {}


def test_no_finding_is_said_only_where_the_table_says_it():
    findings = pd.DataFrame({"no finding": [1, 0, np.nan, 1], "edema": [0, 0, np.nan, 1], "mass": [0, 0, -1, 0]})
    assert positive_findings(findings) == [["no finding"], [], [], ["edema"]]
    assert join_words(["a", "b", "c"]) == "a, b and c" and join_words([]) == ""


def test_fields_of_findings():
    rows = pd.DataFrame({"Edema": [1.0, 0, 0], "Pleural Other": [1.0, -1, 0], "No Finding": [np.nan, np.nan, 1]})
    fields = finding_fields(chexpert_findings(rows), pd.Series(["a", "b", "c"]), seed=0)
    assert fields["findings"].tolist() == ["edema and other pleural disease", "", "no finding"]
    assert fields["finding"].tolist()[1:] == ["", "no finding"] and fields["word"].tolist()[1:] == ["", "normal"]
    ids = pd.Series([f"i{n}" for n in range(400)])
    chosen = finding_fields([["edema", "mass"]] * 400, ids, seed=0)["finding"]
    assert 150 < (chosen == "edema").sum() < 250 and set(chosen) == {"edema", "mass"}
