"""Distances between pictures: closed forms, and the two usual mistakes written out."""

import numpy as np
import pytest

from eval.memorization.copies import closest_pairs, pixel_rms, tile_distance


def flat(value: int, side: int = 8) -> np.ndarray:
    return np.full((side, side), value, np.uint8)


@pytest.mark.parametrize(("first", "second", "expected"), [(0, 255, 255), (7, 7, 0), (5, 250, 245), (250, 5, 245)])
def test_pixel_rms_of_flat_images(first, second, expected):
    assert pixel_rms(flat(first), flat(second)) == pytest.approx(expected)


def test_pixel_rms_does_not_wrap_around():
    first, second = flat(5), flat(250)
    wrapped = np.linalg.norm((first - second).astype(float)) / first.size**0.5  # the difference taken in uint8
    assert wrapped == pytest.approx(11)
    assert pixel_rms(first, second) == pytest.approx(245)
    noisy = np.random.default_rng(0).integers(100, 105, (64, 64)).astype(np.uint8)
    assert np.sqrt(((noisy - flat(102, 64)).astype(float) ** 2).mean()) > 100  # a near duplicate
    assert pixel_rms(noisy, flat(102, 64)) < 2


def test_tile_distance_is_that_of_the_tile_which_differs_most():
    first = np.zeros((1, 16, 16), np.uint8)
    second = first.copy()
    second[0, 4:8, 8:12] = 255
    assert tile_distance(first, second) == pytest.approx([1.0])
    assert pixel_rms(first, second) == pytest.approx([255 / 4])
    assert tile_distance(second, first) == pytest.approx([1.0])
    assert tile_distance(first, first) == pytest.approx([0.0])


def test_closest_pair_is_over_all_samples_of_a_prompt():
    greys = np.stack([flat(value) for value in (0, 200, 100, 102, 50)])
    prompts = np.array([1, 1, 1, 1, 2])
    assert closest_pairs(greys, prompts) == pytest.approx([2 / 255])  # the prompt with one sample has none
