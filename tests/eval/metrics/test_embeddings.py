"""Embeddings of two encoders: what a probe finds, and what their similarity does not feel."""

import numpy as np
import pytest

from eval.metrics.embeddings import linear_cka, neighbours_kept, probe


def test_a_probe_finds_the_direction_of_a_finding():
    draws = np.random.default_rng(0)
    train, test = (
        draws.normal(size=(300, 6)) * [1, 1, 1, 1, 1e-3, 0],
        draws.normal(size=(200, 6)) * [1, 1, 1, 1, 1e-3, 0],
    )
    labels = np.where(train[:, 4] > 0, 1.0, 0.0)
    labels[:50] = np.nan
    scores = probe(train, labels, test)
    assert np.corrcoef(scores, test[:, 4])[0, 1] > 0.97  # however small its scale


def test_cka_is_blind_to_rotation_scale_and_shift_but_not_to_other_changes():
    draws = np.random.default_rng(0)
    vectors = draws.normal(size=(200, 8))
    rotation = np.linalg.qr(draws.normal(size=(8, 8)))[0]
    assert linear_cka(vectors, 3 * vectors @ rotation + 5) == pytest.approx(1)
    assert linear_cka(vectors, draws.normal(size=(200, 5))) < 0.2
    kernels = [(v - v.mean(0)) @ (v - v.mean(0)).T for v in (vectors, vectors**3)]  # the same from Gram matrices
    expected = (kernels[0] * kernels[1]).sum() / np.sqrt((kernels[0] ** 2).sum() * (kernels[1] ** 2).sum())
    assert linear_cka(vectors, vectors**3) == pytest.approx(expected)
    assert np.isnan(linear_cka(vectors, np.ones((200, 3))))


def test_neighbours_by_hand():
    angles = np.array([0.0, 0.1, 0.3, 1.0, 1.1])
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_array_equal(neighbours_kept(circle, circle * 2, 2), 1)
    swapped = circle[[0, 1, 4, 3, 2]]
    np.testing.assert_array_equal(neighbours_kept(circle, swapped, 1), [1, 1, 0, 0, 0])
