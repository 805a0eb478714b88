"""Read a table for preparation: a file of any kind, an image folder, a Hugging Face dataset on disk, texts, classes."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from data_prep.masks import without_mask_end
from data_prep.medmnist import is_npz, read_medmnist
from data_prep.raw_tables import image_files, image_stem
from data_prep.splits import SPLIT_NAMES
from sdcxr.io.files import read_json
from sdcxr.io.ids import print_join
from sdcxr.io.manifest import CLASS_COLUMN
from sdcxr.io.table_formats import SPLIT, arrow_rows, pyarrow, read_table, to_frame
from sdcxr.io.tables import read_csv
from sdcxr.runtime.errors import UserError

FLAG = "--table"
IMAGE, TEXT = "image", "text"  # columns of a folder of texts


def read_any_table(path: Path, unpack_to: Path) -> pd.DataFrame:
    """Read a table; its kind is that of the suffix, or of what the folder holds.

    Args:
        path: the file or folder.
        unpack_to: folder for images that are inside the table; the cell becomes the name of the file.

    Raises:
        UserError: missing, of a kind that is not read, damaged, empty, or a package is not installed.
    """
    if path.is_dir():
        table = _read_folder(path, unpack_to)
    elif is_npz(path) and path.is_file():
        table = read_medmnist(path, unpack_to)
    elif not path.suffix and path.is_file():  # HAM10000_metadata
        table = read_csv(path, FLAG, sep=None)
    else:
        table = read_table(path, FLAG, unpack_to=unpack_to)
    if table.empty:
        raise UserError(f"{FLAG} {path}: has no rows")
    return table.reset_index(drop=True)


def join_table(table: pd.DataFrame, path: Path, keys: Mapping[str, str]) -> pd.DataFrame:
    """The table with the columns of another, joined by image; rows without a partner get empty cells.

    Args:
        table: a row or several per image.
        path: the other table, of any kind that `read_table` reads.
        keys: column of the other table → column of `table`; default: one that both have.

    Raises:
        UserError: no column to join by, no row joins, or rows of one image contradict each other.
    """
    other = read_table(path, "--join")
    pairs = [*keys.items(), *((column, column) for column in other)]
    theirs, ours = next(((one, two) for one, two in pairs if one in other and two in table), ("", ""))
    if not ours:
        raise UserError(
            f"--join {path}: has no column of the table (it has: {', '.join(map(str, other.columns[:30]))})"
        )
    new = [
        column
        for column in other
        if column not in table and other[column].map(lambda cell: isinstance(cell, str)).all()
    ]
    rows = other[[theirs, *(column for column in new if column != theirs)]].drop_duplicates()
    rows[theirs] = rows[theirs].map(image_stem)
    rows = rows[rows[theirs] != ""]  # of no image
    if (repeated := rows[theirs][rows[theirs].duplicated()]).size:
        raise UserError(f"--join {path}: rows of {repeated.iloc[0]} contradict each other")
    images = table[ours].map(str).map(image_stem)
    print_join("joined rows", images, rows[theirs], "rows", f"--join {path}")
    partners = rows.set_index(theirs).reindex(images).set_axis(table.index)
    return table.join(partners).fillna("")


def may_unpack(path: Path) -> bool:
    """Whether a table of this kind may have images inside."""
    return path.suffix.lower() == ".parquet" or is_npz(path) or path.is_dir()


def _read_folder(path: Path, unpack_to: Path) -> pd.DataFrame:
    """A folder with a table in it, or whose files are one."""
    if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return to_frame(_saved_rows(path, unpack_to))
    names = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
    if found := [table for name in names for table in (*path.glob(name), *sorted(path.glob(f"*/{name}")))]:
        return pd.concat([_imagefolder(path, table, unpack_to) for table in found], ignore_index=True).fillna("")
    if shards := sorted(path.rglob("*.parquet")):
        return pd.concat([read_table(shard, FLAG, unpack_to=unpack_to) for shard in shards]).fillna("")
    if texts := sorted(path.glob("*.txt")):
        # errors: the text goes into prompts, where a replacement character is seen; its other words are right.
        rows = ({IMAGE: text.stem, TEXT: text.read_text(encoding="utf-8-sig", errors="replace")} for text in texts)
        return to_frame(rows)
    if of_classes := _class_folders(path):
        return to_frame(of_classes)
    raise UserError(
        f"{FLAG} {path}: the folder holds no table (looked for a dataset saved by save_to_disk, metadata.csv or "
        "metadata.jsonl of an image folder, Parquet files, .txt files named as the images, and a folder of images per "
        "class)"
    )


def _class_folders(root: Path) -> list[dict[str, Any]]:
    """Images in folders named after their classes, which may lie in folders of splits; masks beside them left out.

    Raises:
        UserError: the folders of images lie in different ones that are no splits, so that either may be the class, or
            are themselves those of splits.
    """
    rows, places = [], dict[tuple[str, ...], str]()
    files = [path.relative_to(root) for path in image_files(root, FLAG)]
    stems = {path.parent / image_stem(path.name) for path in files}
    for path in files:
        stem = image_stem(path.name)
        if without_mask_end(stem) != stem and path.parent / without_mask_end(stem) in stems:
            continue
        *above, name = path.parts[:-1] or ("",)
        if not name:  # loose images have no class
            return []
        splits = [part for part in above if part.lower() in SPLIT_NAMES]
        row = {IMAGE: path.as_posix(), CLASS_COLUMN: name}
        rows.append(row | {SPLIT: splits[-1]} if splits else row)
        places.setdefault(tuple(part for part in above if part not in splits), path.parent.as_posix())
        if len(places) > 1 or name.lower() in SPLIT_NAMES:
            raise UserError(
                f"{FLAG} {root}: which folders are the classes? images lie in {' and in '.join(places.values())}; "
                "expected CLASS/image or SPLIT/CLASS/image, or a table with --columns class=…"
            )
    return rows


def _imagefolder(root: Path, table: Path, unpack_to: Path) -> pd.DataFrame:
    """One metadata table of an image folder: paths relative to `root`, and the folder's name as split."""
    rows = read_table(table, FLAG, unpack_to=unpack_to)
    column = next((name for name in ("file_name", "image") if name in rows), None)
    if column is None:
        raise UserError(f"{FLAG} {table}: has no column 'file_name' (it has: {', '.join(map(str, rows.columns))})")
    folder = table.parent.relative_to(root).as_posix()
    if folder != ".":
        rows[column] = folder + "/" + rows[column]
        if SPLIT not in rows:
            rows[SPLIT] = folder
    return rows


def _saved_rows(folder: Path, unpack_to: Path, split: str = "") -> Iterator[dict[str, Any]]:
    """Rows of a dataset, or of one with splits, that `datasets` saved by `save_to_disk`."""
    ipc = pyarrow("ipc", f"{FLAG} {folder}")
    try:
        if (folder / "dataset_dict.json").is_file():
            for name in read_json(folder / "dataset_dict.json")["splits"]:
                yield from _saved_rows(folder / name, unpack_to, name)
            return
        for part in read_json(folder / "state.json")["_data_files"]:
            path = folder / part["filename"]
            with path.open("rb") as file, ipc.open_stream(file) as stream:
                yield from arrow_rows(stream.schema, stream, path, split, unpack_to)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{FLAG} {folder}: is not a whole dataset ({' '.join(str(error).split())[:200]})") from None
