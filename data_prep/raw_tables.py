"""Reading raw datasets: CSV tables with required columns, and an index of image files in nested folders."""

import os
import sys
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import pandas as pd

from sdcxr.io import tables
from sdcxr.io.files import existing_folder
from sdcxr.io.image_files import IMAGE_SUFFIXES, UNREAD_SUFFIXES, looks_like_image, without_image_suffix
from sdcxr.runtime.errors import UserError

# Columns by which tables of collections without a command of their own are known.
_OTHER_TABLES = {
    "CheXpert's train.csv": {"Path", "Frontal/Lateral", "AP/PA"},
    "the table of CheXpert Plus": {"path_to_image", "section_impression"},
    "PadChest's table": {"ImageID", "StudyID", "Projection"},
    "VinDr-CXR's table": {"image_id", "rad_id"},
    "RSNA's table": {"patientId", "Target"},
    "mimic_cxr_sectioned.csv": {"study", "impression"},
}
OTHER_TABLE = "python -m data_prep.table reads tables of any columns"

# ---------------------------------------------------------------------------------------------------------------------
# Tables


def read_table(path: Path, columns: Iterable[str], hint: str = "") -> pd.DataFrame:
    """Read a CSV table (plain or .gz) as str, missing values empty.

    Raises:
        UserError: it cannot be read, has no rows, or lacks one of `columns`; `hint` ends the message and names the
            right table.
    """
    path = whole_table(path)
    table = read_csv(path)
    if missing := [column for column in columns if column not in table]:
        there = ", ".join(map(str, table.columns[:12]))
        told = f"{path} has no column {missing[0]!r} (it has: {there}). {hint}".rstrip()
        raise UserError(" ".join(filter(None, (told, known_table(table.columns)))))
    check_not_empty(table, path)
    return table


def check_not_empty(table: pd.DataFrame, path: Path) -> None:
    """Raise a `UserError` if a table has no rows."""
    if table.empty:
        raise UserError(f"{path} has a header and no rows: is it complete?")


def known_table(columns: Iterable[str]) -> str:
    """A sentence that says which command reads a table of these columns, "" if it is not known."""
    names = set(columns)
    found = next((table for table, marks in _OTHER_TABLES.items() if marks <= names), None)
    return f"This looks like {found}: {OTHER_TABLE}." if found else ""


def read_csv(path: Path, **options: Any) -> pd.DataFrame:
    """`tables.read_csv` for published tables, which may be cut off."""
    return tables.read_csv(path, check_end=True, **options)


def whole_table(path: Path) -> Path:
    """The whole one of x.csv and x.csv.gz in one folder; says so on stderr if `path` is only a part of the other.

    Raises:
        UserError: the two are different tables.
    """
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    packed = plain.with_name(plain.name + ".gz")
    if not (plain.is_file() and packed.is_file()):
        return path
    sizes = plain.stat().st_size, _unpacked_bytes(packed)
    if sizes[0] == sizes[1] % 2**32:
        return plain
    try:
        with plain.open("rb") as part, tables.open_unpacked(packed) as whole:
            shared = _shared_bytes(part, whole)
    except (OSError, EOFError, ValueError, zlib.error):
        shared = -1  # a damaged archive
    if shared == sizes[0]:
        if path == plain:
            print(f"warning: {plain} is only a part of {packed.name}, which is used: delete it", file=sys.stderr)
        return packed
    raise UserError(f"{plain} and {packed.name} are different tables: delete one of them")


