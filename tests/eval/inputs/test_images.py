"""One grey image for every kind of file, a reason for every unusable one; arrays and batches of images."""

import numpy as np
import pytest
from PIL import Image

from eval.inputs.images import Batch, Inputs, Unusable, read_grey, read_greys, shortest_sides
from sdcxr.runtime.errors import UserError
from tests.data_prep.image_variants import raw_png

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "CMYK"])
def test_a_grey_picture_is_the_same_in_every_mode(tmp_path, mode):
    name = "image.tif" if mode == "CMYK" else "image.png"
    Image.fromarray(GREY).convert("RGB" if mode == "CMYK" else "L").convert(mode).save(tmp_path / name)
    image, colour = read_grey(tmp_path / name)
    assert image.mode == "L" and colour == 0
    np.testing.assert_allclose(np.asarray(image, int), GREY, atol=1)


def test_colour_becomes_luma_and_is_measured(tmp_path):
    red = np.zeros((4, 4, 3), np.uint8)
    red[:2, :, 0] = 200
    Image.fromarray(red).save(tmp_path / "image.png")
    image, colour = read_grey(tmp_path / "image.png")
    assert np.asarray(image)[0, 0] == round(200 * 0.299) and np.asarray(image)[3, 3] == 0
    assert colour == 100


def test_bilevel_pictures_are_black_and_white(tmp_path):
    Image.fromarray(GREY > 100).save(tmp_path / "image.png")
    assert set(np.unique(np.asarray(read_grey(tmp_path / "image.png")[0]))) == {0, 255}


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_more_than_8_bits_are_refused(tmp_path, dtype):
    Image.fromarray(GREY.astype(dtype) * 100).save(tmp_path / "image.tif")
    with pytest.raises(Unusable, match="more than 8 bits"):
        read_grey(tmp_path / "image.tif")


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_16_bits_of_several_channels_are_refused_too(tmp_path, channels):
    values = np.stack([GREY.astype(np.uint16) * 16] * channels, -1)
    (tmp_path / "image.png").write_bytes(raw_png(values, 16))
    with pytest.raises(Unusable, match="more than 8 bits per pixel: convert it to 8 bits with its window"):
        read_grey(tmp_path / "image.png")


def test_the_orientation_tag_is_followed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(GREY[::-1, ::-1]).save(tmp_path / "image.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(read_grey(tmp_path / "image.png")[0]), GREY)


def test_damage_is_named_without_the_folder(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.png").write_text("not an image")
    for name in ("cut.png", "text.png"):
        with pytest.raises(Unusable, match="cannot be read") as caught:
            read_grey(tmp_path / name)
        assert str(tmp_path) not in str(caught.value)
    with pytest.raises(Unusable, match="does not exist"):
        read_grey(tmp_path / "none.png")


def test_modes_formats_and_sizes_become_one_array(tmp_path):
    grey = np.kron(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4, np.ones((4, 4), np.uint8))
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(grey).convert("RGB").save(tmp_path / "b.png")
    Image.fromarray(np.kron(grey, np.ones((2, 2), np.uint8))).save(tmp_path / "c.jpg", quality=95)
    Image.fromarray(grey[::4, ::4]).save(tmp_path / "d.png")
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.jpg")]
    greys = read_greys(paths, 8)
    assert greys.shape == (3, 8, 8) and greys.dtype == np.uint8
    assert (greys[0] == grey[::4, ::4]).all()  # the mean over 4 × 4 equal pixels
    assert np.abs(greys.astype(int) - greys[0].astype(int)).max() <= 4
    assert shortest_sides([*paths, tmp_path / "d.png"]) == [32, 32, 64, 8]
    assert read_greys([tmp_path / "d.png"], 32).shape == (1, 32, 32)  # a smaller one is enlarged


def test_unusable_files_are_listed(tmp_path):
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "good.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "deep.png")
    paths = [tmp_path / name for name in ("good.png", "torn.png", "deep.png", "gone.png")]
    with pytest.raises(
        UserError, match=r"3 of 4 images.*torn\.png cannot be read.*deep\.png has more.*gone\.png does not"
    ):
        read_greys(paths, 8)
    with pytest.raises(UserError, match=r"1 of 4 images.*gone\.png does not exist"):
        shortest_sides([path for path in paths if path.name != "torn.png"] + [paths[0]])
    with pytest.raises(UserError, match="and 2 more"):
        read_greys([tmp_path / f"{i}.png" for i in range(12)], 8)


def test_a_batch_keeps_what_is_usable_and_says_what_is_not(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    items = Inputs([tmp_path / "a.png", tmp_path / "b.png"], lambda image: np.asarray(image, np.float32)[None])
    batch = Batch([items[0], items[1]])
    assert batch.inputs.shape == (1, 1, 6, 8)
    assert batch.problems == {1: "does not exist"} and batch.colour == [0.0, 0.0]
    assert Batch([items[1]]).inputs is None


def test_inputs_of_another_shape_are_a_problem_not_a_crash():
    square, wide = np.zeros((1, 4, 4), np.float32), np.zeros((1, 4, 6), np.float32)
    batch = Batch([(0, square, 0.0), (1, wide, 0.0), (2, square, 0.0)])
    assert batch.inputs.shape == (2, 1, 4, 4) and list(batch.problems) == [1]
    assert "(1, 4, 6)" in batch.problems[1]
