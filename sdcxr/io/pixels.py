"""Image files: decode and check for damage, read as tensor, write greyscale PNG, tile into a grid.

One grey channel on both sides. torch is imported by `read_pixels` only: preparation of data does without.
"""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from sdcxr.io.files import atomic
from sdcxr.io.image_files import BadImage
from sdcxr.runtime.errors import UserError

if TYPE_CHECKING:
    import torch

JPEG_SCAN = b"\xff\xda"
JPEG_END = b"\xff\xd9"  # compressed pixels contain neither marker


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file of any format that Pillow reads; nothing is decoded, converted or rotated yet.

    What Pillow raises in the block, while it decodes or converts, is a `BadImage`, too. A JPEG without its end is
    refused: libjpeg fills what is missing with grey, silently where zeros follow, as after a failed copy.

    Raises:
        BadImage: missing, empty, no image, damaged, cut off, or larger than Pillow's limit against decompression bombs.
    """
    try:
        data = path.read_bytes()
        if not data:
            raise BadImage("empty file")
        image = Image.open(io.BytesIO(data))
        if image.format in ("JPEG", "MPO") and not _jpeg_has_end(data):
            raise BadImage("truncated image", "image file is truncated: the JPEG has no end")
        yield image
    except FileNotFoundError:
        raise BadImage("missing image", path.name) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:  # the warning where it is an error
        raise BadImage("image too large", str(error)) from None
    except UnidentifiedImageError:
        raise BadImage("unreadable image", f"{path.name} is no image format that Pillow knows") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # any of them, depending on format and damage
        reason = "truncated image" if "truncated" in str(error) else "unreadable image"
        raise BadImage(reason, str(error).replace(str(path), path.name)) from None


def _jpeg_has_end(data: bytes) -> bool:
    # Bytes may follow the end; a preview in the header has its own end, before the last scan.
    return data.endswith(JPEG_END) or data.find(JPEG_END, data.rfind(JPEG_SCAN)) >= 0


def read_pixels(path: Path, resolution: int) -> "torch.Tensor":
    """Read a square image as float32 in [-1, 1], shape (1, resolution, resolution), resized where necessary.

    Raises:
        UserError: the file is missing or unreadable, or the image has more than 8 bits per pixel or is not square.
    """
    import torch

    try:
        with open_image(path) as opened:
            if opened.mode[0] in "IF":
                raise UserError(f"{path} has more than 8 bits per pixel: data_prep makes images of 8 bits")
            image = opened.convert("L")
    except BadImage as bad:
        raise UserError(f"{path} is named in metadata.csv and {bad}: run data_prep again") from None
    if image.width != image.height:
        raise UserError(f"{path} is not square ({image.width} × {image.height}): data_prep makes square images")
    if image.width != resolution:
        image = image.resize((resolution, resolution), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(image, dtype=np.float32)[None] / 127.5 - 1)


def to_grey(images: "torch.Tensor") -> "torch.Tensor":
    """Decoded images (batch, 3, H, W) in [-1, 1] as uint8 (batch, H, W): the channels' mean, rounded."""
    return ((images.float().mean(dim=1) / 2 + 0.5).clamp(0, 1) * 255).round().byte().cpu()


def write_png(path: Path, grey: np.ndarray) -> None:
    """Write a uint8 image (H, W) atomically as greyscale PNG."""
    with atomic(path) as temporary:
        Image.fromarray(grey).save(temporary, format="PNG")


def grid(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Tile uint8 images of one size (H, W) row by row with a black border of 2 pixels between them."""
    height, width = images[0].shape
    rows = math.ceil(len(images) / columns)
    sheet = np.zeros((rows * (height + 2) - 2, columns * (width + 2) - 2), dtype=np.uint8)
    for i, image in enumerate(images):
        y, x = (i // columns) * (height + 2), (i % columns) * (width + 2)
        sheet[y : y + height, x : x + width] = image
    return sheet
