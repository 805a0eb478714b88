"""Which rows enter a computation: whole groups, halves, subsets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics.bootstrap import disjoint_halves, group_rows, half_samples, random_subsets, validate_features


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
