"""Tests of eval.scores on vectors worked by hand and against the definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.scores import auroc, interval, macro

NAN = float("nan")


@pytest.mark.parametrize(
    ("labels", "scores", "area"),
    [
        ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 0.75),  # three of four pairs in order
        ([0, 1], [0.2, 0.9], 1.0),
        ([1, 0], [0.2, 0.9], 0.0),
        ([1, 0, 1, 0], [0.5, 0.5, 0.5, 0.5], 0.5),  # ties count one half
        ([1, 0, 0], [0.5, 0.5, 0.1], 0.75),
        ([1, 0, NAN], [0.9, 0.1, 0.0], 1.0),  # unknown ones are left out
    ],
)
def test_auroc_by_hand(labels, scores, area):
    assert auroc(np.array(labels, float), np.array(scores)) == area


@pytest.mark.parametrize("labels", [[1, 1], [0, 0], [NAN, 1], []])
def test_one_class_has_no_auroc(labels):
    assert np.isnan(auroc(np.array(labels, float), np.zeros(len(labels))))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=30))
def test_auroc_is_the_share_of_pairs_in_order(pairs):
    positive = [score for label, score in pairs if label]
    negative = [score for label, score in pairs if not label]
    wins = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    labels, scores = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs], float)
    np.testing.assert_allclose(auroc(labels, scores), np.mean(wins) if wins else NAN)


def test_macro_is_the_mean_over_the_columns_with_both_classes():
    labels = np.array([[0, 1, 1], [1, 0, 1]], float)
    scores = np.array([[0.1, 0.1, 0.5], [0.9, 0.9, 0.5]])
    assert macro(labels, scores) == 0.5  # 1, 0, and one that is left out
    assert np.isnan(macro(labels[:, 2:], scores[:, 2:]))


def test_the_interval_covers_the_area_of_the_population():
    draws = np.random.default_rng(1)
    covered = 0
    for repeat in range(40):
        labels = (draws.random((200, 1)) < 0.5).astype(float)
        scores = draws.normal(size=(200, 1)) + labels  # an area of Φ(1/√2) = 0.760
        low, high = interval(labels, scores, np.arange(200), resamples=100, seed=repeat)
        assert 0 < high - low < 0.25
        covered += low < 0.760 < high
    assert covered >= 34


def test_whole_groups_are_drawn():
    draws = np.random.default_rng(2)
    labels = (draws.random(60) < 0.5).astype(float)[:, None]
    scores = draws.normal(size=(60, 1)) + labels
    low, high = interval(labels, scores, np.arange(60))
    copies = [np.repeat(values, 4, axis=0) for values in (labels, scores)]
    grouped = interval(*copies, np.repeat(np.arange(60), 4))
    np.testing.assert_allclose(grouped, (low, high))  # copies of a row add nothing
    apart = interval(*copies, np.arange(240))
    assert apart[1] - apart[0] < 0.7 * (high - low)
