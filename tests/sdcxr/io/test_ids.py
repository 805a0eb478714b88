"""Ids in the spellings of spreadsheets and data frames."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcxr.io.ids import print_join, read_ids, read_patients
from sdcxr.runtime.errors import UserError

NUMBERS = st.integers(0, 10**15 - 1).map(str)
NAMES = st.from_regex(r"[0-9A-Za-z][0-9A-Za-z_-]{0,40}", fullmatch=True)


@pytest.mark.parametrize(
    ("cell", "identity"),
    [
        ("50000000", "50000000"),
        ("50000000.0", "50000000"),
        ("50000000.", "50000000"),
        (" 50000000", "50000000"),
        ("50000000\u00a0", "50000000"),
        ("\ufeff50000000", "50000000"),
        ("'50000000", "50000000"),
        ('"50000000"', "50000000"),
        ('="50000000"', "50000000"),
        ("5.0000123E+07", "50000123"),
        ("5.00001230e+07", "50000123"),
        ("s50000000", "50000000"),
        ("S50000000.0", "50000000"),
        ("00000001", "00000001"),
        ("00000193_019", "00000193_019"),
        ("00005e07", "00005e07"),  # hexadecimal
        ("study 7", "study 7"),
        ("1.5", "1.5"),
        ("1.2.840.0", "1.2.840.0"),
        ("", ""),
        ("nan", ""),
        (" NA ", ""),
        ("<NA>", ""),
        (None, ""),
        (float("nan"), ""),
        (50000000.0, "50000000"),
        (50000000, "50000000"),
    ],
)
def test_an_id_has_one_spelling(cell, identity):
    assert read_ids(pd.Series([cell, "x"], dtype=object), "s").tolist() == [identity, "x"]


@pytest.mark.parametrize("dtype", ["int64", "Int64", "float64", "str", "category"])
def test_an_id_has_one_spelling_in_any_type_of_column(dtype):
    ids = pd.Series([50000123, 50000124], index=[7, 9]).astype(dtype)
    assert read_ids(ids).to_dict() == {7: "50000123", 9: "50000124"}


@pytest.mark.parametrize("cell", ["5.04E+07", "5.00E+07", "5.00001e+07"])
def test_a_number_that_lost_digits_is_refused_with_its_row(cell):
    with pytest.raises(UserError, match=rf"t\.csv, study_id: {cell[:4]}.* in row 2 is a number that has lost digits"):
        read_ids(pd.Series(["", cell]), where="t.csv, study_id")


def test_the_round_numbers_of_r_are_exact_beside_others_in_full():
    assert read_ids(pd.Series(["5e+07", "50000001"])).tolist() == ["50000000", "50000001"]
    with pytest.raises(UserError, match=r"5e\+07 in row 1"):
        read_ids(pd.Series(["5e+07", "12"]))


@given(st.lists(NUMBERS, min_size=1, max_size=4), st.sampled_from(["", " ", "'", '"', "="]), st.booleans())
def test_numbers_come_back_from_floats_quotes_and_prefixes(numbers, around, as_float):
    cells = [f"{around}s{number}{'.0' if as_float else ''}{around}" for number in numbers]
    assert read_ids(pd.Series(cells), "s").tolist() == numbers


@given(st.integers(10**7, 10**9))
def test_scientific_notation_is_exact_or_refused(number):
    full = f"{number:.9E}"
    assert read_ids(pd.Series([full])).tolist() == [str(number)]
    with pytest.raises(UserError, match="lost digits"):
        read_ids(pd.Series([f"{number:.2E}"]))


@given(st.lists(NAMES, min_size=1, max_size=4))
def test_names_are_kept_and_reading_twice_changes_nothing(names):
    once = read_ids(pd.Series(names, dtype=object))
    assert [one for one in once if one] == [name for name in names if name.lower() not in ("na", "nan", "none", "null")]
    assert read_ids(once).tolist() == once.tolist()


def test_a_join_says_how_much_it_found(capsys):
    print_join("reports", pd.Series(["1", "2", "2", "3"]), {"1", "2"}, "studies", "reports.zip")
    assert capsys.readouterr() == ("reports: 2 of 3 studies\n", "")
    print_join("reports", pd.Series(["1", "2", "3"]), {"1"}, "studies", "reports.zip")
    assert capsys.readouterr() == ("", "warning: reports: 1 of 3 studies only; reports.zip lacks 2\n")
    print_join("reports", pd.Series([], dtype=object), {"1"}, "studies", "reports.zip")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("known", "has"), [(["s9"], "it has s9"), ([], "it is empty")])
def test_a_join_that_finds_nothing_names_an_id_of_each_side(known, has):
    with pytest.raises(UserError, match=rf"reports: none of the 2 studies is in a\.zip \(looked for 1; {has}\)"):
        print_join("reports", pd.Series(["1", "2", "2"]), known, "studies", "a.zip")


@pytest.mark.parametrize(
    ("cells", "ids"),
    [
        (["7", "00007", "00007", "8"], ["00007", "00007", "00007", "8"]),
        (["7", "00007"], ["00007", "00007"]),
        (["7", "7", "00007", ""], ["7", "7", "7", ""]),
        (["0", "00", "1"], ["00", "00", "1"]),
        (["7", "00007", "a7"], ["7", "00007", "a7"]),
        (["7", "70", "07.0"], ["07", "70", "07"]),
    ],
)
def test_a_patient_has_one_spelling_with_and_without_leading_zeros(cells, ids):
    assert read_patients(pd.Series(cells, dtype=object, name="patient")).tolist() == ids


def test_patients_that_are_taken_as_the_same_are_counted(capsys):
    read_patients(pd.Series(["7", "00007", "8"]), where="t.csv, Patient ID")
    assert "t.csv, Patient ID: 1 patients are written with and without leading zeros" in capsys.readouterr().err
