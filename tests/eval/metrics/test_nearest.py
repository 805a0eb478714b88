"""Nearest neighbours: AuthPct by hand, one half without memorisation, less with it, chunks that change nothing."""

import numpy as np
import pytest

from eval.metrics import nearest as neighbours
from eval.metrics.nearest import authentic, draw_patients, nearest, nearness


def column(*values: float) -> np.ndarray:
    return np.array(values)[:, None]


def test_authpct_by_hand():
    # 1 and 4 lie nearer to 0 than 10, its only neighbour, does; 30 lies farther from 10 than 0 does.
    values = authentic(column(1, 4, 30), column(0, 10))
    assert values.tolist() == [0, 0, 1]


def test_copies_are_not_authentic():
    train = np.random.default_rng(0).normal(size=(50, 6))
    assert authentic(train[:20] + 1e-9, train).sum() == 0


def test_nearest_is_that_of_brute_force_in_any_chunks(monkeypatch):
    draws = np.random.default_rng(0)
    queries, references = draws.normal(size=(23, 5)) + 100, draws.normal(size=(31, 5)) + 100
    subsets = [np.arange(31), draws.permutation(31)[:10]]
    expected = np.linalg.norm(queries[:, None] - references[None], axis=2)
    for cells in (10**6, 70):
        monkeypatch.setattr(neighbours, "CELLS", cells)
        distances, index = nearest(queries, references, subsets)
        assert distances[:, 0] == pytest.approx(expected.min(axis=1))
        assert (index[:, 0] == expected.argmin(axis=1)).all()
        assert distances[:, 1] == pytest.approx(expected[:, subsets[1]].min(axis=1))
        others, _ = nearest(references, references, subsets[:1], itself=np.arange(31))
        among = np.linalg.norm(references[:, None] - references[None], axis=2) + np.diag([np.inf] * 31)
        assert others[:, 0] == pytest.approx(among.min(axis=1))


def test_distance_of_equal_rows_is_zero_in_float32_far_from_the_origin():
    features = (np.random.default_rng(0).normal(size=(40, 300)) + 50).astype(np.float32)
    assert nearest(features, features, [np.arange(40)])[0].max() == 0


def test_without_memorisation_training_images_are_nearer_half_the_time():
    draws = np.random.default_rng(1)
    train, held_out, synthetic = draws.normal(size=(900, 8)), draws.normal(size=(300, 8)), draws.normal(size=(300, 8))
    found = nearness(synthetic, train, held_out, [str(i) for i in range(900)])
    assert found.n_each == 300
    assert found.nearer_train.mean() == pytest.approx(0.5, abs=0.05)
    assert np.median(found.log_ratio) == pytest.approx(0, abs=0.03)
    # All 900 training images against 300 held-out ones would look like memorisation.
    to_all = nearest(synthetic, train, [np.arange(900)])[0] < nearest(synthetic, held_out, [np.arange(300)])[0]
    assert to_all.mean() > 0.65


def test_memorisation_is_seen():
    draws = np.random.default_rng(2)
    train, held_out = draws.normal(size=(200, 8)), draws.normal(size=(200, 8))
    found = nearness(train + 0.1 * draws.normal(size=(200, 8)), train, held_out, [str(i) for i in range(200)])
    assert found.nearer_train.mean() > 0.95
    assert np.median(found.log_ratio) < np.log(0.3)


def test_equal_distances_count_one_half_and_exact_copies_of_both_have_ratio_one():
    found = nearness(column(0, 1), column(0, 1), column(0, 1), ["a", "b"])
    assert found.nearer_train.tolist() == [0.5, 0.5]
    assert found.log_ratio.tolist() == [0, 0]


def test_draws_take_whole_patients():
    groups = np.repeat(np.arange(10), 5).astype(str)
    for seed in range(5):
        rows = draw_patients(groups, 12, np.random.default_rng(seed))
        _, images = np.unique(groups[rows], return_counts=True)
        assert sorted(images.tolist()) == [2, 5, 5]
        assert len(set(rows.tolist())) == 12


def test_copies_of_held_out_images_have_a_finite_ratio():
    draws = np.random.default_rng(0)
    train, held_out = draws.normal(size=(40, 6)), draws.normal(size=(40, 6))
    ratio = nearness(held_out, train, held_out, [str(i) for i in range(40)], seed=0).log_ratio
    assert (ratio > 5).all()
    assert (ratio < 20).all()
