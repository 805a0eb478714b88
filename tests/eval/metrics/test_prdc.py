"""Precision, recall, density, coverage: subsets, agreement with prdc and torch-fidelity. Numbers: known_answers."""

import numpy as np
import pytest

from eval.metrics.bootstrap import half_samples
from eval.metrics.prdc import prdc, prdc_of_subsets
from sdcxr.runtime.errors import UserError


def clouds(n: int = 120, m: int = 90, d: int = 6) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.normal(size=(n, d)), generator.normal(size=(m, d)) * 1.2 + 0.4


def test_sides_are_not_interchangeable():
    real, synthetic = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([[0.5], [10.0], [11.0]])
    swapped, right = prdc(synthetic, real, k=1), prdc(real, synthetic, k=1)
    assert (swapped["precision"], swapped["recall"]) == (right["recall"], right["precision"])
    assert swapped["precision"] != pytest.approx(right["precision"])


@pytest.mark.parametrize("k", [1, 3, 5])
def test_equal_sets_are_all_1(k):
    rows, _ = clouds()
    assert prdc(rows, rows, k) == {"precision": 1, "recall": 1, "density": 1, "coverage": 1}


@pytest.mark.parametrize("k", [1, 3, 5])
def test_agrees_with_prdc(k):
    library = pytest.importorskip("prdc")
    real, synthetic = clouds(700, 600)  # more than a block of rows
    assert prdc(real, synthetic, k) == pytest.approx(library.compute_prdc(real, synthetic, k), abs=1e-12)


def test_precision_and_recall_agree_with_torch_fidelity():
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("torch_fidelity.metric_prc")
    real, synthetic = clouds()
    expected = library.prc_features_to_metric(
        torch.from_numpy(synthetic), torch.from_numpy(real), prc_neighborhood=3, verbose=False
    )
    ours = prdc(real, synthetic, k=3)
    assert (ours["precision"], ours["recall"]) == pytest.approx((expected["precision"], expected["recall"]), abs=1e-6)


def test_high_dimension():
    """Two samples of N(0, I) of dimension 1000: a smaller version of the example of prdc's authors."""
    library = pytest.importorskip("prdc")
    real, synthetic = np.random.default_rng(0).normal(size=(2, 1000, 1000))
    ours = prdc(real, synthetic, 5)
    assert ours == pytest.approx(library.compute_prdc(real, synthetic, 5), abs=1e-12)
    assert ours["precision"] == pytest.approx(ours["recall"], abs=0.1)


def test_radii_are_of_other_images():
    real, synthetic = clouds()
    distances = np.linalg.norm(real[:, None] - real[None], axis=2)
    radii = np.sort(distances, axis=1)[:, 5]  # the first is the image itself
    across = np.linalg.norm(real[:, None] - synthetic[None], axis=2)
    assert prdc(real, synthetic, 5)["precision"] == pytest.approx((across < radii[:, None]).any(axis=0).mean())


def test_far_from_the_origin_nothing_is_lost():
    real, synthetic = clouds()
    assert prdc(real + 1e5, synthetic + 1e5) == pytest.approx(prdc(real, synthetic))


@pytest.mark.parametrize("size", [1e6, 1e9])
@pytest.mark.parametrize("side", [0, 1])
def test_one_image_far_away_leaves_the_others_alone(side, size):
    sides = clouds()
    sides[side][0] = size
    across = np.linalg.norm(sides[0][:, None] - sides[1][None], axis=2)
    own = [np.sort(np.linalg.norm(rows[:, None] - rows[None], axis=2), axis=1)[:, 5] for rows in sides]
    expected = {
        "precision": (across < own[0][:, None]).any(axis=0).mean(),
        "recall": (across < own[1]).any(axis=1).mean(),
        "density": (across < own[0][:, None]).sum() / 5 / len(sides[1]),
        "coverage": (across < own[0][:, None]).any(axis=1).mean(),
    }
    assert prdc(*sides, 5) == pytest.approx(expected)


def test_subsets_equal_the_same_rows_by_themselves():
    real, synthetic = clouds()
    generator = np.random.default_rng(0)
    in_real = half_samples([str(i // 20) for i in range(120)], 4, generator)  # whole neighbourhoods fall out together
    in_synthetic = half_samples([str(i) for i in range(90)], 4, generator)
    values = prdc_of_subsets(real, synthetic, 5, in_real, in_synthetic)
    for i in range(4):
        alone = prdc(real[in_real[:, i]], synthetic[in_synthetic[:, i]], 5)
        assert {name: value[i] for name, value in values.items()} == pytest.approx(alone)


def test_a_row_whose_neighbourhood_is_left_out_still_has_its_radius():
    generator = np.random.default_rng(0)
    real = np.concatenate([generator.normal(size=(100, 2)) * 0.01, generator.normal(size=(100, 2)) + 50])
    members = np.ones((200, 2), bool)
    members[1:100, 1] = False
    synthetic = generator.normal(size=(50, 2)) * 0.01
    values = prdc_of_subsets(real, synthetic, 5, members, np.ones((50, 2), bool))
    alone = prdc(real[members[:, 1]], synthetic, 5)
    assert {name: value[1] for name, value in values.items()} == pytest.approx(alone)
    assert alone["precision"] == 1  # in the lonely image's huge ball


@pytest.mark.parametrize(("n", "m", "side"), [(6, 20, "real"), (20, 6, "synthetic")])
def test_too_few_images_are_refused(n, m, side):
    real, synthetic = clouds(n, m)
    with pytest.raises(UserError, match=rf"k = 5 need k \+ 2 images a side .*, got 6 {side}"):
        prdc(real, synthetic, 5)
    prdc(*clouds(7, 7), 5)


def test_constant_features_are_refused_where_prdc_gives_0():
    real, _ = clouds()
    with pytest.raises(UserError, match="all 120 synthetic feature rows are equal"):
        prdc(real, np.ones_like(real))
