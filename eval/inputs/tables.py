"""The table of an image folder, also one that another tool wrote, and the files that do not fit to it.

`metadata.csv` (`file_name`, `text`, `id`, …) is read first; then `metadata.jsonl`, the other table of an imagefolder of
Hugging Face; then the only CSV file that names the folder's images, such as CheXGenBench's `prompt, img_savename`.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from sdcxr.io.ids import read_ids
from sdcxr.io.image_files import IMAGE_SUFFIXES, is_image_name
from sdcxr.io.manifest import IDS, SAMPLES_RECORD, UNFINISHED, validate_rows
from sdcxr.io.table_formats import read_table as read_any_table
from sdcxr.runtime.errors import UserError

TABLES = ("metadata.csv", "metadata.jsonl")
OTHER_NAMES = {  # columns of other tools, in the order in which they are taken
    "file_name": ("img_savename", "synthetic_filename", "filename", "image_path", "image", "path"),
    "text": ("prompt", "annotated_prompt", "caption"),
}
OTHER_TABLES = (".tsv", ".xlsx", ".parquet", ".jsonl", ".txt")  # never read, but said
LISTED = 3  # tables that a remark names


class FolderTable(NamedTuple):
    """What is known of the images of a folder."""

    rows: pd.DataFrame
    """At least `file_name`."""
    path: Path | None
    """The table; None for a plain folder of images."""
    remarks: list[str]
    """What a user should know: files and tables that do not count, one line each."""


def read_table(folder: Path) -> FolderTable:
    """The rows of a folder's images, from its table or from the names of its files.

    Raises:
        UserError: the table is unusable.
    """
    top, below = image_files(folder)
    path = next((folder / name for name in TABLES if (folder / name).is_file()), None)
    if path is not None:
        rows = _renamed(read_any_table(path))
        if not len(rows):
            raise UserError(f"{path} has no rows, beside {len(top)} images: write one for each, or remove the table")
        if "file_name" in rows:
            rows = _with_found_names(rows, path, top | below)
        return FolderTable(_checked(rows, path), path, _remarks_on_files(rows, path, top, below))
    remarks = [UNFINISHED] if (folder / SAMPLES_RECORD).is_file() else []
    if below:
        remarks.append(f"{len(below)} images in subfolders are not read (such as {min(below)})")
    others = sorted(folder.glob("*.csv"))
    found = {other: named for other in others if (named := _naming(other, top)) is not None}
    if len(found) == 1:
        path, rows = next(iter(found.items()))
        remarks = [f"{path.name} is read, as {', '.join(rows.columns)}"]
        return FolderTable(_checked(rows, path), path, remarks + _remarks_on_files(rows, path, top, below))
    others += sorted(other for other in folder.iterdir() if other.suffix.lower() in OTHER_TABLES)
    if others and top:
        names = ", ".join(other.name for other in others[:LISTED]) + (" …" if len(others) > LISTED else "")
        why = "several name the images" if found else "no CSV with a column file_name (or img_savename) of the images"
        remarks.append(f"{names} not read: {why}; call the table metadata.csv, with the columns file_name and text")
    return FolderTable(pd.DataFrame({"file_name": sorted(top)}), None, remarks)


def _with_found_names(rows: pd.DataFrame, path: Path, files: set[str]) -> pd.DataFrame:
    """The rows with the names that the files have, where Windows or a table wrote them otherwise (p10\\A.PNG)."""
    if (blank := rows["file_name"].str.strip() == "").any():
        raise UserError(
            f"{path} has no file_name in row {int(blank.to_numpy().argmax()) + 1}: fill it in or remove the row"
        )
    by_case: dict[str, list[str]] = {}
    for name in files:
        by_case.setdefault(name.lower(), []).append(name)

    def find(name: str) -> str:
        plain = name.replace("\\", "/")
        alike = by_case.get(os.path.normpath(plain).lower(), [])
        return name if name in files or len(alike) != 1 else alike[0]

    return rows.assign(file_name=rows["file_name"].map(find))


def _naming(path: Path, files: set[str]) -> pd.DataFrame | None:
    """The rows of a CSV file if it names some of the files."""
    try:
        rows = _renamed(read_any_table(path))
    except UserError:
        return None
    if "file_name" not in rows:
        return None
    rows = rows.assign(file_name=rows["file_name"].map(lambda name: _found_name(name, files)))
    return rows if rows["file_name"].isin(files).any() else None


def image_files(folder: Path) -> tuple[set[str], set[str]]:
    """Names of the image files in a folder, and those in its subfolders, relative to it; hidden ones do not count."""
    top: set[str] = set()
    below: set[str] = set()
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names = (Path(place).relative_to(folder) / name for name in files if is_image_name(name))
        (top if Path(place) == folder else below).update(map(str, names))
    return top, below


def why_empty(folder: Path, flag: str) -> str:
    """The message about a folder in which no image was found: what is there instead."""
    _, below = image_files(folder)
    splits = sorted(path.name for path in folder.iterdir() if any((path / name).is_file() for name in TABLES))
    if splits:
        return f"{flag} {folder} holds no images; give one of its splits: {', '.join(splits)}"
    if below:
        first = Path(min(below)).parent
        return (
            f"{flag} {folder} holds no images, but {len(below)} in subfolders, which are not read: give one of them "
            f"(such as {folder / first}), or write a metadata.csv that names the files"
        )
    others = sorted({path.suffix.lower() for path in folder.iterdir() if path.is_file() and path.suffix})
    there = f" (it has: {', '.join(others[:5])})" if others else ""
    return f"{flag} {folder} holds no images{there}: names of images end in {', '.join(IMAGE_SUFFIXES)}"


def _renamed(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with our names of columns, and lists of JSON as text."""
    rows = rows.astype(str)
    for name, others in OTHER_NAMES.items():
        other = next((column for column in others if column in rows), None)
        if name not in rows and other is not None:
            rows = rows.rename(columns={other: name})
    return rows


def _found_name(name: str, files: set[str]) -> str:
    """The name of an image in the folder itself: tables of other tools have whole paths, or no suffix."""
    name = name.replace("\\", "/").rpartition("/")[2]
    if name in files:
        return name
    return next((name + suffix for suffix in IMAGE_SUFFIXES if name + suffix in files), name)


def _checked(rows: pd.DataFrame, path: Path) -> pd.DataFrame:
    rows = validate_rows(rows, path, needed=("file_name",))
    return rows.assign(**{name: read_ids(rows[name], where=f"{path}: {name}") for name in ("id", *IDS) if name in rows})


def _remarks_on_files(rows: pd.DataFrame, path: Path, top: set[str], below: set[str]) -> list[str]:
    """Files that the table does not name; below the folder too, where the table names one there."""
    named = set(map(os.path.normpath, rows["file_name"]))
    remarks = []
    if extra := top - named:
        of = f"{len(extra)} of {len(top)} image files"
        remarks.append(f"{of} are not in {path.name} and not measured (such as {min(extra)})")
    if extra := below - named:
        remarks.append(
            f"{len(extra)} images in subfolders are not in {path.name} and not measured (such as {min(extra)})"
        )
    return remarks


def missing_files(folder: Path, names: Iterable[str]) -> list[str]:
    """The names whose file does not exist."""
    return [name for name in names if not (folder / name).is_file()]
