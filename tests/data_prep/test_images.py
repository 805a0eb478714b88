"""Reading and squaring: every kind of file, every kind of damage, and which side is which."""

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import JPEG2000Lossless

from data_prep.images import Converted, convert, equalize, load_grey, square
from sdcxr.io.deep import stretch
from sdcxr.io.image_files import BadImage
from sdcxr.runtime.errors import UserError
from tests.data_prep.dicoms import dicom_bytes


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def gradient(width: int, height: int) -> np.ndarray:
    """Brighter to the right, and a little brighter downwards."""
    x, y = np.meshgrid(np.linspace(0, 200, width), np.linspace(0, 55, height))
    return (x + y).astype(np.uint8)


def saved(path: Path, pixels: np.ndarray, mode: str | None = None, **options) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def dicom(path: Path, pixels: np.ndarray, photometric: str = "MONOCHROME2", syntax: str | None = None) -> Path:
    data = dicom_bytes(pixels, photometric, syntax)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


# ---------------------------------------------------------------------------------------------------------------------
# Reading


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1"])
def test_a_png_of_any_mode_becomes_grey(tmp_path, mode):
    pixels = gradient(40, 30) if mode != "1" else noise(40, 30)
    image = load_grey(saved(tmp_path / "x.png", pixels, mode), 8)
    assert (image.mode, image.size) == ("L", (40, 30))
    if mode not in ("1", "P"):
        assert np.abs(np.asarray(image).astype(int) - pixels).max() <= 1


def test_transparent_is_black(tmp_path):
    pixels = np.full((10, 10, 4), 200, np.uint8)
    pixels[:, :5, 3] = 0
    pixels[:, 5:, 3] = 255
    image = np.asarray(load_grey(saved(tmp_path / "x.png", pixels), 8))
    assert (image[:, :5] == 0).all()
    assert (image[:, 5:] == 200).all()


def test_a_16_bit_png_is_stretched(tmp_path):
    pixels = np.linspace(100, 4095, 1200).reshape(30, 40).astype(np.uint16)  # 12 bits in 16
    image = np.asarray(load_grey(saved(tmp_path / "x.png", pixels), 8))
    assert np.array_equal(image, np.rint((pixels - 100.0) / 3995 * 255))


@pytest.mark.parametrize(
    ("at_least_px", "size"), [(64, (75, 100)), (75, (75, 100)), (76, (150, 200)), (512, (600, 800))]
)
def test_a_jpeg_is_decoded_no_smaller_than_asked(tmp_path, at_least_px, size):
    assert load_grey(saved(tmp_path / "x.jpg", gradient(600, 800)), at_least_px).size == size


def test_decoding_at_a_reduced_scale_hardly_changes_the_result(tmp_path):
    path = saved(tmp_path / "x.jpg", gradient(800, 800), quality=95)
    reduced, full = (np.asarray(square(load_grey(path, px), 100, "crop")).astype(int) for px in (100, 800))
    assert np.abs(reduced - full).max() <= 2


def test_a_colour_jpeg_becomes_grey(tmp_path):
    assert load_grey(saved(tmp_path / "x.jpg", gradient(64, 64), "RGB"), 8).mode == "L"


@pytest.mark.parametrize("name", ["x.dcm", "x.dcm.gz"])
def test_a_dicom_is_stretched_and_equalised_on_demand(tmp_path, name):
    path = dicom(tmp_path / name, gradient(40, 30).astype(np.uint16) * 16)
    plain = np.asarray(load_grey(path, 8, equalize_dicom=False))
    assert np.array_equal(plain, stretch(gradient(40, 30)))
    assert np.array_equal(np.asarray(load_grey(path, 8)), equalize(plain))


def test_monochrome1_is_inverted(tmp_path):
    pixels = gradient(40, 30).astype(np.uint16)
    one, two = (
        np.asarray(load_grey(dicom(tmp_path / f"{kind}.dcm", pixels, kind), 8, equalize_dicom=False))
        for kind in ("MONOCHROME1", "MONOCHROME2")
    )
    assert np.array_equal(one, 255 - two)


