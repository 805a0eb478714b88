"""Read a table of any common form: CSV, TSV, JSON, JSON lines, Parquet, a folder of texts or a Hugging Face dataset.

Cells become text, "" where missing; lists and dictionaries stay. Images inside a table are unpacked into files.
"""

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from sdcxr.io.files import atomic
from sdcxr.io.tables import open_unpacked, read_csv
from sdcxr.runtime.errors import UserError

IMAGE, TEXT, SPLIT = "image", "text", "split"  # columns of tables that have no header
_TEXT_SUFFIXES = (".csv", ".tsv", ".tab", ".txt")
_KINDS = "CSV, TSV, JSON, JSON lines, Parquet, or a folder: a Hugging Face dataset, an image folder, texts"
_REFUSED = {
    ".xlsx": "an Excel workbook: save it as CSV",
    ".xls": "an Excel workbook: save it as CSV",
    ".ods": "a spreadsheet: save it as CSV",
    ".pkl": "a pickle, which may run code when it is opened: save it as CSV or Parquet",
    ".pickle": "a pickle, which may run code when it is opened: save it as CSV or Parquet",
    ".tar": "an archive: unpack it, and give the table or the folder of texts in it",
    ".zip": "an archive: unpack it, and give the table in it",
    ".arrow": "a part of a Hugging Face dataset: give its folder",
}
_SIGNATURES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"II*\0": ".tif", b"MM\0*": ".tif"}


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
    elif not path.is_file():
        raise UserError(f"--table {path}: does not exist")
    else:
        table = _read_file(path, unpack_to)
    if table.empty:
        raise UserError(f"--table {path}: has no rows")
    table.columns = pd.Index([str(column).strip() for column in table.columns])
    return table.reset_index(drop=True)


def may_unpack(path: Path) -> bool:
    """Whether a table of this kind may have images inside."""
    return path.suffix.lower() == ".parquet" or path.is_dir()


def _read_file(path: Path, unpack_to: Path) -> pd.DataFrame:
    suffix = (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()
    if suffix in _TEXT_SUFFIXES:
        return read_csv(path, "--table", drop_surplus=True, sep=_separator(path))
    if suffix == ".parquet":
        return _frame(_parquet_rows(path, unpack_to))
    if suffix == ".json":
        return _frame(_json_rows(path))
    if suffix in (".jsonl", ".ndjson"):
        return _frame(_json_lines(path))
    why = _REFUSED.get(suffix)
    raise UserError(f"--table {path}: is {why}" if why else f"--table {path}: is not one of {_KINDS}")


def _read_folder(path: Path, unpack_to: Path) -> pd.DataFrame:
    """A folder with a table in it, or whose files are one."""
    if (path / "dataset_dict.json").is_file():
        splits = json.loads((path / "dataset_dict.json").read_text())["splits"]
        return _frame(row for split in splits for row in _arrow_rows(path / split, unpack_to, split))
    if (path / "state.json").is_file():
        return _frame(_arrow_rows(path, unpack_to, ""))
    names = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
    if found := [table for name in names for table in (*path.glob(name), *sorted(path.glob(f"*/{name}")))]:
        return pd.concat([_imagefolder(path, table, unpack_to) for table in found], ignore_index=True).fillna("")
    if shards := sorted(path.rglob("*.parquet")):
        return _frame(row for shard in shards for row in _parquet_rows(shard, unpack_to))
    if texts := sorted(path.glob("*.txt")):
        # errors: the text goes into prompts, where a replacement character is seen; its other words are right.
        rows = ({IMAGE: text.stem, TEXT: text.read_text(encoding="utf-8-sig", errors="replace")} for text in texts)
        return _frame(rows)
    raise UserError(
        f"--table {path}: the folder holds no table (looked for a dataset saved by save_to_disk, metadata.csv or "
        "metadata.jsonl of an image folder, Parquet files, and .txt files named as the images)"
    )


def _imagefolder(root: Path, table: Path, unpack_to: Path) -> pd.DataFrame:
    """One metadata table of an image folder: paths relative to `root`, and the folder's name as split."""
    rows = _read_file(table, unpack_to)
    column = next((name for name in ("file_name", "image") if name in rows), None)
    if column is None:
        raise UserError(f"--table {table}: has no column 'file_name' (it has: {', '.join(map(str, rows.columns))})")
    folder = table.parent.relative_to(root).as_posix()
    if folder != ".":
        rows[column] = folder + "/" + rows[column]
        if SPLIT not in rows:
            rows[SPLIT] = folder
    return rows


def _separator(path: Path) -> str:
    """The separator of a text table: of comma, semicolon, tab and bar, the most frequent one in the header.

    Raises:
        UserError: a column is there twice, of which pandas would rename one.
    """
    try:
        with open_unpacked(path) as file:
            header = file.readline(1 << 20).decode("utf-8-sig", errors="replace")
    except (OSError, EOFError, ValueError):
        return ","  # whoever reads the table says what is wrong
    separator = max(",;\t|", key=re.sub(r'"[^"]*"', "", header).count)
    names = [name.strip() for name in next(csv.reader([header], delimiter=separator), []) if name.strip()]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--table {path}: has the column {repeated[0]!r} more than once: rename one of them")
    return separator


# ---------------------------------------------------------------------------------------------------------------------
# JSON


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSON file: a list of objects, or an object of such lists by split, as R2Gen's annotation.json."""
    content = _parse_json(_text_of(path), path, "")
    groups = content.items() if isinstance(content, dict) else [("", content)]
    for split, rows in groups:
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f"--table {path}: is neither a list of objects nor lists of objects by split")
        for row in rows:
            yield {SPLIT: split} | row if split else row


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_text_of(path).splitlines(), 1):
        if line.strip():
            row = _parse_json(line, path, f" in line {number}")
            if not isinstance(row, dict):
                raise UserError(f"--table {path}: line {number} is not an object")
            yield row


