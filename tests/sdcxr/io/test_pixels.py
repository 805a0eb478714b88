"""One grey channel in [-1, 1] from file to tensor, and back."""

import contextlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdcxr.io.image_files import BadImage
from sdcxr.io.pixels import grid, load_upright, open_image, read_mask, read_pixels, to_grey, write_png
from sdcxr.runtime.errors import UserError
from tests.data_prep.image_variants import dicom, variants


def test_black_and_white_are_minus_one_and_one(tmp_path):
    write_png(tmp_path / "a.png", np.array([[0, 255], [51, 102]], dtype=np.uint8))
    pixels = read_pixels(tmp_path / "a.png", 2)
    assert pixels.shape == (1, 2, 2) and pixels.dtype == torch.float32
    torch.testing.assert_close(pixels[0], torch.tensor([[-1.0, 1.0], [-0.6, -0.2]]))


def test_every_grey_level_survives_the_way_there_and_back(tmp_path):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write_png(tmp_path / "a.png", levels)
    pixels = read_pixels(tmp_path / "a.png", 16)
    np.testing.assert_array_equal(to_grey(pixels.expand(1, 3, -1, -1)).numpy()[0], levels)


def test_left_stays_left_and_up_stays_up(tmp_path):
    image = np.zeros((32, 32), dtype=np.uint8)
    image[:8, :8] = 255
    write_png(tmp_path / "a.png", image)
    for resolution in (32, 16):
        pixels = read_pixels(tmp_path / "a.png", resolution)[0]
        quarter = resolution // 4
        assert pixels[:quarter, :quarter].mean() > 0.9
        assert pixels[:, -quarter:].max() < -0.9 and pixels[-quarter:].max() < -0.9


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "RGBA"])
def test_modes_of_8_bits_and_less_are_grey(tmp_path, mode):
    Image.new("L", (4, 4), 255).convert(mode).save(tmp_path / "a.png")
    assert (read_pixels(tmp_path / "a.png", 4) == 1).all()