def test_equalisation_on_a_histogram_worked_by_hand():
    # Levels 10 (twice), 20 (once), 30 (three times): four pixels are brighter than the darkest, one of them at 20.
    pixels = np.array([[10, 10, 20], [30, 30, 30]], np.uint8)
    assert equalize(pixels).tolist() == [[0, 0, 64], [255, 255, 255]]
    assert equalize(np.full((2, 2), 7, np.uint8)).tolist() == [[7, 7], [7, 7]]


# ---------------------------------------------------------------------------------------------------------------------
# Damage


def reason_against(path: Path, at_least_px: int = 8) -> str:
    with pytest.raises(BadImage) as caught:
        load_grey(path, at_least_px)
    return caught.value.reason


def test_a_missing_file_is_a_bad_image(tmp_path):
    for name in ("x.jpg", "x.dcm"):
        assert reason_against(tmp_path / name) == "missing image"


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.dcm", "x.dcm.gz"])
@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty file"), (b"not an image at all" * 20, "unreadable image")]
)
def test_an_empty_or_foreign_file_is_a_bad_image(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    assert reason_against(tmp_path / name) == reason


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.dcm", "x.dcm.gz"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.filterwarnings("ignore:Compressed file ended")
def test_a_cut_off_file_is_a_bad_image(tmp_path, name, share):
    path = tmp_path / name
    if ".dcm" in name:
        dicom(path, noise(200, 200).astype(np.uint16))
    else:
        saved(path, noise(200, 200))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert reason_against(path) in ("truncated image", "unreadable image")


@pytest.mark.parametrize("name", ["x.jpg", "x.png"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_whose_rest_is_zeros_is_a_bad_image(tmp_path, name, share):
    path = saved(tmp_path / name, noise(200, 200), quality=95)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)].ljust(len(whole), b"\0"))
    assert reason_against(path) in ("truncated image", "damaged image")


def test_a_preview_in_the_header_is_not_the_end_of_a_jpeg(tmp_path):
    preview = saved(tmp_path / "preview.jpg", noise(16, 16)).read_bytes()
    whole = saved(tmp_path / "x.jpg", noise(200, 200)).read_bytes()
    header = b"\xff\xd8\xff\xe1" + (len(preview) + 2).to_bytes(2) + preview
    (tmp_path / "x.jpg").write_bytes(header + whole[2:])
    assert load_grey(tmp_path / "x.jpg", 200).size == (200, 200)
    (tmp_path / "x.jpg").write_bytes(header + whole[2 : len(whole) // 2] + bytes(50000))
    assert reason_against(tmp_path / "x.jpg", 200) == "truncated image"


def test_a_whole_jpeg_may_have_something_behind_it(tmp_path):
    path = saved(tmp_path / "x.jpg", noise(200, 200))
    path.write_bytes(path.read_bytes() + bytes(100))
    assert load_grey(path, 200).size == (200, 200)


def converted(path: Path, resolution_px: int = 32, mode: str = "crop") -> Converted:
    return convert(str(path), str(path.with_name("written.png")), resolution_px, mode)


def test_a_constant_image_is_bad(tmp_path):
    pixels = np.full((20, 20), 7, np.uint8)
    for path in (saved(tmp_path / "x.png", pixels), dicom(tmp_path / "x.dcm", pixels.astype(np.uint16))):
        assert converted(path).reason == "constant image"


def with_marker(background: np.ndarray) -> np.ndarray:
    """A marker in the upper left corner, which the crop of an upright picture cuts off."""
    background[10:30, 10:40] = 255
    return background


@pytest.mark.parametrize("mode", ["crop", "pad"])
@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (with_marker(np.zeros((600, 400), np.uint8)), {"crop": "constant image", "pad": "nearly constant image"}),
        (noise(400, 600) // 32 + 60, "nearly constant image"),
        (np.where(noise(400, 600) > 20, 255, gradient(400, 600)).astype(np.uint8), "mostly saturated image"),
        (np.where(noise(400, 600) > 40, 128, gradient(400, 600)).astype(np.uint8), "nearly constant image"),
    ],
    ids=["failed exposure", "noise alone", "clipped", "one level"],
)
def test_what_shows_nothing_once_it_is_cropped_is_bad(tmp_path, pixels, reason, mode):
    outcome = converted(saved(tmp_path / "x.png", pixels), 400 if mode == "crop" else 600, mode)  # no resize
    assert outcome.reason == (reason if isinstance(reason, str) else reason[mode])
    assert "after crop and resize" in outcome.detail
    assert not (tmp_path / "written.png").exists()


def test_black_bars_of_padding_are_no_saturation(tmp_path):
    assert converted(saved(tmp_path / "x.png", gradient(40, 600)), 64, "pad").reason == ""


def test_an_absurdly_large_image_is_bad_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for side in (40, 60):  # beyond the limit, beyond twice the limit
        assert reason_against(saved(tmp_path / "x.png", noise(side, side))) == "image too large"


def test_a_dicom_of_several_frames_is_bad(tmp_path):
    path = dicom(tmp_path / "x.dcm", np.stack([noise(8, 8), noise(8, 8)]).astype(np.uint16))
    assert reason_against(path) == "unsupported DICOM"


def test_a_dicom_without_pydicom_names_what_to_install(tmp_path, monkeypatch):
    dicom(tmp_path / "x.dcm", noise(8, 8).astype(np.uint16))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r"x\.dcm is a DICOM file.*pip install sdcxr\[dicom\]"):
        load_grey(tmp_path / "x.dcm", 8)


