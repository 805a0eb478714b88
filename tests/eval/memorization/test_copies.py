"""Copies are found through noise, JPEG, brightness and small shifts; other patients are not taken for copies."""

import io

import numpy as np
import pytest
from PIL import Image

from eval.memorization import copies
from eval.memorization.copies import (
    CYCLES,
    GRID,
    INNER,
    REACH,
    altered,
    best_matches,
    closest_pairs,
    copy_threshold,
    descriptors,
    pixel_rms,
    tile_distance,
    whitening,
)
from tests.eval.pictures import radiographs


def small(pictures: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(picture.resize((GRID, GRID), Image.Resampling.BOX)) for picture in pictures])


def noised(picture: Image.Image) -> Image.Image:
    grey = np.asarray(picture) + np.random.default_rng(0).normal(0, 8, picture.size)
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def as_jpeg(picture: Image.Image) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=50)
    return Image.open(file)


def brighter(picture: Image.Image) -> Image.Image:
    return picture.point(lambda value: value * 0.8 + 40)


def moved(picture: Image.Image) -> Image.Image:
    return Image.fromarray(np.pad(np.asarray(picture), 2, mode="edge")[:-4, 4:])  # 2 down, 2 to the left


def cropped(picture: Image.Image) -> Image.Image:
    cut = round(0.025 * picture.width)  # on each side, 5 % together
    inner = picture.crop((cut, cut, picture.width - cut, picture.height - cut))
    return inner.resize(picture.size, Image.Resampling.BICUBIC)


def harder(picture: Image.Image) -> Image.Image:
    return picture.point(lambda value: 255 * (value / 255) ** 1.6)  # gamma


TRAIN = radiographs(150, 0)
OTHERS = radiographs(80, 1)


@pytest.mark.parametrize(
    "change", [lambda picture: picture, noised, as_jpeg, brighter, harder, moved, cropped, lambda p: altered(p, RNG)]
)
def test_changed_copies_are_found_and_others_are_not(change):
    train, common = small(TRAIN), whitening(small(TRAIN))
    threshold = copy_threshold(best_matches(small(OTHERS), train, common).correlation, n_queries=40)
    assert threshold < 0.97
    planted = [3, 50, 149, 7]
    queries = small(radiographs(36, 2) + [change(TRAIN[i]) for i in planted])
    found = best_matches(queries, train, common)
    assert np.flatnonzero(found.correlation >= threshold).tolist() == [36, 37, 38, 39]
    assert found.index[36:].tolist() == planted


RNG = np.random.default_rng(5)


def test_what_all_have_in_common_does_not_count():
    def unit(greys: np.ndarray) -> np.ndarray:
        flat = greys.reshape(len(greys), -1).astype(float)
        flat -= flat.mean(axis=1, keepdims=True)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    train, common = small(TRAIN), whitening(small(TRAIN))
    plain = (unit(small(OTHERS)) @ unit(train).T).max()
    assert plain > 0.9
    assert best_matches(small(OTHERS), train, common).correlation.max() < plain - 0.1


def test_shift_is_reported_down_and_to_the_right():
    found = best_matches(small([moved(TRAIN[0])]), small(TRAIN), whitening(small(TRAIN)))
    assert found.shift[0].tolist() == [2 / 128, -2 / 128]


def test_scalar_products_are_correlations_of_filtered_images():
    train, common = small(TRAIN), whitening(small(TRAIN))
    views = train[:, REACH:-REACH, REACH:-REACH].astype(float)
    views = (views - views.mean(axis=(1, 2), keepdims=True)) / views.std(axis=(1, 2), keepdims=True)
    hann = np.hanning(INNER + 2)[1:-1]
    spectrum = np.fft.fft2((views - views.mean(axis=0)) * np.outer(hann, hann) ** 0.25)
    cycles = np.hypot(*np.meshgrid(*[np.fft.fftfreq(INNER, 1 / INNER)] * 2))
    power = (np.abs(spectrum) ** 2).mean(axis=0)
    ring = cycles.round().astype(int)
    amplitude = np.sqrt(np.bincount(ring.flat, power.flat) / np.bincount(ring.flat))[ring]
    gain = np.where((cycles > 0) & (cycles <= 1.25 * CYCLES), np.exp(-((cycles / CYCLES) ** 2)) / amplitude, 0)
    filtered = np.fft.ifft2(spectrum * gain).real.reshape(len(train), -1)
    found = descriptors(train, common)
    assert (found @ found.T).numpy() == pytest.approx(np.corrcoef(filtered), abs=5e-3)