def test_16_bits_are_refused_rather_than_clipped(tmp_path):
    Image.fromarray(np.full((4, 4), 3000, dtype=np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="more than 8 bits"):
        read_pixels(tmp_path / "a.png", 4)


def test_a_dicom_file_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(dicom(np.full((4, 4), 200, np.uint8)))
    with pytest.raises(UserError, match=r"a\.png is a DICOM file: data_prep makes images of 8 bits"):
        read_pixels(tmp_path / "a.png", 4)


def test_the_orientation_tag_is_followed(tmp_path):
    image = np.zeros((32, 32), dtype=np.uint8)
    image[:8, :8] = 255  # after a turn by 180 degrees
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(image).save(tmp_path / "a.jpg", quality=95, exif=exif)
    pixels = read_pixels(tmp_path / "a.jpg", 32)[0]
    assert pixels[-8:, -8:].mean() > 0.9 and pixels[:8].max() < -0.9


def test_missing_damaged_and_oblong_images_are_named(tmp_path):
    with pytest.raises(UserError, match=r"a\.png is named in metadata\.csv and does not exist: run data_prep"):
        read_pixels(tmp_path / "a.png", 4)
    (tmp_path / "b.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"b\.png is named in metadata\.csv and cannot be read"):
        read_pixels(tmp_path / "b.png", 4)
    Image.new("L", (4, 5)).save(tmp_path / "c.png")
    with pytest.raises(UserError, match=r"c\.png is not square \(4 × 5\)"):
        read_pixels(tmp_path / "c.png", 4)


def test_a_jpeg_whose_rest_is_zeros_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.jpg")
    whole = (tmp_path / "x.jpg").read_bytes()
    assert read_pixels(tmp_path / "x.jpg", 64).shape == (1, 64, 64)
    (tmp_path / "x.jpg").write_bytes(whole[: len(whole) // 2].ljust(len(whole), b"\0"))
    with pytest.raises(UserError, match=r"x\.jpg.* cannot be read .*Premature end of JPEG file"):
        read_pixels(tmp_path / "x.jpg", 64)


@pytest.mark.parametrize(
    ("content", "reason", "problem"),
    [
        (None, "missing image", "does not exist"),
        (b"", "empty file", "cannot be read (empty file)"),
        (b"text", "unreadable image", "cannot be read (x.png is no image format that Pillow knows)"),
    ],
)
def test_a_bad_image_has_a_reason_and_completes_a_sentence(tmp_path, content, reason, problem):
    if content is not None:
        (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(BadImage) as caught, open_image(tmp_path / "x.png"):
        pass
    assert (caught.value.reason, str(caught.value)) == (reason, problem)


def test_what_cannot_be_decoded_or_converted_is_a_bad_image(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(tmp_path / "x.png")
    (tmp_path / "x.png").write_bytes((tmp_path / "x.png").read_bytes()[:2000])
    with pytest.raises(BadImage, match="truncated"), open_image(tmp_path / "x.png") as image:
        image.load()
    Image.new("LAB", (4, 4)).save(tmp_path / "x.tif")
    with pytest.raises(BadImage, match=r"cannot be read \(conversion"), open_image(tmp_path / "x.tif") as image:
        image.convert("L")


CONTENTS = st.deferred(lambda: st.sampled_from([one.content for one in variants().values() if not one.refusal]))


@given(CONTENTS, st.integers(0, 3000), st.integers(1, 255), st.booleans())
@settings(max_examples=300)
def test_any_damage_of_any_file_is_read_or_refused(tmp_path_factory, content, place, change, cut):
    content = bytearray(content)
    place %= len(content)
    content[place] ^= change
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[:place] if cut else content)
    with warnings.catch_warnings(), contextlib.suppress(BadImage, UserError):
        warnings.simplefilter("ignore")  # pydicom's
        assert load_upright(path, stretched=True).image.mode in ("L", "RGB")


def test_the_channels_mean_is_rounded():
    images = torch.tensor([-1.0, 1.0, 0.99]).view(1, 3, 1, 1)
    assert to_grey(images).item() == round((-1 + 1 + 0.99) / 3 * 127.5 + 127.5)
    assert to_grey(torch.full((1, 3, 1, 1), 7.0)).item() == 255


def test_grid_goes_row_by_row():
    sheet = grid([np.full((2, 3), value, dtype=np.uint8) for value in (10, 20, 30)], columns=2)
    assert sheet.shape == (6, 8)
    assert sheet[0, 0] == 10 and sheet[0, 5] == 20 and sheet[4, 0] == 30
    assert (sheet[2:4] == 0).all() and (sheet[:, 3:5] == 0).all() and (sheet[4:, 5:] == 0).all()


def save_mask(path: Path, levels: dict[tuple[int, int], object], mode: str = "L") -> Path:
    """A mask of 64 pixels, black but at some places (column, row)."""
    mask = Image.new(mode, (64, 64))
    for place, level in levels.items():
        mask.putpixel(place, level)
    mask.save(path)
    return path


@pytest.mark.parametrize(("mode", "level"), [("L", 255), ("L", 1), ("1", 1), ("RGB", (255, 0, 0))])
def test_a_mask_is_what_is_not_black_and_small_structures_stay(tmp_path, mode, level):
    path = save_mask(tmp_path / "m.png", {(41, 9): level}, mode)
    assert np.argwhere(read_mask(path, 64)).tolist() == [[9, 41]]
    assert np.argwhere(read_mask(path, 16)).tolist() == [[9 // 4, 41 // 4]]
    assert not read_mask(save_mask(path, {}, mode), 16).any()


@pytest.mark.parametrize(
    ("mode", "levels"),
    [("L", (1, 2)), ("L", (128, 255)), ("RGB", ((255, 0, 0), (0, 255, 0))), ("L", tuple(range(1, 30)))],
)
def test_a_mask_that_numbers_structures_is_refused_not_united(tmp_path, mode, levels):
    path = save_mask(tmp_path / "m.png", {(i, 3): level for i, level in enumerate(levels)}, mode)
    with pytest.raises(UserError, match=r"m\.png has several levels beside black"):
        read_mask(path, 64)
