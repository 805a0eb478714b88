"""The one way from any image file to upright pixels, grey unless colour is asked for; PNG and grids the other way.

Used by preparation, training and evaluation alike. torch is imported by `read_pixels` only: preparation does without.
"""

import gzip
import io
import math
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sdcxr.io.deep import ORIENTATION, Deep, deep_tiff, read_deep, read_tiff, stretch
from sdcxr.io.dicom import read_dicom, starts_like_dicom
from sdcxr.io.files import atomic
from sdcxr.io.image_files import GZIP, TIFF, BadImage, NeedsStretch, is_dicom
from sdcxr.io.jpeg import START, load_jpeg
from sdcxr.io.png import SIGNATURE, check_png, encode_png, has_16_bits
from sdcxr.runtime.errors import UserError

if TYPE_CHECKING:
    import torch

OF_PARSERS = (LookupError, ArithmeticError, struct.error, zlib.error)  # raised by Pillow's on some damaged files
LARGEST_UNPACKED = 1 << 30  # bytes; of a compressed file


class Upright(NamedTuple):
    """A decoded picture, turned as its file says: mode L, or RGB where the file has three channels of 8 bits."""

    image: Image.Image
    is_dicom: bool


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Whatever a missing or damaged image file raises in the block, as a `BadImage`."""
    try:
        with warnings.catch_warnings():
            # Files come from anywhere: a decompression bomb must not allocate gigabytes.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except FileNotFoundError:
        raise BadImage("missing image", path.name) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadImage("image too large", str(error)) from None
    except UnidentifiedImageError:
        raise BadImage("unreadable image", f"{path.name} is no image format that Pillow knows") from None
    # Pillow raises any of these, depending on format and damage.
    except (OSError, SyntaxError, ValueError, TypeError, EOFError, *OF_PARSERS) as error:
        reason = "truncated image" if "truncated" in str(error) else "unreadable image"
        raise BadImage(reason, str(error).replace(str(path), path.name)) from None


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file that Pillow reads, for its header: nothing is decoded, turned or checked yet.

    Raises:
        BadImage: missing, empty, no image, or larger than Pillow's limit against decompression bombs.
    """
    with named_errors(path), Image.open(io.BytesIO(_content(path))) as image:
        yield image


def is_coloured(image: Image.Image) -> bool:
    """Whether a picture is saved with channels of colour, or with a palette that is not of greys alone."""
    if image.mode in ("P", "PA"):
        palette = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
        return bool((palette != palette[:, :1]).any())
    return image.mode not in ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def load_upright(path: Path, at_least_px: int = 0, stretched: bool = False) -> Upright:
    """Decode an image file of any kind, turned upright by its EXIF or TIFF orientation, never mirrored otherwise.

    The content decides the format, not the suffix. Transparent is black, the background of a radiograph.

    Args:
        path: PNG, JPEG, TIFF, DICOM (`sdcxr.io.dicom`), or what else Pillow reads; gzip of any of them.
        at_least_px: decode a JPEG as grey at 1/2, 1/4 or 1/8 scale if its shorter side keeps this many pixels: several
            times faster, and a difference of a fraction of a grey level after a resize. 0: at its full size.
        stretched: stretch pictures of more than 8 bits, and DICOM files, to 0–255.

    Raises:
        NeedsStretch: a DICOM file, or more than 8 bits per channel, and not `stretched`.
        BadImage: missing, empty, truncated, damaged, too large, of several frames, or of a kind that is not understood.
        UserError: a DICOM file needs a package that is not installed.
    """
    with named_errors(path):
        data = _content(path)
        if data.startswith(GZIP):
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                data = file.read(LARGEST_UNPACKED + 1)
            if len(data) > LARGEST_UNPACKED:
                raise BadImage("image too large", f"unpacks to more than {LARGEST_UNPACKED} bytes")
        dicom = is_dicom(data) or starts_like_dicom(data)
        if dicom and not stretched:
            raise NeedsStretch("is a DICOM file")
        decoded = read_dicom(data, path.name) if dicom else _decode(data, at_least_px, stretched)
        if isinstance(decoded, Deep):
            image = Image.fromarray(stretch(decoded.values, decoded.shown))
            image.getexif()[ORIENTATION] = decoded.orientation
        else:
            image = _grey_or_rgb(decoded)
        return Upright(image if image.getexif().get(ORIENTATION, 1) == 1 else ImageOps.exif_transpose(image), dicom)


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    if not data:
        raise BadImage("empty file")
    return data


