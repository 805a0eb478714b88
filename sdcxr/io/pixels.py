"""Between image files and tensors: one grey channel on both sides."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sdcxr.io.files import atomic
from sdcxr.io.jpeg import check_end
from sdcxr.runtime.errors import UserError


def read_pixels(path: Path, resolution: int) -> torch.Tensor:
    """One grey image as float32 in [-1, 1], shape (1, resolution, resolution).

    Raises:
        UserError: the file is missing or unreadable, or the image is not square.
    """
    try:
        with Image.open(path) as opened:
            check_end(opened)
            if opened.mode[0] in "IF":
                raise UserError(f"{path} has more than 8 bits per pixel: data_prep makes images of 8 bits")
            image = opened.convert("L")
    except FileNotFoundError:
        raise UserError(f"{path} is named in metadata.csv and does not exist: run data_prep again") from None
    except (OSError, ValueError, SyntaxError) as error:  # all three are Pillow's ways to say that a file is damaged
        raise UserError(f"{path} cannot be read ({error}): run data_prep again") from None
    if image.width != image.height:
        raise UserError(f"{path} is not square ({image.width} × {image.height}): data_prep makes square images")
    if image.width != resolution:
        image = image.resize((resolution, resolution), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(image, dtype=np.float32)[None] / 127.5 - 1)


def to_grey(images: torch.Tensor) -> torch.Tensor:
    """Decoded images (batch, 3, H, W) in [-1, 1] as uint8 (batch, H, W): the channels' mean, rounded."""
    return ((images.float().mean(dim=1) / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def write_png(path: Path, grey: np.ndarray) -> None:
    """Write a uint8 image (H, W) atomically as greyscale PNG."""
    with atomic(path) as temporary:
        Image.fromarray(grey).save(temporary, format="PNG")


def grid(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Tile uint8 images of one size (H, W) row by row, with a black border of 2 pixels between them."""
    height, width = images[0].shape
    rows = math.ceil(len(images) / columns)
    sheet = np.zeros((rows * (height + 2) - 2, columns * (width + 2) - 2), dtype=np.uint8)
    for i, image in enumerate(images):
        y, x = (i // columns) * (height + 2), (i % columns) * (width + 2)
        sheet[y : y + height, x : x + width] = image
    return sheet
