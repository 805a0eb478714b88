"""Pictures of more than 8 bits: PNG and TIFF that Pillow cuts to 8 bits or cannot open, and the stretch to 8 bits."""

import io
import warnings
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin

from sdcxr.io.image_files import BadImage
from sdcxr.io.png import read_16_bits

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, of red, green and blue
ORIENTATION = 0x0112  # EXIF and TIFF tag
_BITS, _FORMAT, _PHOTOMETRIC = 258, 339, 262
WHITE_IS_ZERO = 0
BULK = (1.0, 97.0)  # percentiles between which a radiograph's values lie; a burnt-in marker is smaller than the rest


class Deep(NamedTuple):
    """Grey values of more than 8 bits, not yet stretched.

    `values`: any numeric type, shape (H, W), larger is brighter. `shown`: bool of the same shape, False for padding and
    transparency; None where everything is picture. `orientation`: EXIF's 1–8.
    """

    values: np.ndarray
    shown: np.ndarray | None = None
    orientation: int = 1


def luma(colour: np.ndarray) -> np.ndarray:
    """ITU-R 601 luma, float32 (H, W), of red, green, blue (H, W, 3 or more); exact where the three are equal."""
    red, green, blue = (colour[..., i].astype(np.float32) for i in range(3))
    grey = red + LUMA[1] * (green - red) + LUMA[2] * (blue - red)
    return np.asarray(grey, np.float32)


def stretch(values: np.ndarray, shown: np.ndarray | None = None) -> np.ndarray:
    """Values of any numeric type as uint8 of the same shape: minimum 0, maximum 255; a constant image becomes 0.

    10- and 12-bit radiographs are usually stored in 16 bits. What lies far outside (hot pixels, markers at 65535,
    padding that nothing declares) does not count and becomes black or white: an extreme level that is further from the
    others than these are from each other, and values further beyond the percentiles `BULK` than these are apart. No
    clean radiograph has such values: in 203 of ChestX-ray14 the furthest lie 0.6 widths beyond.

    Args:
        values: shape (H, W).
        shown: False where the picture has nothing to show, which does not count and becomes black.

    Raises:
        BadImage: NaN or infinite values.
    """
    if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
        raise BadImage("NaN or infinite values", f"{np.count_nonzero(~finite)} of {values.size} pixels")
    inside = values if shown is None else values[shown]
    if not inside.size:
        return np.zeros(values.shape, np.uint8)
    low, high = _range(inside.ravel())
    if not low < high:
        return np.zeros(values.shape, np.uint8)
    wide: Any = values.astype(np.float64 if values.dtype.itemsize > 2 else np.float32)
    scaled = (wide - low) * (255.0 / (high - low))
    grey = np.rint(scaled).clip(0, 255).astype(np.uint8)
    if shown is not None:
        grey[~shown] = 0
    return grey