def _decode(data: bytes, at_least_px: int, stretched: bool) -> Image.Image | Deep:
    """A picture that is no DICOM file, as stored."""
    if data.startswith(START):
        return load_jpeg(data, at_least_px)
    if data.startswith(SIGNATURE):
        check_png(data)
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        if not data.startswith(TIFF):
            raise
        if not stretched:
            raise NeedsStretch("has more than 8 bits per pixel") from None
        return read_tiff(data)
    if getattr(image, "n_frames", 1) > 1:
        raise BadImage("several pictures in a file", f"{image.format} of {image.n_frames} pictures")  # type: ignore[attr-defined]
    if has_16_bits(data) or deep_tiff(image) or image.mode[0] in "IF":
        if not stretched:
            raise NeedsStretch("has more than 8 bits per pixel")
        return read_deep(data, image)
    image.load()
    return image


def _grey_or_rgb(image: Image.Image) -> Image.Image:
    """Mode L or RGB; transparent becomes black. The orientation tag stays."""
    if image.mode in ("L", "RGB"):
        return image
    exif = image.getexif()
    if "A" in image.mode or "a" in image.mode or image.mode == "P":
        grey = not is_coloured(image)
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
        image = image.getchannel("R") if grey else image
    else:
        image = image.convert("L" if image.mode == "1" else "RGB")
    image.getexif()[ORIENTATION] = exif.get(ORIENTATION, 1)
    return image


def read_pixels(path: Path, resolution: int, channels: int = 1) -> "torch.Tensor":
    """Read a square image as float32 in [-1, 1], shape (channels, resolution, resolution), resized where necessary.

    Args:
        path: the file.
        resolution: side in pixels.
        channels: 1: grey, colour is converted; 3: red, green and blue, equal where the file is grey.

    Raises:
        UserError: the file is missing or unreadable, or the image has more than 8 bits per pixel or is not square.
    """
    import torch

    image = _read_square(path).convert("L" if channels == 1 else "RGB")
    if image.width != resolution:
        image = image.resize((resolution, resolution), Image.Resampling.LANCZOS)
    pixels = np.asarray(image, dtype=np.float32)
    return torch.from_numpy((pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)) / 127.5 - 1)


def read_mask(path: Path, resolution: int) -> np.ndarray:
    """Read a square mask as bool (resolution, resolution), resized to the nearest pixel: True where it is not black.

    Raises:
        UserError: see `read_pixels`; or it has several levels beside black: structures by number, or soft borders.
    """
    image = _read_square(path)
    colours = image.getcolors(2)
    if colours is None or sum(bool(np.any(colour)) for _, colour in colours) > 1:
        raise UserError(
            f"{path} has several levels beside black: one file per structure with hard borders is read, as data_prep "
            "makes them"
        )
    mask = image.convert("L").point(lambda level: 255 * (level > 0))
    if mask.width != resolution:
        mask = shrunk_mask(lambda resample: mask.resize((resolution, resolution), resample))
    return np.asarray(mask) > 0


def shrunk_mask(resize: Callable[[Image.Resampling], Image.Image]) -> Image.Image:
    """A mask resized to the nearest pixel; where all of it falls between the pixels, the one that has most of it.

    An image with a small structure would else count as one without.

    Args:
        resize: the mask, 0 and 255, resized by some way of resampling.
    """
    nearest = resize(Image.Resampling.NEAREST)
    if nearest.getbbox() is None and (shares := np.asarray(resize(Image.Resampling.BOX))).any():
        row, column = np.unravel_index(shares.argmax(), shares.shape)
        nearest.putpixel((int(column), int(row)), 255)
    return nearest


def _read_square(path: Path) -> Image.Image:
    try:
        image = load_upright(path).image
    except NeedsStretch as deep:
        raise UserError(f"{path} {deep}: data_prep makes images of 8 bits") from None
    except BadImage as bad:
        raise UserError(f"{path} is named in metadata.csv and {bad}: run data_prep again") from None
    if image.width != image.height:
        raise UserError(f"{path} is not square ({image.width} × {image.height}): data_prep makes square images")
    return image


def to_grey(images: "torch.Tensor") -> "torch.Tensor":
    """Decoded images (batch, 3, H, W) in [-1, 1] as uint8 (batch, H, W): the channels' mean, rounded."""
    return ((images.float().mean(dim=1) / 2 + 0.5).clamp(0, 1) * 255).round().byte().cpu()


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write a uint8 image atomically as PNG: grey (H, W), or colour (H, W, 3)."""
    with atomic(path) as temporary:
        temporary.write_bytes(encode_png(pixels))


def grid(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Tile uint8 images of one size (H, W) row by row with a black border of 2 pixels between them."""
    height, width = images[0].shape
    rows = math.ceil(len(images) / columns)
    sheet = np.zeros((rows * (height + 2) - 2, columns * (width + 2) - 2), dtype=np.uint8)
    for i, image in enumerate(images):
        y, x = (i // columns) * (height + 2), (i % columns) * (width + 2)
        sheet[y : y + height, x : x + width] = image
    return sheet