def _text_of(path: Path) -> str:
    try:
        with open_unpacked(path) as file:
            return file.read().decode("utf-8-sig")
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"--table {path}: is not readable text ({' '.join(str(error).split())})") from None


def _parse_json(text: str, path: Path, where: str) -> Any:
    try:
        return json.loads(text, parse_float=str, parse_int=str)  # ids keep their digits
    except json.JSONDecodeError as error:
        raise UserError(f"--table {path}: is not valid JSON{where} ({error})") from None


# ---------------------------------------------------------------------------------------------------------------------
# Parquet and Arrow


def _parquet_rows(path: Path, unpack_to: Path) -> Iterator[dict[str, Any]]:
    parquet = _pyarrow("pyarrow.parquet")
    split = re.match(r"(train|validation|valid|val|test)[-_.]", path.name.lower())
    try:
        file = parquet.ParquetFile(path)
        yield from _batch_rows(file.schema_arrow, file.iter_batches(256), unpack_to, split[1] if split else "", path)
    except (OSError, ValueError) as error:  # Arrow's errors are ValueErrors
        raise UserError(f"--table {path}: is not a whole Parquet file ({' '.join(str(error).split())[:200]})") from None


def _arrow_rows(folder: Path, unpack_to: Path, split: str) -> Iterator[dict[str, Any]]:
    """Rows of one split of a dataset that `datasets` saved by `save_to_disk`."""
    ipc = _pyarrow("pyarrow.ipc")
    try:
        for part in json.loads((folder / "state.json").read_text())["_data_files"]:
            path = folder / part["filename"]
            with path.open("rb") as file, ipc.open_stream(file) as stream:
                yield from _batch_rows(stream.schema, stream, unpack_to, split, path)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"--table {folder}: is not a whole dataset ({' '.join(str(error).split())[:200]})") from None


def _batch_rows(
    schema: Any, batches: Iterable[Any], unpack_to: Path, split: str, path: Path
) -> Iterator[dict[str, Any]]:
    """Rows of Arrow batches; numbers of classes become their names, images become files."""
    info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {})
    classes = {name: feature["names"] for name, feature in info.get("features", {}).items() if "names" in feature}
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            for name, value in row.items():
                if name in classes and isinstance(value, int):
                    row[name] = classes[name][value] if 0 <= value < len(classes[name]) else ""
                elif isinstance(value, dict) and value.keys() == {"bytes", "path"}:
                    row[name] = _unpacked(value, unpack_to, f"{split or path.stem}_{path.stem}_{number:07d}")
            number += 1
            yield {SPLIT: split} | row if split else row


def _unpacked(image: dict[str, Any], folder: Path, name: str) -> str:
    """The file name of an image inside a table, which is written unless it is there with the same size."""
    data, path = image["bytes"], image["path"]
    if data is None:
        return path or ""
    suffix = next((suffix for magic, suffix in _SIGNATURES.items() if data.startswith(magic)), "")
    target = folder / (Path(path).name if path else f"{name}{suffix or '.png'}")
    if not target.is_file() or target.stat().st_size != len(data):
        folder.mkdir(parents=True, exist_ok=True)
        with atomic(target) as temporary:
            temporary.write_bytes(data)
    return target.name


def _pyarrow(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        raise UserError(f"{module} is needed to read this table: pip install sdcxr[tables]") from None


# ---------------------------------------------------------------------------------------------------------------------
# Cells


def _frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    cells = [{name: _cell(value) for name, value in row.items()} for row in rows]
    columns = list(dict.fromkeys(name for row in cells for name in row))
    return pd.DataFrame([[row.get(name, "") for name in columns] for row in cells], columns=columns, dtype=object)


def _cell(value: Any) -> Any:
    """A value as text; the members of lists and dictionaries, too."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list | tuple):
        return [_cell(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _cell(item) for key, item in value.items()}
    return str(value)
