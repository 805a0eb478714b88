"""Radiographs from any source as square 8-bit greyscale images. Nothing here mirrors or rotates: side is a finding."""

import gzip
import os
import warnings
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdcxr.io.pixels import BadImage, open_image
from sdcxr.runtime.errors import UserError

SquareMode = Literal["crop", "pad"]

PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"  # a PNG that does not end so was cut off


def load_grey(path: Path, at_least_px: int, equalize_dicom: bool = True) -> Image.Image:
    """The image of a JPEG, PNG or DICOM file (`.dcm`, `.dcm.gz`) in mode L, pixels as stored.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its scale where its shorter side stays `at_least_px` or longer; that is
    several times faster and differs by a fraction of a grey level after the final resize. 16-bit images are stretched
    from their minimum and maximum to 0–255, because 10- and 12-bit radiographs are commonly stored in 16 bits.

    Args:
        path: the file; its suffix tells DICOM from the rest.
        at_least_px: the shorter side that a JPEG must keep, in pixels.
        equalize_dicom: equalise a DICOM's histogram, which makes it look like the images of MIMIC-CXR-JPG.

    Raises:
        BadImage: missing, empty, truncated, unreadable, too large or constant.
        UserError: a DICOM needs a package that is not installed.
    """
    if path.name.endswith((".dcm", ".dcm.gz")):
        image = _load_dicom(path, equalize_dicom)
    else:
        image = _load_with_pillow(path, at_least_px)
    low, high = image.getextrema()
    if low == high:
        raise BadImage("constant image", f"every pixel is {low}")
    return image


def square(image: Image.Image, resolution_px: int, mode: SquareMode) -> Image.Image:
    """`image` as a square of `resolution_px`: its centre ("crop"), or all of it between black bars ("pad")."""
    width, height = image.size
    if mode == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, left + side, top + side)
        return image.resize((resolution_px, resolution_px), Image.Resampling.LANCZOS, box=box)
    scale = resolution_px / max(width, height)
    inner_width, inner_height = max(1, round(width * scale)), max(1, round(height * scale))
    inner = image.resize((inner_width, inner_height), Image.Resampling.LANCZOS)
    if inner.size == (resolution_px, resolution_px):
        return inner
    padded = Image.new("L", (resolution_px, resolution_px))
    padded.paste(inner, ((resolution_px - inner_width) // 2, (resolution_px - inner_height) // 2))
    return padded


def equalize(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Histogram equalisation in OpenCV's definition, which MIMIC-CXR-JPG applied; shape kept, 0–255.

    The darkest grey level present maps to 0, the brightest to 255, and between them a level maps to the share of
    the brighter-than-darkest pixels at or below it.
    """
    histogram = np.bincount(pixels.ravel(), minlength=256)
    darkest = int(pixels.min())
    counted = histogram.cumsum() - histogram[darkest]
    if counted[-1] == 0:
        return pixels
    lookup = np.rint(counted.clip(min=0) * (255.0 / counted[-1])).astype(np.uint8)
    return lookup[pixels]


def convert(source: str, target: str, resolution_px: int, mode: SquareMode) -> tuple[str, str] | None:
    """Write `source` as a square greyscale PNG at `target`, atomically, unless a whole PNG is there already.

    Returns:
        None when the image is there, else (reason, detail) of why it cannot be used.

    Raises:
        OSError: writing failed (a full disk is not the image's fault).
    """
    if _is_whole_png(target):
        return None
    try:
        image = square(load_grey(Path(source), resolution_px), resolution_px, mode)
    except BadImage as bad:
        return bad.reason, bad.detail
    folder, name = os.path.split(target)
    temporary = Path(folder, f".{name}.{os.getpid()}.tmp")
    try:
        # Noise holds few repetitions to search for: run lengths alone are 8 times faster than level 6, and smaller.
        image.save(temporary, format="PNG", compress_level=1, compress_type=zlib.Z_RLE)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return None


def _is_whole_png(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            file.seek(-len(PNG_END), os.SEEK_END)
            return file.read() == PNG_END
    except OSError:  # missing, or too short to seek
        return False


def _load_with_pillow(path: Path, at_least_px: int) -> Image.Image:
    # A command that converts files of unknown origin must not be talked into allocating gigabytes.
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with open_image(path) as image:
            image.draft("L", (at_least_px, at_least_px))
            image.load()
            return _as_grey(image)


def _as_grey(image: Image.Image) -> Image.Image:
    if image.mode == "L":
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(stretch(np.asarray(image)))
    if image.mode in ("LA", "PA", "P", "RGBA"):
        image = image.convert("RGBA")
        # What is transparent is background, and background is black on a radiograph.
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert("L")


def stretch(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Pixels of any numeric type as 8 bits, the minimum at 0 and the maximum at 255; a constant image becomes 0."""
    wide = pixels.astype(np.float32)
    low, high = float(wide.min()), float(wide.max())
    if not low < high:  # also NaN
        return np.zeros(wide.shape, np.uint8)
    return np.rint((wide - low) * (255.0 / (high - low))).astype(np.uint8)


def _load_dicom(path: Path, equalize_histogram: bool) -> Image.Image:
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
        from pydicom.pixels import get_decoder
    except ImportError:
        raise UserError(f"{path.name} is a DICOM file, which needs pydicom: pip install sdcxr[dicom]") from None
    try:
        if path.stat().st_size == 0:
            raise BadImage("empty file")
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as file:
            dataset = pydicom.dcmread(file)
        syntax = dataset.file_meta.TransferSyntaxUID
        if syntax.is_compressed and not get_decoder(syntax).is_available:
            raise UserError(f"{path.name} is compressed ({syntax.name}), which needs: pip install sdcxr[dicom]")
        pixels = dataset.pixel_array
        inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
    except FileNotFoundError:
        raise BadImage("missing image", path.name) from None
    except InvalidDicomError:
        raise BadImage("unreadable image", f"{path.name} is not a DICOM file") from None
    except (BadImage, UserError, MemoryError):
        raise
    except Exception as error:  # pydicom answers a damaged file with almost any exception
        raise BadImage("unreadable image", f"{type(error).__name__}: {error}") from None
    if pixels.ndim != 2:
        raise BadImage("unreadable image", f"not one greyscale frame but an array of shape {pixels.shape}")
    grey = stretch(pixels)
    if inverted:
        grey = 255 - grey
    return Image.fromarray(equalize(grey) if equalize_histogram else grey)
