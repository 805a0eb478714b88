"""Ranks against sorted lists, ties, and chance against shuffles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics.retrieval import (
    chance_median_rank,
    chance_recall,
    chance_reciprocal_rank,
    cosine,
    first_ranks,
    precision_at,
)

SIMILARITY = np.array([[0.9, 0.5, 0.7, 0.1]])


@pytest.mark.parametrize(
    ("belongs", "rank", "precision_at_2"),
    [
        ([1, 0, 0, 0], 1, 0.5),
        ([0, 1, 0, 0], 3, 0.0),
        ([0, 1, 1, 0], 2, 0.5),  # the best of two counts
        ([1, 0, 1, 0], 1, 1.0),
        ([0, 0, 0, 0], np.nan, 0.0),
    ],
)
def test_ranks_and_precision_by_hand(belongs, rank, precision_at_2):
    belongs = np.array([belongs], dtype=bool)
    np.testing.assert_equal(first_ranks(SIMILARITY, belongs), [rank])
    assert precision_at(SIMILARITY, belongs, 2) == [precision_at_2]


def test_what_is_not_in_the_gallery_is_not_counted():
    belongs, allowed = np.array([[False, True, False, True]]), np.array([[False, True, True, True]])
    assert first_ranks(SIMILARITY, belongs, allowed) == [2]
    assert precision_at(SIMILARITY, belongs, 3, allowed) == [2 / 3]
    assert np.isnan(first_ranks(SIMILARITY, belongs, ~belongs))
    assert np.isnan(precision_at(SIMILARITY, belongs, 4, allowed))  # three are left
    assert np.isnan(precision_at(SIMILARITY, belongs, 5))


@given(st.integers(0, 2**32), st.integers(1, 8))
def test_the_worst_order_among_ties_is_taken(seed, k):
    draws = np.random.default_rng(seed)
    similarity = draws.integers(0, 3, (4, 8)).astype(float)
    belongs = draws.random((4, 8)) < 0.4
    allowed = draws.random((4, 8)) < 0.8
    for row in range(4):
        order = [i for i in np.lexsort((belongs[row], -similarity[row])) if allowed[row, i]]
        places = [place for place, i in enumerate(order, 1) if belongs[row, i]]
        rank = first_ranks(similarity, belongs, allowed)[row]
        assert rank == places[0] if places else np.isnan(rank)
        precision = precision_at(similarity, belongs, k, allowed)[row]
        assert precision == np.mean(belongs[row, order[:k]]) if len(order) >= k else np.isnan(precision)


def test_constant_embeddings_find_nothing():
    constant = np.ones((50, 8), np.float32) * 0.1
    ranks = first_ranks(cosine(constant, constant), np.eye(50, dtype=bool))
    np.testing.assert_array_equal(ranks, 50)


def test_rounding_noise_of_float32_is_a_tie():
    draws = np.random.default_rng(0)
    noisy = (np.full((50, 8), 0.3) * (1 + 1e-7 * draws.normal(size=(50, 8)))).astype(np.float32)
    queries = np.tile(np.eye(8)[0], (50, 1))  # at an angle: between parallel vectors the noise would be squared
    assert len(np.unique(queries @ noisy.T)) > 1
    np.testing.assert_array_equal(first_ranks(cosine(queries, noisy), np.eye(50, dtype=bool)), 50)


def test_zero_vectors_are_unlike_everything():
    np.testing.assert_array_equal(cosine(np.zeros((1, 3)), np.eye(3)), 0)


def test_random_embeddings_of_a_thousand_are_at_chance():
    draws = np.random.default_rng(0)
    ranks = first_ranks(cosine(draws.normal(size=(1000, 64)), draws.normal(size=(1000, 64))), np.eye(1000, dtype=bool))
    n, one = np.full(1000, 1000), np.ones(1000)
    for k in (1, 5, 10):
        share = chance_recall(n, one, k)
        assert np.mean(ranks <= k) == pytest.approx(share, abs=4 * np.sqrt(share / 1000))
    assert chance_median_rank(n, one) == 500
    assert np.median(ranks) == pytest.approx(500, abs=50)


@pytest.mark.parametrize("belonging", [[1, 1, 1], [3, 1, 5], [7, 0, 2]])
def test_chance_is_what_shuffles_give(belonging):
    belonging = np.array(belonging)
    n, draws = np.array([8, 9, 10]), np.random.default_rng(1)
    ranks = []
    for size, right in zip(n, belonging, strict=True):
        if right:
            belongs = np.tile(np.arange(size) < right, (20000, 1))
            ranks.append(first_ranks(draws.random((20000, size)), belongs))
    ranks = np.concatenate(ranks)
    for k in (1, 2, 5):
        assert chance_recall(n, belonging, k) == pytest.approx(np.mean(ranks <= k), abs=0.01)
    assert chance_reciprocal_rank(n, belonging) == pytest.approx(np.mean(1 / ranks), abs=0.01)
    assert chance_median_rank(n, belonging) == np.median(ranks)


def test_without_anything_to_find_there_is_no_chance():
    n, none = np.array([5, 5]), np.zeros(2)
    assert np.isnan([chance_recall(n, none, 1), chance_reciprocal_rank(n, none), chance_median_rank(n, none)]).all()
