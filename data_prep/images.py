"""Convert radiographs (JPEG, PNG, DICOM) to square 8-bit greyscale PNG. Never mirrors or rotates: sides matter."""

import gzip
import os
import warnings
import zlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdcxr.io.pixels import BadImage, open_image
from sdcxr.runtime.errors import UserError

SquareMode = Literal["crop", "pad"]


def load_grey(path: Path, at_least_px: int, equalize_dicom: bool = True) -> Image.Image:
    """Read a JPEG, PNG or DICOM file (`.dcm`, `.dcm.gz`) as image of mode L, pixels as stored.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its scale if its shorter side keeps `at_least_px`: several times faster,
    and a difference of a fraction of a grey level after the final resize. 16-bit images are stretched from minimum and
    maximum to 0–255, because 10- and 12-bit radiographs are usually stored in 16 bits.

    Args:
        path: the file; the suffix decides whether it is read as DICOM.
        at_least_px: minimum length of a JPEG's shorter side, in pixels.
        equalize_dicom: equalise the histogram of a DICOM image, as was done for MIMIC-CXR-JPG.

    Raises:
        BadImage: missing, empty, truncated, unreadable, too large or constant.
        UserError: a DICOM file needs a package that is not installed.
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
    """Resize to a square of `resolution_px`: the centre ("crop"), or everything between black bars ("pad")."""
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
    """Histogram equalisation as OpenCV defines it, which was applied to MIMIC-CXR-JPG; same shape, 0–255.

    The darkest level present becomes 0, the brightest 255; a level between them becomes the share of pixels at or below
    it, among those brighter than the darkest.
    """
    histogram = np.bincount(pixels.ravel(), minlength=256)
    darkest = int(pixels.min())
    counted = histogram.cumsum() - histogram[darkest]
    if counted[-1] == 0:
        return pixels
    lookup = np.rint(counted.clip(min=0) * (255.0 / counted[-1])).astype(np.uint8)
    return lookup[pixels]


class Converted(NamedTuple):
    """What became of an image: `reason` and `detail` why it cannot be used, or hashes of the written pixels."""

    reason: str = ""
    detail: str = ""
    digest: str = ""
    phash: str = ""


def convert(source: str, target: str, resolution_px: int, mode: SquareMode) -> Converted:
    """Convert `source` to a square greyscale PNG at `target`, atomically.

    Raises:
        OSError: writing failed, such as on a full disk.
    """
    try:
        image = square(load_grey(Path(source), resolution_px), resolution_px, mode)
    except BadImage as bad:
        return Converted(bad.reason, bad.detail)
    folder, name = os.path.split(target)
    temporary = Path(folder, f".{name}.{os.getpid()}.tmp")
    try:
        # Film grain has few repetitions to find: run lengths alone are 8 times faster than level 6, and smaller.
        image.save(temporary, format="PNG", compress_level=1, compress_type=zlib.Z_RLE)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return Converted()


def _load_with_pillow(path: Path, at_least_px: int) -> Image.Image:
    # Files come from anywhere: a decompression bomb must not make this allocate gigabytes.
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
        # Transparent is background, which is black on a radiograph.
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert("L")


def stretch(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Pixels of any numeric type as 8 bits, minimum to 0 and maximum to 255; a constant image becomes 0."""
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
    except Exception as error:  # pydicom raises almost anything on a damaged file
        raise BadImage("unreadable image", f"{type(error).__name__}: {error}") from None
    if pixels.ndim != 2:
        raise BadImage("unreadable image", f"not one greyscale frame but an array of shape {pixels.shape}")
    grey = stretch(pixels)
    if inverted:
        grey = 255 - grey
    return Image.fromarray(equalize(grey) if equalize_histogram else grey)
