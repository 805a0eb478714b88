"""Dice and Hausdorff distance: closed forms, and what is empty."""

import numpy as np
import pytest

from eval.metrics.segmentation import dice, hausdorff95

pytest.importorskip("monai")

SIDE = 40


def box(top: int, left: int, height: int = 10, width: int = 10) -> np.ndarray:
    mask = np.zeros((1, SIDE, SIDE), bool)
    mask[0, top : top + height, left : left + width] = True
    return mask


EMPTY = box(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("predicted", "truth", "expected_dice", "expected_distance"),
    [
        (box(5, 5), box(5, 5), 1.0, 0.0),
        (box(5, 8), box(5, 5), 0.7, 3.0),  # moved by 3: 70 of 100 pixels in common
        (box(5, 25), box(5, 5), 0.0, 20.0),
        (box(5, 5, 10, 20), box(5, 5), 2 / 3, 10.0),
        (box(9, 8, 1, 1), box(5, 5, 1, 1), 0.0, 5.0),  # 3, 4, 5
        (EMPTY, box(5, 5), 0.0, SIDE * 2**0.5),  # nothing is found: the diagonal
        (box(5, 5), EMPTY, np.nan, np.nan),
        (EMPTY, EMPTY, np.nan, np.nan),
    ],
)
def test_closed_forms(predicted, truth, expected_dice, expected_distance):
    assert dice(predicted, truth) == pytest.approx([expected_dice], nan_ok=True)
    assert hausdorff95(predicted, truth) == pytest.approx([expected_distance], nan_ok=True)


def test_the_percentile_leaves_out_a_few_far_pixels():
    truth, predicted = box(5, 5, 20, 20), box(5, 5, 20, 20)
    predicted[0, 38, 38] = True
    assert hausdorff95(predicted, truth) == [0.0]


def test_images_are_measured_one_by_one():
    predicted, truth = np.concatenate([box(5, 8), EMPTY, box(5, 5)]), np.concatenate([box(5, 5)] * 2 + [EMPTY])
    np.testing.assert_allclose(dice(predicted, truth), [0.7, 0.0, np.nan])
    np.testing.assert_allclose(hausdorff95(predicted, truth), [3.0, SIDE * 2**0.5, np.nan])


def test_volumes_and_their_spacing():
    truth, predicted = np.zeros((2, 20, 20, 20), bool), np.zeros((2, 20, 20, 20), bool)
    truth[0, 5:10, 5:10, 5:10] = True
    predicted[0, 5:10, 5:10, 8:13] = True  # moved by 3: 50 of 125 in common
    truth[1, 2, 2, 2] = True
    np.testing.assert_allclose(dice(predicted, truth), [0.4, 0.0])
    np.testing.assert_allclose(hausdorff95(predicted, truth), [3.0, 20 * 3**0.5])
    np.testing.assert_allclose(hausdorff95(predicted, truth, (1, 1, 4)), [12.0, 20 * 18**0.5])
