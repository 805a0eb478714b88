"""Group bootstrap, halves and subsets: groups are drawn whole, unknown values do not count, draws are by seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics.bootstrap import (
    disjoint_halves,
    group_interval,
    group_rows,
    half_samples,
    mean,
    median,
    percentiles,
    random_subsets,
    resampled,
    resampled_sums,
    validate_features,
)
from eval.metrics.classification import Ranking

NAN = float("nan")


def test_intervals_have_the_width_of_the_normal_theory():
    values = np.random.default_rng(0).normal(5, 2, 400)
    low, high = group_interval(values, [str(i) for i in range(400)])
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.03)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_copies_of_an_image_do_not_narrow_the_interval():
    values = np.random.default_rng(0).normal(0, 1, 50)
    alone = group_interval(values, np.arange(50))
    tenfold = group_interval(np.repeat(values, 10), np.repeat(np.arange(50), 10))
    assert tenfold == pytest.approx(alone)
    as_if_independent = group_interval(np.repeat(values, 10), np.arange(500))
    assert as_if_independent[1] - as_if_independent[0] < 0.5 * (alone[1] - alone[0])


def test_the_statistic_is_of_the_drawn_rows():
    assert group_interval(np.array([1.0, 1.0, 9.0, 1.0, 1.0]), list("abcde"), median) == (1.0, pytest.approx(9.0))
    assert group_interval(np.full((6, 2), 3.0), list("aabbcc")) == (3.0, 3.0)


def test_unknown_values_do_not_count():
    assert mean(np.array([1.0, NAN, 3.0])) == 2
    assert np.isnan(mean(np.array([NAN])))
    assert mean(np.array([[1.0, 10.0], [3.0, NAN]])) == 6  # of the columns' means 2 and 10
    known = group_interval(np.array([1.0, 2.0, 3.0]), list("abc"))
    assert group_interval(np.array([1.0, NAN, 2.0, 3.0]), list("azbc")) == known


@pytest.mark.parametrize("values", [[1.0, 2.0], [1.0, NAN, NAN]])
def test_one_group_has_no_interval(values):
    assert np.isnan(group_interval(np.array(values), ["a"] * len(values))).all()


def test_the_interval_of_an_auroc_covers_that_of_the_population():
    draws = np.random.default_rng(1)
    covered = 0
    for repeat in range(40):
        labels = (draws.random(200) < 0.5).astype(float)
        scores = draws.normal(size=200) + labels  # an area of Φ(1/√2) = 0.760
        drawn = resampled([Ranking(labels, scores).auroc], np.arange(200), resamples=100, seed=repeat)
        low, high = percentiles(drawn[:, 0])
        assert 0 < high - low < 0.25
        covered += low < 0.760 < high
    assert covered >= 34


def test_statistics_share_their_draws_and_whole_groups_are_drawn():
    values = np.random.default_rng(0).normal(size=30)
    of = [
        lambda times: float(np.average(values, weights=times)),
        lambda times: float(np.average(values + 1, weights=times)),
    ]
    drawn = resampled(of, np.repeat(np.arange(10), 3))
    np.testing.assert_allclose(drawn[:, 1] - drawn[:, 0], 1)
    assert percentiles(drawn[:, 0]) == pytest.approx(group_interval(values, np.repeat(np.arange(10), 3)))
    seen = []
    resampled([lambda times: seen.append(times) or 0.0], np.repeat(np.arange(10), 3), resamples=3)
    assert all((times.reshape(10, 3) == times[::3, None]).all() and times.sum() == 30 for times in seen)
    assert np.isnan(resampled(of, ["a"] * 30)).all()
    assert np.isnan(percentiles(np.full(3, NAN))).all()


def test_sums_are_of_whole_groups():
    """Ten copies of two patients' values are no more than two values; twenty patients are."""
    values = np.array([0.0, 1.0] * 10)
    of_two = resampled_sums(values, ["a", "b"] * 10, seed=1) / 20
    of_twenty = resampled_sums(values, [str(i) for i in range(20)], seed=1) / 20
    assert set(np.unique(of_two)) == {0.0, 0.5, 1.0} and percentiles(of_two) == (0.0, 1.0)
    low, high = percentiles(of_twenty)
    assert 0.2 < low < 0.5 < high < 0.8


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40))
def test_groups_hold_every_row_once_in_the_order_of_their_first(groups):
    rows = group_rows(groups)
    assert sorted(np.concatenate(rows).tolist()) == list(range(len(groups)))
    assert [{groups[i] for i in members} for members in rows] == [{name} for name in dict.fromkeys(groups)]


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=40), st.integers(0, 5))
def test_halves_share_no_group(groups, seed):
    first, second = disjoint_halves(groups, np.random.default_rng(seed))
    assert sorted([*first, *second]) == list(range(len(groups)))
    assert not {groups[i] for i in first} & {groups[i] for i in second}
    largest = max(groups.count(name) for name in groups)
    assert abs(len(first) - len(second)) <= largest


def test_half_samples_are_half_of_the_groups_whole():
    groups = [str(i // 3) for i in range(60)]
    halves = half_samples(groups, 25, np.random.default_rng(0))
    assert halves.shape == (60, 25) and (halves.sum(axis=0) == 30).all()
    assert (halves.reshape(20, 3, 25).any(axis=1) == halves.reshape(20, 3, 25).all(axis=1)).all()
    assert len({half.tobytes() for half in halves.T}) == 25


def test_subsets_have_their_size():
    assert random_subsets(20, 7, 4, np.random.default_rng(0)).sum(axis=0).tolist() == [7] * 4


def test_arrays_become_float64():
    sides = validate_features(np.ones((2, 3), np.float16), np.ones((2, 3), np.float32))
    assert [side.dtype for side in sides] == [np.float64, np.float64]


@pytest.mark.parametrize("seed", [0, 1])
def test_draws_are_by_seed(seed):
    draws = [half_samples(list("abcdefgh"), 5, np.random.default_rng(seed)) for _ in range(2)]
    assert (draws[0] == draws[1]).all()
