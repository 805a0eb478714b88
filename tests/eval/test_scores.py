"""Tests of score rows as text."""

import math

import pytest

from eval.scores import score_row, value_text


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (0.5, 0.25, 0.75, "0.500 (0.250–0.750)"),
        (0.0, math.nan, math.nan, "0.000"),
        (0.0, math.nan, 1.0, "0.000"),
        (0.5, None, None, "0.500"),
        (math.nan, math.nan, math.nan, "not defined"),
        (None, None, None, "not defined"),
    ],
)
def test_no_interval_is_written_where_there_is_none(value, low, high, text):
    assert value_text(score_row("auroc", value, ci_low=low, ci_high=high)) == text


def test_a_missing_row_is_not_defined():
    assert value_text(None) == "not defined"