def test_a_compressed_dicom_without_its_decoder_names_what_to_install(tmp_path, monkeypatch):
    decoder = type("Decoder", (), {"is_available": False})
    monkeypatch.setattr("pydicom.pixels.get_decoder", lambda syntax: decoder)
    path = dicom(tmp_path / "x.dcm", noise(8, 8).astype(np.uint16), syntax=JPEG2000Lossless)
    with pytest.raises(UserError, match=r"JPEG 2000.*pip install sdcxr\[dicom\]"):
        load_grey(path, 8)


# ---------------------------------------------------------------------------------------------------------------------
# Squaring


@pytest.mark.parametrize("mode", ["crop", "pad"])
@pytest.mark.parametrize("size", [(64, 64), (80, 64), (64, 90), (7, 5), (65, 64), (300, 2)])
def test_every_size_becomes_the_square(mode, size):
    result = square(Image.fromarray(gradient(*size)), 64, mode)
    assert (result.mode, result.size) == ("L", (64, 64))


@pytest.mark.parametrize("mode", ["crop", "pad"])
def test_nothing_is_mirrored(mode):
    pixels = np.asarray(square(Image.fromarray(gradient(120, 90)), 60, mode)).astype(int)
    middle = pixels[20:40]
    assert middle[:, 45].mean() > middle[:, 15].mean() + 50
    assert pixels[45, 20:40].mean() > pixels[15, 20:40].mean() + 5


def test_crop_keeps_the_centre_and_pad_keeps_all():
    pixels = np.full((40, 80), 50, np.uint8)
    pixels[:, :20] = pixels[:, 60:] = 250  # bright flanks
    cropped = np.asarray(square(Image.fromarray(pixels), 40, "crop"))
    padded = np.asarray(square(Image.fromarray(pixels), 80, "pad"))
    assert (cropped == 50).all()
    assert (padded[20:60] == pixels).all()
    assert not padded[:20].any()
    assert not padded[60:].any()


# ---------------------------------------------------------------------------------------------------------------------
# Converting


def test_convert_writes_a_grey_square_whatever_is_there(tmp_path):
    source, target = saved(tmp_path / "x.jpg", gradient(90, 60)), tmp_path / "y.png"
    for present in (None, b"half a file"):
        if present:
            target.write_bytes(present)
        assert convert(str(source), str(target), 32, "crop")[:2] == ("", "")
        with Image.open(target) as image:
            assert (image.mode, image.size) == ("L", (32, 32))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.jpg", "y.png"]


def test_convert_answers_a_bad_image_and_raises_where_it_cannot_write(tmp_path):
    assert convert(str(tmp_path / "x.jpg"), str(tmp_path / "y.png"), 32, "crop")[:2] == ("missing image", "x.jpg")
    source = saved(tmp_path / "x.jpg", gradient(90, 60))
    with pytest.raises(OSError, match="nowhere"):
        convert(str(source), str(tmp_path / "nowhere" / "y.png"), 32, "crop")
    (tmp_path / "y.png").mkdir()
    with pytest.raises(IsADirectoryError):
        convert(str(source), str(tmp_path / "y.png"), 32, "crop")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.jpg", "y.png"]  # no temporary file
