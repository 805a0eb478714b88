"""Vendi score: closed forms, refusals, and the width of its interval. The published kernel: eval.known_answers."""

import numpy as np
import pytest

from eval.metrics.vendi import vendi, vendi_interval
from sdcxr.runtime.errors import UserError


@pytest.mark.parametrize("dimension", [3, 50])  # with more and with fewer images than dimensions
def test_vendi_of_equal_images_is_one_and_of_orthogonal_ones_n(dimension):
    assert vendi(np.ones((20, dimension))) == pytest.approx(1)
    assert vendi(np.eye(dimension)) == pytest.approx(dimension)
    assert vendi(np.repeat(np.eye(dimension), 4, axis=0)) == pytest.approx(dimension)


def test_vendi_does_not_see_the_length_of_features():
    features = np.random.default_rng(0).normal(size=(10, 4))
    assert vendi(features) == pytest.approx(vendi(features * np.arange(1, 11)[:, None]))


def test_vendi_refuses_nan():
    with pytest.raises(UserError, match="finite"):
        vendi(np.array([[1.0, np.nan]]))


def test_features_without_direction_are_refused():
    with pytest.raises(UserError, match="2 of 4 feature rows are all zeros"):
        vendi(np.diag([1.0, 1.0, 0.0, 0.0]))


def test_vendi_interval_is_as_wide_as_the_score_varies():
    draws = np.random.default_rng(0)
    sets = [draws.normal(size=(200, 5)) + 1 for _ in range(30)]
    spread = np.std([vendi(features) for features in sets])
    widths = [np.subtract(*vendi_interval(features, np.arange(200))[::-1]) for features in sets[:5]]
    assert np.mean(widths) == pytest.approx(2 * 1.96 * spread, rel=0.35)


def test_vendi_interval_holds_the_value_and_is_narrower_with_more_images():
    features = np.random.default_rng(0).normal(size=(600, 5)) + 1
    widths = []
    for n in (60, 600):
        low, high = vendi_interval(features[:n], np.arange(n))
        assert low < vendi(features[:n]) < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2
    assert np.isnan(vendi_interval(features[:5], np.zeros(5))).all()
