"""Convert radiographs (JPEG, PNG, TIFF, DICOM) to square 8-bit greyscale PNG. Never mirrors: sides matter."""

import os
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.duplicates import digest, perceptual_hash
from sdcxr.io.image_files import BadImage
from sdcxr.io.pixels import load_upright
from sdcxr.io.png import encode_png

SquareMode = Literal["crop", "pad"]

# No radiograph comes near: of 203 of ChestX-ray14 and 194 phantoms at 256 pixels, the flattest spans 133 grey levels
# between these percentiles, and at most 24 % of the pixels are at the ends or have one level.
SPAN_PERCENTILES, LEAST_SPAN = (0.02, 0.98), 16
MOST_AT_THE_ENDS = 0.8
MOST_OF_ONE_LEVEL = 0.8


class Converted(NamedTuple):
    """Outcome of one image: reason and detail are empty if it was written, hashes of the pixels if it was not."""

    reason: str = ""
    detail: str = ""
    digest: str = ""
    phash: str = ""


def load_grey(path: Path, at_least_px: int, equalize_dicom: bool = True) -> Image.Image:
    """Read an image file as mode L, upright; more than 8 bits are stretched (`sdcxr.io.pixels.load_upright`).

    Args:
        path: the file.
        at_least_px: minimum length of a JPEG's shorter side, in pixels; it is decoded at a reduced scale.
        equalize_dicom: equalise the histogram of a DICOM image, as was done for MIMIC-CXR-JPG.

    Raises:
        BadImage, UserError: as `load_upright`.
    """
    image, is_dicom = load_upright(path, at_least_px, stretched=True)
    image = image.convert("L")
    return Image.fromarray(equalize(np.asarray(image))) if is_dicom and equalize_dicom else image


def check_contrast(image: Image.Image) -> None:
    """Refuse a picture of mode L, as it is about to be written, that shows nothing.

    Raises:
        BadImage: constant, nearly constant, or mostly black and white.
    """
    histogram = np.array(image.histogram())
    levels = np.flatnonzero(histogram)
    if len(levels) == 1:
        raise BadImage("constant image", f"every pixel is {levels[0]} after crop and resize")
    share = histogram / histogram.sum()
    low, high = np.searchsorted(share.cumsum(), SPAN_PERCENTILES)
    if high - low < LEAST_SPAN:
        raise BadImage("nearly constant image", f"96 % of the pixels are from {low} to {high} after crop and resize")
    if (ends := share[:2].sum() + share[-2:].sum()) > MOST_AT_THE_ENDS:
        raise BadImage("mostly saturated image", f"{ends:.0%} of the pixels are black or white after crop and resize")
    if share.max() > MOST_OF_ONE_LEVEL:
        level = share.argmax()
        raise BadImage("nearly constant image", f"{share[level]:.0%} of the pixels are {level} after crop and resize")


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


def convert(source: str, target: str, resolution_px: int, mode: SquareMode) -> Converted:
    """Convert `source` to a square greyscale PNG at `target`, atomically.

    Raises:
        OSError: writing failed, such as on a full disk.
        UserError: a DICOM file needs a package that is not installed.
    """
    try:
        grey = load_grey(Path(source), resolution_px)
        image = square(grey, resolution_px, mode)
        check_contrast(image if mode == "crop" else _without_bars(image, grey.size))
    except BadImage as bad:
        return Converted(bad.reason, bad.detail)
    pixels = np.asarray(image)
    folder, name = os.path.split(target)
    temporary = Path(folder, f".{name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(encode_png(pixels))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return Converted(digest=digest(pixels), phash=perceptual_hash(pixels))


def _without_bars(padded: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The part of a padded square that came from a picture of this size."""
    side = padded.width
    width, height = (max(1, round(length * side / max(size))) for length in size)
    left, top = (side - width) // 2, (side - height) // 2
    return padded.crop((left, top, left + width, top + height))
