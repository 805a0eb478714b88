"""Damage of JPEGs that libjpeg only warns of is found; whole files of every kind are taken."""

import io

import numpy as np
import pytest
from PIL import Image

from sdcxr.io.image_files import BadImage
from sdcxr.io.jpeg import load_jpeg


def picture(seed: int = 0, corner: int | None = None) -> Image.Image:
    """Structure at two scales; the last blocks may have one level."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.uniform(40, 220, (8, 8)).astype(np.float32)).resize((160, 120))
    pixels = (np.asarray(coarse) + rng.normal(0, 3, (120, 160))).clip(0, 255).astype(np.uint8)
    if corner is not None:
        pixels[-48:, -48:] = corner
    return Image.fromarray(pixels)


def encoded(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **({"quality": 92} | options))
    return file.getvalue()


@pytest.mark.parametrize("at_least_px", [0, 50])
@pytest.mark.parametrize(
    ("name", "value"),
    [("optimize", True), ("progressive", True), ("restart_marker_blocks", 7), ("subsampling", 0), ("subsampling", 2)],
)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_whole_files_are_taken_and_have_the_pixels_of_pillow(name, value, mode, at_least_px):
    for seed in range(3):
        data = encoded(picture(seed).convert("RGB").convert(mode), **{name: value})
        expected = Image.open(io.BytesIO(data))
        if at_least_px:
            expected.draft("L", (at_least_px, at_least_px))
        image = load_jpeg(data, at_least_px)
        assert (image.mode, image.size) == (expected.mode, expected.size)
        assert image.tobytes() == expected.tobytes()


@pytest.mark.parametrize("level", [126, 127, 128, 129])
def test_a_mid_grey_corner_is_no_damage(level):
    assert load_jpeg(encoded(picture(corner=level))).getpixel((159, 119)) in range(level - 2, level + 3)


@pytest.mark.parametrize("behind", [b"\0" * 20, b"\xff" * 3, b"text", encoded(picture(1))])
def test_something_behind_the_picture_does_not_matter(behind):
    whole = encoded(picture())
    assert load_jpeg(whole + behind).tobytes() == load_jpeg(whole).tobytes()


@pytest.mark.parametrize("fill", [b"\0", b"\xff\xff", b"\0" * 30])
def test_fill_bytes_before_the_end_are_no_damage(fill):
    whole = encoded(picture())
    assert load_jpeg(whole[:-2] + fill + whole[-2:]).tobytes() == load_jpeg(whole).tobytes()


@pytest.mark.parametrize("at_least_px", [0, 50])
@pytest.mark.parametrize(("length", "progressive"), [(200, False), (1000, False), (1000, True)])
@pytest.mark.parametrize("damage", ["zeros", "lost", "repeated", "noise"])
def test_damage_in_the_middle_is_found(damage, length, progressive, at_least_px):
    rng = np.random.default_rng(length)
    found = 0
    for seed in range(10):
        whole = encoded(picture(seed), progressive=progressive)
        at = int(rng.integers(700, len(whole) - length - 200))
        before, gone, after = whole[:at], whole[at : at + length], whole[at + length :]
        between = {"zeros": bytes(length), "lost": b"", "repeated": gone + gone, "noise": rng.bytes(length)}[damage]
        try:
            load_jpeg(before + between + after, at_least_px)
        except (BadImage, OSError):
            found += 1
    assert found >= 9  # a decoder that falls into step again is not noticed


def test_lost_restart_intervals_are_found():
    whole = encoded(picture(), restart_marker_blocks=7)
    first, second = whole.index(b"\xff\xd1"), whole.index(b"\xff\xd3")
    with pytest.raises(BadImage, match="found marker 0xd3 instead of RST1"):
        load_jpeg(whole[:first] + whole[second:])


def test_a_file_without_its_end_is_truncated():
    whole = encoded(picture())
    for part in (whole[:-2], whole[: len(whole) // 2], whole[: len(whole) // 2] + bytes(2000)):
        with pytest.raises(BadImage) as caught:
            load_jpeg(part)
        assert caught.value.reason == "truncated image"
