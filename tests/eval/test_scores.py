"""Tests of score rows as text."""

import math

import numpy as np
import pytest

from eval.metrics.bootstrap import Interval
from eval.scores import ALL_EQUAL, Result, read_scores, score_row, value_text
from sdcxr.runtime.errors import UserError


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


def test_an_interval_without_width_is_none_with_a_note():
    equal = score_row("auroc", 1.0, Interval(1.0, 1.0, np.ones(9)))
    rank = score_row("rank", 2.0, Interval(2.0, 2.0, np.array([1.0, *9 * [2.0], 3.0])))  # its resamples differ
    rows = Result([equal, rank | {"notes": ["n"]}, score_row("copy_share", 0.0, (0.0, 0.1))]).rows
    assert [(row["ci_low"], row["ci_high"], row["notes"]) for row in rows] == [
        (None, None, [ALL_EQUAL]),
        (2.0, 2.0, ["n"]),
        (0.0, 0.1, []),
    ]


@pytest.mark.parametrize("content", ["{}", "[1]", '[{"metric": "auroc"}]'])
def test_other_files_than_scores_are_no_scores(tmp_path, content):
    (tmp_path / "u.json").write_text(content)
    with pytest.raises(UserError, match=r"u\.json is no scores\.json: a list of rows with metric, label"):
        read_scores(tmp_path / "u.json")
