"""Find the images that a table names: by path, by the end of a path, or by name at any depth, whatever its suffix."""

import re
from collections import defaultdict
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from data_prep.raw_tables import format_rank
from sdcxr.io.image_files import without_image_suffix

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class Found(NamedTuple):
    """Where the images are, with the index of the cells."""

    source: pd.Series  # path, "" if not found
    reason: pd.Series  # "" or why not
    by_name: int  # how many were found by name although their folders differ


def find_images(cells: pd.Series, files: Iterable[Path], folder: Path) -> Found:
    """Find the file of each cell.

    A path fits if it is the end of the file's path, or if the file's path in `folder` is the end of it: so the table
    may have been made on another machine, and `folder` may be any folder above or inside. A name alone, or a path of
    which no folder fits, is looked for at any depth, if both the table and the folder have it once.

    Args:
        cells: path or name of each image, as text.
        files: the image files below `folder`; of two formats of one image the first is taken.
        folder: the folder of the images.
    """
    root = f"{folder.absolute().as_posix()}/"
    keys = {cell: image_key(cell) for cell in cells.unique()}
    in_table = pd.Series([key.rsplit("/", 1)[-1] for key in dict.fromkeys(keys.values())]).value_counts()
    lengths = {key.count("/") + 1 for key in keys.values()} | {1}
    whole: dict[str, Path] = {}  # by path without suffix
    by_end: dict[str, list[Path]] = defaultdict(list)  # by the last parts of that, as many as a key has
    for path in sorted(files, key=format_rank):
        stem = without_image_suffix(path.absolute().as_posix())
        if whole.setdefault(stem, path) is path:
            parts = stem.split("/")
            for length in lengths:
                by_end["/".join(parts[-length:])].append(path)

    def fitting(key: str) -> list[Path]:
        # Folders of the table that --images is inside of: CheXpert-v1.0-small/train/… with --images …/train.
        parts = key.split("/")
        inside = (f"{root}{'/'.join(parts[start:])}" for start in range(max(1, len(parts) - 1)))
        found = next((whole[place] for place in (*inside, key) if place in whole), None)
        return [found] if found is not None else by_end.get(key, [])

    source, reason, loose = {}, {}, set()
    for cell, key in keys.items():
        paths, name = fitting(key), key.rsplit("/", 1)[-1]
        if not paths and in_table[name] == 1:
            paths = by_end.get(name, [])
            loose.update([cell] * (len(paths) == 1))
        source[cell] = str(paths[0]) if len(paths) == 1 else ""
        reason[cell] = "" if len(paths) == 1 else "several images of that name" if paths else "missing image"
    return Found(cells.map(source), cells.map(reason), int(cells.isin(loose).sum()))


def image_key(cell: str) -> str:
    """One spelling for a path or name of an image: no suffix, no ./ or file:// before it, / for the \\ of Windows."""
    text = str(cell).strip().replace("\\", "/").removeprefix("file://")
    return without_image_suffix(re.sub(r"/{2,}", "/", re.sub(r"^(\./)+", "", text)))


def image_names(cells: pd.Series) -> pd.Series:
    """A name for the written image of each cell, made of the end of its path: as few folders as make it unique.

    Other characters than A–Z, a–z, 0–9, ".", "_" and "-" become "_".
    """
    keys = cells.map(image_key)
    parts_of = {key: [_UNSAFE.sub("_", part).strip("_") for part in key.split("/")] for key in keys.unique()}
    names: dict[str, str] = {}
    for n_parts in range(1, max(map(len, parts_of.values()), default=0) + 1):
        names = {key: "_".join(filter(None, parts[-n_parts:])) for key, parts in parts_of.items()}
        if len(set(names.values())) == len(names):
            return keys.map(names)
    # Paths that differ only in such characters.
    return keys.map({key: f"{name}_{sha256(key.encode()).hexdigest()[:8]}" for key, name in names.items()})
