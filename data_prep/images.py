"""Convert pictures (JPEG, PNG, TIFF, DICOM) and their masks to square 8-bit PNG. Never mirrors: sides matter."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.duplicates import digest, perceptual_hash
from sdcxr.io.image_files import BadImage
from sdcxr.io.pixels import load_upright, shrunk_mask
from sdcxr.io.png import encode_png

SquareMode = Literal["crop", "pad"]
ImageType = Literal["radiograph", "grey", "colour"]
"""What the pictures are. `radiograph`: grey; DICOM is equalised, and what shows nothing by the measure of radiographs
is refused. `grey`: other grey pictures. `colour`: colour stays, grey files stay grey."""

# No radiograph comes near: of 203 of ChestX-ray14 and 194 phantoms at 256 pixels, the flattest spans 133 grey levels
# between these percentiles, and at most 24 % of the pixels are at the ends or have one level.
SPAN_PERCENTILES, LEAST_SPAN = (0.02, 0.98), 16
MOST_AT_THE_ENDS = 0.8
MOST_OF_ONE_LEVEL = 0.8

MASKS = "masks"  # folder beside the images of a split
# Soft borders have many grey levels on few pixels; a mask that numbers its classes has few levels.
LEAST_ON_BORDERS, MOST_BETWEEN = 16, 0.1


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


def load_picture(path: Path, at_least_px: int, image_type: ImageType) -> Image.Image:
    """Read an image file upright, as mode L, or RGB where colour stays; see `ImageType`.

    Raises:
        BadImage: as `load_upright`; in colour, also more than 8 bits, whose colours `load_upright` does not read.
    """
    if image_type == "colour":
        return load_upright(path).image
    return load_grey(path, at_least_px, equalize_dicom=image_type == "radiograph")


def check_contrast(image: Image.Image, image_type: ImageType = "radiograph") -> None:
    """Refuse a picture, as it is about to be written, that shows nothing.

    Raises:
        BadImage: constant; or of a radiograph nearly constant, or mostly black and white.
    """
    histogram = np.array(image.convert("L").histogram())
    levels = np.flatnonzero(histogram)
    if len(levels) == 1:
        raise BadImage("constant image", f"every pixel is {levels[0]} after crop and resize")
    if image_type != "radiograph":  # a cell under the microscope may fill a tenth of its picture
        return
    share = histogram / histogram.sum()
    low, high = np.searchsorted(share.cumsum(), SPAN_PERCENTILES)
    if high - low < LEAST_SPAN:
        raise BadImage("nearly constant image", f"96 % of the pixels are from {low} to {high} after crop and resize")
    if (ends := share[:2].sum() + share[-2:].sum()) > MOST_AT_THE_ENDS:
        raise BadImage("mostly saturated image", f"{ends:.0%} of the pixels are black or white after crop and resize")
    if share.max() > MOST_OF_ONE_LEVEL:
        level = share.argmax()
        raise BadImage("nearly constant image", f"{share[level]:.0%} of the pixels are {level} after crop and resize")


def square(
    image: Image.Image,
    resolution_px: int,
    mode: SquareMode,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> Image.Image:
    """Resize to a square of `resolution_px`: the centre ("crop"), or everything between black bars ("pad")."""
    width, height = image.size
    if mode == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, left + side, top + side)
        return image.resize((resolution_px, resolution_px), resample, box=box)
    scale = resolution_px / max(width, height)
    inner_width, inner_height = max(1, round(width * scale)), max(1, round(height * scale))
    inner = image.resize((inner_width, inner_height), resample)
    if inner.size == (resolution_px, resolution_px):
        return inner
    padded = Image.new(image.mode, (resolution_px, resolution_px))
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


def unite_masks(paths: Sequence[str], size: tuple[int, int]) -> Image.Image:
    """The union of the masks of one picture, mode L: 255 where one of them is brighter than half of its maximum.

    Args:
        paths: mask files of any format with two levels, soft borders allowed; black ones are empty.
        size: width and height of the picture.

    Raises:
        BadImage: as `load_upright`, or a mask of another size or of more than two levels.
    """
    united = np.zeros(size[::-1], dtype=bool)
    for path in map(Path, paths):
        mask = np.asarray(load_upright(path).image.convert("L"))
        if mask.shape != united.shape:
            sizes = f"{mask.shape[1]} × {mask.shape[0]}, the picture {size[0]} × {size[1]}"
            raise BadImage("mask of another size", f"{path.name} is {sizes}")
        top, n_levels = int(mask.max()), len(np.unique(mask))
        between = (mask > 0.1 * top) & (mask < 0.9 * top)
        if between.any() and (n_levels < LEAST_ON_BORDERS or between.mean() > MOST_BETWEEN):
            raise BadImage("mask of several levels", f"{path.name} has {n_levels}: one file per structure is read")
        united |= mask > top / 2 if top else False
    return Image.fromarray(united.astype(np.uint8) * 255)


def mask_path(image: str, structure: str) -> str:
    """Where the mask of a written image lies: masks/NAME.png beside it, or masks/STRUCTURE/NAME.png."""
    folder, name = os.path.split(image)
    return "/".join(filter(None, (folder, MASKS, structure, name)))


def convert(
    source: str,
    target: str,
    resolution_px: int,
    mode: SquareMode,
    image_type: ImageType = "radiograph",
    masks: Mapping[str, Sequence[str]] | None = None,
) -> Converted:
    """Convert `source` to a square PNG at `target`, atomically, and its masks by structure to their `mask_path`.

    Raises:
        OSError: writing failed, such as on a full disk.
        UserError: a DICOM file needs a package that is not installed.
    """
    try:
        # A mask fits the picture at its full size.
        whole = load_picture(Path(source), 0 if masks else resolution_px, image_type)
        image = square(whole, resolution_px, mode)
        check_contrast(image if mode == "crop" else _without_bars(image, whole.size), image_type)
        files = {
            mask_path(target, structure): shrunk_mask(
                partial(square, unite_masks(paths, whole.size), resolution_px, mode)
            )
            for structure, paths in (masks or {}).items()
        }
    except BadImage as bad:
        return Converted(bad.reason, bad.detail)
    for path, picture in (files | {target: image}).items():  # the image last: masks without it are not missed
        _write(path, encode_png(np.asarray(picture)))
    return Converted(digest=digest(np.asarray(image)), phash=perceptual_hash(np.asarray(image.convert("L"))))


def _write(target: str, data: bytes) -> None:
    folder, name = os.path.split(target)
    temporary = Path(folder, f".{name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _without_bars(padded: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The part of a padded square that came from a picture of this size."""
    side = padded.width
    width, height = (max(1, round(length * side / max(size))) for length in size)
    left, top = (side - width) // 2, (side - height) // 2
    return padded.crop((left, top, left + width, top + height))
