"""Grey pictures of a folder as one array, for the scores that compare pixels."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from sdcxr.threads import available_cores


def read_greys(paths: Sequence[Path], size: int) -> np.ndarray:
    """Images as uint8 of shape (n, size, size): one grey channel, the mean over areas where an image is larger.

    Subtract them only after a conversion to float: uint8 wraps around.

    Raises:
        UserError: files are missing, damaged or deeper than 8 bits; the first of them are named.
    """
    from eval.loading import Unusable, read_grey, refuse

    greys = np.empty((len(paths), size, size), np.uint8)

    def read(i: int) -> str | None:
        try:
            image, _ = read_grey(paths[i])
        except Unusable as problem:
            return f"{paths[i].name} {problem}"
        if image.size != (size, size):
            larger = min(image.size) >= size
            image = image.resize((size, size), Image.Resampling.BOX if larger else Image.Resampling.BICUBIC)
        greys[i] = np.asarray(image)
        return None

    with ThreadPoolExecutor(available_cores()) as pool:  # Pillow decodes outside the interpreter's lock
        refuse([fault for fault in pool.map(read, range(len(paths))) if fault], paths)
    return greys


def smallest_side(paths: Sequence[Path]) -> int:
    """The shortest side of any of the images, in pixels; reads their headers only.

    Raises:
        UserError: files are missing or no images; the first of them are named.
    """
    from eval.loading import refuse

    sides, faults = [], []
    for path in paths:
        try:
            with Image.open(path) as opened:
                sides.append(min(opened.size))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            faults.append(f"{path.name} is missing or damaged")
    refuse(faults, paths)
    return min(sides)