def test_others_do_not_correlate_on_average():
    found = descriptors(small(TRAIN), whitening(small(TRAIN)))
    products = (found @ found.T).numpy()
    assert products[~np.eye(len(products), dtype=bool)].mean() == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("chunk", [2048, 33])
def test_search_equals_all_products(monkeypatch, chunk):
    monkeypatch.setattr(copies, "CHUNK", chunk)
    train, common = small(TRAIN), whitening(small(TRAIN))
    queries = small(OTHERS[:10])
    targets = descriptors(train, common)
    best = np.max(
        [(descriptors(queries, common, y, x) @ targets.T).numpy() for y in range(-2, 3) for x in range(-2, 3)], axis=0
    )
    found = best_matches(queries, train, common)
    assert found.correlation == pytest.approx(best.max(axis=1), abs=1e-5)
    assert (found.index == best.argmax(axis=1)).all()


def test_own_patient_is_never_a_match():
    train, common = small(TRAIN[:20]), whitening(small(TRAIN))
    groups = np.arange(20) // 2
    found = best_matches(train, train, common, groups, groups)
    assert (groups[found.index] != groups).all()
    assert found.correlation.max() < 0.95
    alone = best_matches(train, train, common, np.zeros(20, int), np.zeros(20, int))
    assert (alone.correlation == -1).all()


def test_image_without_structure_matches_nothing():
    train = small(TRAIN)
    flat = np.full((2, GRID, GRID), 30, np.uint8)
    found = best_matches(flat, np.concatenate([train, flat]), whitening(train))
    assert np.abs(found.correlation).max() == 0


def test_single_training_image_can_be_searched():
    found = best_matches(small(TRAIN[:2]), small(TRAIN[:1]), whitening(small(TRAIN[:1])))
    assert np.isfinite(found.correlation).all()


def test_threshold_keeps_its_promise_on_average():
    draws = np.random.default_rng(0)
    alarms = 0
    for _ in range(200):
        known, judged = np.tanh(draws.gumbel(0.6, 0.08, 500)), np.tanh(draws.gumbel(0.6, 0.08, 500))
        alarms += (judged >= copy_threshold(known, 500)).sum()
    assert alarms / 200 < 0.05  # as promised


def test_threshold_of_an_exponential_tail():
    z = -0.1 * np.log(1 - (np.arange(100_000) + 0.5) / 100_000)
    assert np.arctanh(copy_threshold(np.tanh(z), 100)) == pytest.approx(0.1 * np.log(100 / 0.05), rel=0.02)
    assert copy_threshold(np.tanh(z[::500]), 100) > copy_threshold(np.tanh(z), 100) + 0.01  # of fewer images


def test_threshold_grows_with_the_number_judged_and_survives_a_hidden_duplicate():
    known = np.tanh(np.random.default_rng(0).gumbel(0.6, 0.08, 500))
    assert copy_threshold(known, 100) < copy_threshold(known, 10_000) < 0.95
    with_duplicate = np.append(known, 1.0)
    assert copy_threshold(with_duplicate, 100) == pytest.approx(copy_threshold(known, 100), abs=0.01)


def flat(value: int, side: int = 8) -> np.ndarray:
    return np.full((side, side), value, np.uint8)


@pytest.mark.parametrize(("first", "second", "expected"), [(7, 7, 0), (250, 5, 245)])
def test_pixel_rms_of_flat_images(first, second, expected):
    assert pixel_rms(flat(first), flat(second)) == pytest.approx(expected)


def test_pixel_rms_of_a_near_duplicate_is_small():
    noisy = np.random.default_rng(0).integers(100, 105, (64, 64)).astype(np.uint8)
    assert pixel_rms(noisy, flat(102, 64)) < 2  # uint8 would wrap around


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
