"""Find the images that a table names: by path, by the end of a path, or by name at any depth.

A file that is named exactly, suffix included, wins; another suffix counts only where there is none.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from data_prep.raw_tables import format_rank
from sdcxr.io.image_files import UNREAD_SUFFIXES, without_image_suffix

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class Found(NamedTuple):
    """Where the images are, with the index of the cells."""

    source: pd.Series  # path, "" if not found
    reason: pd.Series  # "" or why not
    by_name: pd.Series  # whether found by name although the folders differ


def find_images(cells: pd.Series, files: Iterable[Path], folder: Path) -> Found:
    """Find the file of each cell.

    A path fits if it is the end of the file's path, or if the file's path in `folder` is the end of it: so the table
    may have been made on another machine, and `folder` may be any folder above or inside. A name alone, or a path of
    which no folder fits, is looked for at any depth, if both the table and the folder have it once. A file of the
    cell's suffix wins; one of another suffix does not count if a cell names that exactly.

    Args:
        cells: path or name of each image, as text.
        files: the image files below `folder`; of other formats than the cell names the first is taken.
        folder: the folder of the images.
    """
    root = f"{folder.absolute().as_posix()}/"
    keys = {cell: image_key(cell) for cell in cells.unique()}
    in_table = pd.Series([key.rsplit("/", 1)[-1] for key in dict.fromkeys(keys.values())]).value_counts()
    lengths = {key.count("/") + 1 for key in keys.values()} | {1}
    whole: dict[str, list[Path]] = defaultdict(list)  # by path without suffix
    by_end: dict[str, list[Path]] = defaultdict(list)  # by the last parts of that, as many as a key has
    for path in sorted(files, key=format_rank):
        stem = without_image_suffix(path.absolute().as_posix())
        whole[stem].append(path)
        parts = stem.split("/")
        for length in lengths:
            by_end["/".join(parts[-length:])].append(path)

    def fitting(key: str, suffix: str) -> tuple[list[Path], bool]:
        # Folders of the table that --images is inside of: CheXpert-v1.0-small/train/… with --images …/train.
        parts = key.split("/")
        inside = (f"{root}{'/'.join(parts[start:])}" for start in range(max(1, len(parts) - 1)))
        places = [whole[place] for place in (*inside, key) if place in whole]
        ends = by_end.get(key, [])
        exact = next((paths[:1] for place in places if (paths := _of_suffix(place, suffix))), _of_suffix(ends, suffix))
        if exact:
            return exact, True
        return (places[0][:1] if places else _first_formats(ends)), False

    source, reason, loose, exactly = {}, {}, set(), set()
    for cell, key in keys.items():
        suffix, name = _suffix(cell, key), key.rsplit("/", 1)[-1]
        paths, exact = fitting(key, suffix)
        if not paths and in_table[name] == 1:
            ends = by_end.get(name, [])
            paths = _of_suffix(ends, suffix) or _first_formats(ends)
            loose.update([cell] * (len(paths) == 1))
        source[cell] = str(paths[0]) if len(paths) == 1 else ""
        reason[cell] = "" if len(paths) == 1 else "several images of that name" if paths else "missing image"
        exactly.update([cell] * exact)
    # A row's scan.dcm that is missing is not the scan.png of another row.
    taken = {source[cell] for cell in exactly} - {""}
    for cell, key in keys.items():
        if cell not in exactly and source[cell] in taken and _suffix(cell, key):
            source[cell], reason[cell] = "", "missing image"
    return Found(cells.map(source), cells.map(reason), cells.isin(loose))


def _of_suffix(paths: list[Path], suffix: str) -> list[Path]:
    """Those of that suffix; if none is, in capitals or small letters."""
    ends = [(path, path.name[len(without_image_suffix(path.name)) :]) for path in paths]
    same = [path for path, end in ends if end == suffix]
    return same or [path for path, end in ends if end.lower() == suffix.lower()]


def _first_formats(paths: list[Path]) -> list[Path]:
    """The first file of each path without suffix."""
    return list({without_image_suffix(str(path)): path for path in reversed(paths)}.values())[::-1]


def find_unread(cells: pd.Series, files: Iterable[Path], folder: Path) -> pd.Series:
    """The name of each cell's file among those of formats that are not read; "" if there is none; as `find_images`."""
    of_stem = {str(path.with_name(_readable(path.name))): path.name for path in files}
    found = find_images(cells.map(_readable), map(Path, of_stem), folder).source
    return found.map(lambda path: of_stem.get(path, ""))


def _readable(name: str) -> str:
    """A name without a suffix that is not read."""
    end = next((end for end in sorted(UNREAD_SUFFIXES, key=len)[::-1] if name.lower().endswith(end)), "")
    return name.removesuffix(name[len(name) - len(end) :]) if end else name


def _suffix(cell: str, key: str) -> str:
    """The suffix of an image in a cell: what `image_key` leaves out at its end."""
    name = str(cell).strip().replace("\\", "/").rsplit("/", 1)[-1]
    return name[len(key.rsplit("/", 1)[-1]) :]


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
