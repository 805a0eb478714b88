"""Steps of resize paths that several families share."""

import numpy as np
from PIL import Image


def centre_square(image: Image.Image) -> Image.Image:
    """The central square of an image, cut as torchxrayvision's XRayCenterCrop does."""
    width, height = image.size
    if width == height:
        return image
    side = min(width, height)
    left, top = width // 2 - side // 2, height // 2 - side // 2
    return image.crop((left, top, left + side, top + side))


def bicubic_float(image: Image.Image, side: int) -> np.ndarray:
    """Bicubic resize (antialiased) in float without rounding, as clean-fid does: (side, side) in [0, 255], float32.

    Parmar et al. 2022, arXiv 2104.11222.
    """
    exact = Image.fromarray(np.asarray(image, dtype=np.float32))
    return np.asarray(exact.resize((side, side), Image.Resampling.BICUBIC)).clip(0, 255)
