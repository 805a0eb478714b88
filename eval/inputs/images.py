"""Image files to network inputs: one loader for both sides of a comparison, grey, and never a stand-in."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sdcxr.io.pixels import BadImage, open_image
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.threads import available_cores

LISTED = 10  # unreadable images that a message names


class Unusable(Exception):
    """An image that cannot be looked at; the message says why."""


def refuse(problems: Sequence[str], paths: Sequence[Path]) -> None:
    """Stop where images are unusable.

    Args:
        problems: a name and what is wrong with it, for every unusable image.
        paths: all images.

    Raises:
        UserError: there are any; names the first.
    """
    if problems:
        more = f"; and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise UserError(
            f"{paths[0].parent}: {len(problems)} of {len(paths)} images cannot be used: "
            f"{'; '.join(problems[:LISTED])}{more}. Repair them or take them out of the folder"
        )


def read_grey(path: Path) -> tuple[Image.Image, float]:
    """An image in mode L, and how coloured it was.

    Colour is turned into ITU-R 601 luma; transparency is dropped.

    Returns:
        The image and the mean over its pixels of largest minus smallest channel, in grey levels (0 for grey images).

    Raises:
        Unusable: the file is missing or damaged, or has more than 8 bits per pixel.
    """
    try:
        with open_image(path) as image:
            if image.mode[0] in "IF":
                raise Unusable("has more than 8 bits per pixel: convert it to 8 bits with its window of values")
            if image.mode in ("1", "L", "LA"):
                return image.convert("L"), 0.0
            colour = image.convert("RGB")
    except BadImage as bad:
        raise Unusable(str(bad)) from None
    red, green, blue = (np.asarray(channel) for channel in colour.split())
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return colour.convert("L"), float(spread.mean())


Item = tuple[int, np.ndarray | str, float]


class Inputs(torch.utils.data.Dataset[Item]):
    """Of each image: its number, the network's input or what is wrong with it, and its colour (see `read_grey`)."""

    def __init__(self, paths: Sequence[Path], prepare: Callable[[Image.Image], np.ndarray]):
        self.paths = paths
        self.prepare = prepare

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Item:
        try:
            image, colour = read_grey(self.paths[i])
        except Unusable as problem:
            return i, str(problem), 0.0
        return i, np.ascontiguousarray(self.prepare(image)), colour


class Batch:
    """Inputs that are usable, stacked, and what is wrong with the others."""

    def __init__(self, items: Sequence[Item]):
        usable = {i: value for i, value, _ in items if not isinstance(value, str)}
        self.problems = {i: value for i, value, _ in items if isinstance(value, str)}
        shape = next(iter(usable.values())).shape if usable else None
        for i in [i for i, value in usable.items() if value.shape != shape]:
            self.problems[i] = f"has another shape ({usable.pop(i).shape}, not {shape}): cut the images square"
        self.inputs = torch.from_numpy(np.stack(list(usable.values()))) if usable else None
        self.colour = [colour for _, _, colour in items]

    def pin_memory(self) -> "Batch":
        """Called by the DataLoader for a GPU."""
        if self.inputs is not None:
            self.inputs = self.inputs.pin_memory()
        return self


def batches(
    paths: Sequence[Path],
    prepare: Callable[[Image.Image], np.ndarray],
    batch_size: int,
    workers: int,
    pin_memory: bool,
) -> Any:
    """A DataLoader of `Batch` in the order of the paths; workers decode ahead of the network."""
    return torch.utils.data.DataLoader(
        Inputs(paths, prepare),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=Batch,
        pin_memory=pin_memory,
        prefetch_factor=2 if workers else None,
    )


def read_greys(paths: Sequence[Path], size: int) -> np.ndarray:
    """Images as uint8 of shape (n, size, size): one grey channel, the mean over areas where an image is larger.

    Subtract them only after a conversion to float: uint8 wraps around.

    Raises:
        UserError: files are missing, damaged or deeper than 8 bits; the first of them are named.
    """
    from eval.inputs.images import Unusable, read_grey, refuse

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
    from eval.inputs.images import refuse

    sides, faults = [], []
    for path in paths:
        try:
            with Image.open(path) as opened:
                sides.append(min(opened.size))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            faults.append(f"{path.name} is missing or damaged")
    refuse(faults, paths)
    return min(sides)
