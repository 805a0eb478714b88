"""Image files as grey arrays and network inputs: decoding, unusable files, crop and resize, a DataLoader of batches.

Real and synthetic images take the same path. An image that cannot be read is an error, never replaced by another.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdcxr.io.image_files import BadImage, NeedsStretch
from sdcxr.io.pixels import load_upright, open_image
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.threads import available_cores

LISTED = 10  # unusable images that a message names
SAMPLED = 4  # images read ahead to know the size of a batch


class Unusable(Exception):
    """An image that cannot be evaluated; the message completes a sentence that begins with its name."""


def refuse(problems: Sequence[str], paths: Sequence[Path]) -> None:
    """Raise an error that lists the unusable images, if there are any.

    Args:
        problems: for every unusable image its name and what is wrong with it.
        paths: all images.

    Raises:
        UserError: `problems` is not empty.
    """
    if problems:
        more = f"; and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise UserError(
            f"{paths[0].parent}: {len(problems)} of {len(paths)} images cannot be used: "
            f"{'; '.join(problems[:LISTED])}{more}. Repair them or take them out of the folder"
        )


def read_upright(path: Path) -> Image.Image:
    """An image in mode L, or RGB if it is coloured; transparent is black. The file's orientation tag is followed.

    Raises:
        Unusable: the file is missing or damaged, or has more than 8 bits per pixel.
    """
    try:
        return load_upright(path).image
    except NeedsStretch as deep:
        raise Unusable(f"{deep}: convert it to 8 bits with its window of values") from None
    except BadImage as bad:
        raise Unusable(str(bad)) from None


def read_grey(path: Path) -> tuple[Image.Image, float]:
    """An image in mode L, and how coloured it was.

    Colour becomes ITU-R 601 luma.

    Returns:
        The image, and the mean over its pixels of largest minus smallest channel in grey levels (0 for grey images).

    Raises:
        Unusable: see `read_upright`.
    """
    colour = read_upright(path)
    if colour.mode == "L":
        return colour, 0.0
    red, green, blue = (np.asarray(channel) for channel in colour.split())
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return colour.convert("L"), float(spread.mean())


def read_greys(paths: Sequence[Path], size: int) -> np.ndarray:
    """Images as one uint8 array of shape (n, size, size), averaged over areas (larger images) or bicubic (smaller).

    Convert to float before subtracting: uint8 wraps around.

    Raises:
        UserError: files are missing, damaged or deeper than 8 bits; the first of them are named.
    """
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
        refuse([problem for problem in pool.map(read, range(len(paths))) if problem], paths)
    return greys


def shortest_sides(paths: Sequence[Path]) -> list[int]:
    """The shorter side of every image in pixels; nothing is decoded.

    Raises:
        UserError: files are missing or not images; the first of them are named.
    """
    sides, problems = [], []
    for path in paths:
        try:
            with open_image(path) as image:
                sides.append(min(image.size))
        except BadImage as bad:
            problems.append(f"{path.name} {bad}")
    refuse(problems, paths)
    return sides


def centre_square(image: Image.Image) -> Image.Image:
    """The central square of an image, cropped like torchxrayvision's XRayCenterCrop."""
    width, height = image.size
    if width == height:
        return image
    side = min(width, height)
    left, top = width // 2 - side // 2, height // 2 - side // 2
    return image.crop((left, top, left + side, top + side))


def bicubic_float(image: Image.Image, side: int) -> np.ndarray:
    """Antialiased bicubic resize in float without rounding: (side, side) in [0, 255], float32.

    As in clean-fid (Parmar et al. 2022, arXiv 2104.11222).
    """
    exact = Image.fromarray(np.asarray(image, dtype=np.float32))
    return np.asarray(exact.resize((side, side), Image.Resampling.BICUBIC)).clip(0, 255)


Item = tuple[int, np.ndarray | str, float]


class Inputs:
    """A torch Dataset: of each image its number, the network's input or its problem, and its colour (`read_grey`).

    A network that reads colours gets them, and they are no reason for a warning: 0.
    """

    def __init__(self, paths: Sequence[Path], prepare: Callable[[Image.Image], np.ndarray], in_colour: bool = False):
        self.paths = paths
        self.prepare = prepare
        self.in_colour = in_colour

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Item:
        try:
            path = self.paths[i]
            image, colour = (read_upright(path).convert("RGB"), 0.0) if self.in_colour else read_grey(path)
        except Unusable as problem:
            return i, str(problem), 0.0
        return i, np.ascontiguousarray(self.prepare(image)), colour


class Batch:
    """The usable inputs of a batch, stacked, and the problems of the others by number."""

    def __init__(self, items: Sequence[Item]):
        import torch

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
    in_colour: bool = False,
) -> Any:
    """A DataLoader of `Batch` in the order of the paths; workers decode ahead of the network."""
    from sdcxr.runtime.shared_memory import data_loader, n_bytes

    inputs = Inputs(paths, prepare, in_colour)

    def batch_bytes() -> int:
        return batch_size * max(n_bytes(inputs[i]) for i in range(min(SAMPLED, len(paths))))  # some may be unusable

    return data_loader(
        inputs,
        workers=workers,
        prefetch=2,
        batch_bytes=batch_bytes,
        batch_size=batch_size,
        collate_fn=Batch,
        pin_memory=pin_memory,
    )