def _unpacked_bytes(path: Path) -> int:
    """The last four bytes of a gzip file: the size of its content modulo 2^32."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4))
        return int.from_bytes(file.read(4), "little")


def _shared_bytes(first: IO[bytes], second: IO[bytes]) -> int:
    """Number of bytes at the start of `second` that are all of `first`; -1 if they are not."""
    n_bytes = 0
    while block := first.read(1 << 20):
        if second.read(len(block)) != block:
            return -1
        n_bytes += len(block)
    return n_bytes


# ---------------------------------------------------------------------------------------------------------------------
# Images


def image_stem(name: str) -> str:
    """The name of an image file without folders and suffix: a copy in another format has the same."""
    return without_image_suffix(name.strip().replace("\\", "/").rsplit("/", 1)[-1])


def image_files(folder: Path, flag: str = "--images") -> Iterator[Path]:
    """Every image file below `folder`; see `_files`."""
    return filter(looks_like_image, _files(folder, flag))


def unread_files(folder: Path) -> Iterator[Path]:
    """Every file below `folder` that holds a picture by its suffix, but is not read; see `_files`."""
    return (
        path
        for path in _files(folder)
        if path.name.lower().endswith(UNREAD_SUFFIXES) and not path.name.startswith(".") and not looks_like_image(path)
    )


def _files(folder: Path, flag: str = "--images") -> Iterator[Path]:
    """Every file at any depth below `folder`, in a fixed order; follows links to folders.

    Dataset folders (with prep.json) are left out.

    Raises:
        UserError: `folder` does not exist, or is a dataset folder.
    """
    existing_folder(folder, flag)
    if any((place / "prep.json").is_file() for place in (folder, folder.absolute().parent)):
        raise UserError(f"{flag} {folder}: was written by data_prep: give the folder of the original images")
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen or "prep.json" in names:  # a link to a parent folder; an earlier result
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(root, name) for name in sorted(names))


class ImageIndex(dict[str, Path]):
    """Image files by key; of an image in several formats the first of `IMAGE_SUFFIXES`.

    Attributes:
        by_name: every image file, by its whole name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_name: dict[str, Path] = {}

    def file(self, key: str, name: str) -> Path | None:
        """The file of exactly that name (folders before it do not count); another of that key only without one."""
        exact = self.by_name.get(name.strip().replace("\\", "/").rsplit("/", 1)[-1])
        return exact if exact is not None else self.get(key)


def index_images(folder: Path, key: Callable[[str], str] = image_stem) -> ImageIndex:
    """The image files below `folder`, by `key` of their file name; see `image_files`."""
    images = ImageIndex()
    repeated: dict[str, tuple[Path, Path]] = {}
    for path in image_files(folder):
        images.by_name.setdefault(path.name, path)
        name = key(path.name)
        known = images.setdefault(name, path)
        if known is not path:
            images[name] = min(known, path, key=format_rank)
            repeated[name] = (known, path)
    if repeated:
        first, second = next(iter(repeated.values()))
        print(
            f"warning: {len(repeated):,} images are in {folder} more than once, such as {first} and {second}: of each, "
            "one is used: that which the table names, or else the first format",
            file=sys.stderr,
        )
    if unread := list(unread_files(folder)):
        print(
            f"warning: {len(unread):,} files in {folder} have a format that is not read, such as {unread[0]}: save "
            "images as PNG to use them",
            file=sys.stderr,
        )
    return images


def format_rank(path: Path) -> int:
    """Rank of a file's format among `IMAGE_SUFFIXES`: the lowest is used."""
    name = path.name.lower()
    return next((rank for rank, suffix in enumerate(IMAGE_SUFFIXES) if name.endswith(suffix)), len(IMAGE_SUFFIXES))


def warn_unnamed(images: Iterable[str], named: Collection[str], folder: Path, table: str) -> None:
    """Warn on stderr of images in a folder that its table does not name: the table may be incomplete.

    Args:
        images: keys of the images that are there.
        named: keys in the table.
        folder: where the images are.
        table: what is expected to name them.
    """
    named = set(named)
    if unnamed := [key for key in images if key not in named]:
        print(
            f"warning: {len(unnamed):,} images in {folder} are not named in {table} and left out, such as {unnamed[0]}",
            file=sys.stderr,
        )
