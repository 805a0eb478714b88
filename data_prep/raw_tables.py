"""Reading raw datasets: CSV tables with required columns, and an index of image files in nested folders."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from sdcxr.io import tables
from sdcxr.io.files import existing_folder
from sdcxr.runtime.errors import UserError

# Of an image in two formats, the first of these is used.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm")


def read_table(path: Path, columns: Iterable[str], hint: str = "") -> pd.DataFrame:
    """Read a CSV table (plain or .gz) as str, missing values empty.

    Raises:
        UserError: it cannot be read or lacks one of `columns`; `hint` ends the message and names the right table.
    """
    table = read_csv(path)
    if missing := [column for column in columns if column not in table]:
        there = ", ".join(map(str, table.columns[:12]))
        raise UserError(f"{path} has no column {missing[0]!r} (it has: {there}). {hint}".rstrip())
    return table


def read_csv(path: Path, **options: Any) -> pd.DataFrame:
    """`tables.read_csv` for published tables, some of which have a trailing comma in every row."""
    return tables.read_csv(path, drop_surplus=True, **options)


def index_images(folder: Path, key: Callable[[str], str]) -> dict[str, Path]:
    """Every image file at any depth below `folder`, by `key` of its file name; follows links to folders.

    Raises:
        UserError: `folder` does not exist.
    """
    images: dict[str, Path] = {}
    seen: set[str] = set()
    for root, folders, names in os.walk(existing_folder(folder, "--images"), followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link to a parent folder
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(names):
            suffix = Path(name).suffix.lower()
            if suffix not in IMAGE_SUFFIXES or name.startswith("."):
                continue
            known = images.get(key(name))
            if known is None or IMAGE_SUFFIXES.index(suffix) < IMAGE_SUFFIXES.index(known.suffix.lower()):
                images[key(name)] = Path(root, name)
    return images
