"""Stretching of more than 8 bits: clean pictures from minimum to maximum, others without what lies far outside."""

import numpy as np
import pytest
import tifffile

from sdcxr.io.deep import luma, read_tiff, stretch
from sdcxr.io.image_files import BadImage


def radiograph() -> np.ndarray:
    """12 bits in 16, values 100–3900 (60, 80)."""
    rng = np.random.default_rng(0)
    values = rng.normal(2000, 600, (60, 80)).clip(100, 3900)
    values[0, 0], values[0, 1] = 100, 3900
    return values.astype(np.uint16)


def linear(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint((values.astype(np.float32) - low) * (255.0 / (high - low))).clip(0, 255)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.uint32, np.float32, np.float64])
def test_a_clean_picture_goes_from_minimum_to_maximum(dtype):
    assert np.abs(stretch(radiograph().astype(dtype)) - linear(radiograph(), 100, 3900)).max() <= 1


@pytest.mark.parametrize("level", [65535, 30000, 12000])
@pytest.mark.parametrize("place", [np.s_[5, 5], np.s_[2:8, 2:12], np.s_[:10]], ids=["hot", "marker", "edge"])
def test_levels_far_above_do_not_darken_the_rest(place, level):
    values = radiograph()
    values[place] = level
    grey = stretch(values)
    rest = np.ones(values.shape, bool)
    rest[place] = False
    assert (grey[place] == 255).all()
    assert np.abs(grey[rest] - linear(values[rest], values[rest].min(), values[rest].max())).max() <= 1


def test_hot_pixels_of_many_levels_do_not_darken_the_rest():
    values = radiograph()
    values[30, ::4] = np.linspace(9000, 65535, 20)
    assert abs(np.median(stretch(values)) - np.median(linear(radiograph(), 100, 3900))) <= 10


def test_padding_far_below_does_not_brighten_the_rest():
    values = radiograph() + 20000
    values[:, :30] = 0
    grey = stretch(values.astype(np.uint16))
    assert (grey[:, :30] == 0).all() and 90 < np.median(grey[:, 30:]) < 160


def test_what_is_not_shown_is_black_and_does_not_count():
    values, shown = radiograph(), np.ones((60, 80), bool)
    values[:, :10], shown[:, :10] = 5000, False
    grey = stretch(values, shown)
    assert (grey[:, :10] == 0).all() and grey[:, 10:].max() == 255
    assert not stretch(values, np.zeros_like(shown)).any()


def test_two_levels_stay_two_and_one_becomes_black():
    assert stretch(np.array([[0, 4095], [4095, 0]], np.uint16)).tolist() == [[0, 255], [255, 0]]
    assert not stretch(np.full((4, 4), 700, np.uint16)).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(BadImage) as caught:
        stretch(np.array([[0.0, 1.0], [value, 0.5]]))
    assert (caught.value.reason, caught.value.detail) == ("NaN or infinite values", "1 of 4 pixels")


def test_luma_of_grey_is_exact():
    grey = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert (luma(np.stack([grey] * 3, -1)) == grey).all()
    assert luma(np.array([[[100, 0, 0], [0, 100, 0], [0, 0, 100]]]))[0].tolist() == pytest.approx([29.9, 58.7, 11.4])


def test_missing_memory_does_not_reject_a_file(monkeypatch):
    def no_memory(*_):
        raise MemoryError

    monkeypatch.setattr(tifffile, "TiffFile", no_memory)
    with pytest.raises(MemoryError):
        read_tiff(b"II*\0")