def _range(values: np.ndarray) -> tuple[float, float]:
    """The smallest and largest value that count; `values` is flat."""
    low, high = float(values.min()), float(values.max())
    between = values[(values > low) & (values < high)]
    if not between.size:
        return low, high
    inner_low, inner_high = float(between.min()), float(between.max())
    width = inner_high - inner_low
    # A level by itself, further from all others than these are from each other, is none of the picture.
    low, high = (
        (inner_low if inner_low - low > width > 0 else low),
        (inner_high if high - inner_high > width > 0 else high),
    )
    values = values[(values >= low) & (values <= high)]
    bulk_low, bulk_high = map(float, np.percentile(values[:: max(1, len(values) // 100_000)], BULK))
    width = bulk_high - bulk_low
    if width > 0 and high > bulk_high + width:
        high = float(values[values <= bulk_high + width].max())
    if width > 0 and low < bulk_low - width:
        low = float(values[values >= bulk_low - width].min())
    return low, high


def deep_tiff(image: Image.Image) -> bool:
    """Whether a TIFF that Pillow has opened has more than 8 bits per channel."""
    return isinstance(image, TiffImagePlugin.TiffImageFile) and max(image.tag_v2.get(_BITS, (1,))) > 8


def read_deep(data: bytes, image: Image.Image) -> Deep:
    """Decode an open image of more than 8 bits per channel.

    Raises:
        BadImage: damaged, or of a kind that is not understood.
    """
    if not deep_tiff(image):
        orientation = image.getexif().get(ORIENTATION, 1)
        return Deep(np.asarray(image), None, orientation) if image.mode[0] in "IF" else _png(data, orientation)
    bits = max(image.tag_v2[_BITS])  # type: ignore[attr-defined]
    if (bits > 16 and image.mode != "F") or image.mode[0] not in "IF":
        return read_tiff(data)
    values = np.asarray(image)
    if image.tag_v2.get(_PHOTOMETRIC) == WHITE_IS_ZERO:  # type: ignore[attr-defined]  # inverted by Pillow for 8 bits only
        values = -values.astype(np.float32)
    return Deep(values)  # Pillow has turned it


def _png(data: bytes, orientation: int) -> Deep:
    channels = read_16_bits(data)
    grey = luma(channels) if channels.shape[2] > 2 else channels[..., 0]
    return _composite(grey, channels[..., -1] / 65535 if channels.shape[2] in (2, 4) else None, orientation)


def _composite(grey: np.ndarray, alpha: np.ndarray | None, orientation: int) -> Deep:
    """Grey over black; `alpha` in 0–1."""
    if alpha is None or (alpha == 1).all():
        return Deep(grey, None, orientation)
    return Deep(grey.astype(np.float32) * alpha, alpha > 0, orientation)


def read_tiff(data: bytes) -> Deep:
    """Decode a TIFF that Pillow cannot open, or cuts to 8 bits, with tifffile (torchxrayvision brings it).

    Raises:
        BadImage: damaged, compressed in a way that tifffile alone does not read, or of a kind that is not understood.
    """
    import tifffile

    try:
        with warnings.catch_warnings(), tifffile.TiffFile(io.BytesIO(data)) as file:
            if len(file.pages) > 1:
                raise BadImage("several pictures in a file", f"TIFF of {len(file.pages)} pages")
            page: Any = file.pages[0]
            if Image.MAX_IMAGE_PIXELS and page.size > Image.MAX_IMAGE_PIXELS:
                raise BadImage("image too large", f"TIFF of shape {page.shape}")
            values = np.asarray(page.asarray())
            orientation = page.tags.get(ORIENTATION)
            return _composite(*_tiff_channels(page, values), orientation.value if orientation else 1)
    except (BadImage, MemoryError):  # a machine without memory says nothing about the file
        raise
    except Exception as error:  # whatever its parsers meet in a damaged file
        raise BadImage("unreadable image", f"TIFF: {error}") from None


def _tiff_channels(page: Any, values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Grey values and alpha in 0–1 of a TIFF page."""
    photometric = page.photometric.name
    colours = {"MINISBLACK": 1, "MINISWHITE": 1, "RGB": 3}.get(photometric)
    samples = page.samplesperpixel
    extra = [sample.name for sample in page.extrasamples]
    if colours is None or samples != colours + len(extra) or extra not in ([], ["UNASSALPHA"], ["ASSOCALPHA"]):
        raise BadImage("unsupported TIFF", f"{photometric} of {samples} channels {' '.join(extra)}".strip())
    channels = np.moveaxis(values, page.axes.index("S"), -1) if "S" in page.axes else values[..., None]
    if channels.ndim != 3:
        raise BadImage("unsupported TIFF", f"array of axes {page.axes}")
    grey = luma(channels) if colours == 3 else channels[..., 0]
    if photometric == "MINISWHITE":
        grey = -grey.astype(np.float64)
    if not extra:
        return grey, None
    full = 1.0 if values.dtype.kind == "f" else float(np.iinfo(values.dtype).max)
    alpha = channels[..., -1] / full
    if extra == ["ASSOCALPHA"]:  # multiplied already
        return grey, (alpha > 0).astype(np.float64)
    return grey, alpha
