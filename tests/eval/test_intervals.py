"""Bootstrap intervals: groups are drawn whole, unknown values do not count."""

import numpy as np
import pytest

from eval.intervals import group_interval, mean, median

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
