"""Read a table of any common form, by its suffix: CSV, TSV, JSON, JSON lines or Parquet, also packed with gzip.

Cells become text, "" where missing; lists and dictionaries stay. No message quotes a cell, which may be from a report.
"""

import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd

from sdcxr.io.files import atomic
from sdcxr.io.tables import open_unpacked, read_csv
from sdcxr.runtime.errors import UserError

SPLIT = "split"  # column of what an object or the name of a Parquet file says
_DELIMITED = (".csv", ".tsv", ".tab", ".txt")
_JSON_LINES = (".jsonl", ".ndjson")
TABLE_KINDS = (*_DELIMITED, ".json", *_JSON_LINES, ".parquet")
_PICKLE = "a pickle, which may run code when it is opened: save it as CSV or Parquet"
REFUSED = {
    ".xlsx": "an Excel workbook: save it as CSV",
    ".xls": "an Excel workbook: save it as CSV",
    ".ods": "a spreadsheet: save it as CSV",
    ".pkl": _PICKLE,
    ".pickle": _PICKLE,
    ".tar": "an archive: unpack it, and give the table or the folder of texts in it",
    ".zip": "an archive: unpack it, and give the table in it",
    ".arrow": "a part of a Hugging Face dataset: give its folder",
}
_SIGNATURES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"II*\0": ".tif", b"MM\0*": ".tif"}


def kind_of(path: Path) -> str:
    """The suffix that tells the kind of a file, lower case, that of compression left out."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def read_table(path: Path, flag: str = "", text_column: str = "", unpack_to: Path | None = None) -> pd.DataFrame:
    """Read a table; its kind is that of the suffix (`TABLE_KINDS`).

    Args:
        path: the file.
        flag: the command-line flag it came from, for messages.
        text_column: column of the texts where JSON has texts instead of objects; "": these are refused.
        unpack_to: folder for images inside the table; the cell becomes the name of the file.

    Raises:
        UserError: missing, of a kind that is not read, damaged, or a package is not installed.
    """
    where, kind = f"{flag} {path}".lstrip(), kind_of(path)
    if not path.is_file():
        raise UserError(f"{where} does not exist")
    if kind in REFUSED:
        raise UserError(f"{where} is {REFUSED[kind]}")
    if kind not in TABLE_KINDS:
        raise UserError(f"{where} is a file of an unknown kind: save it as one of {', '.join(TABLE_KINDS)}")
    if kind in _DELIMITED:
        table = read_csv(path, flag, sep=None)
    elif kind == ".parquet":
        table = to_frame(_parquet_rows(path, where, unpack_to))
    else:
        values = _json_lines(path, where) if kind in _JSON_LINES else _json_values(path, where)
        table = to_frame(_objects(values, where, text_column))
    table.columns = pd.Index([str(column).strip() for column in table.columns])
    return table


def to_frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """A table of rows that may lack columns."""
    cells = [{name: _cell(value) for name, value in row.items()} for row in rows]
    columns = list(dict.fromkeys(name for row in cells for name in row))
    return pd.DataFrame([[row.get(name, "") for name in columns] for row in cells], columns=columns)


def _cell(value: Any) -> Any:
    """A value as text; the members of lists and dictionaries, too."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list | tuple):
        return [_cell(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _cell(item) for key, item in value.items()}
    return str(value)


# ---------------------------------------------------------------------------------------------------------------------
# JSON


def read_lines(path: Path, where: str) -> list[str]:
    """The lines of a text file in UTF-8, or in UTF-16 as Windows calls Unicode; U+2028 and the like end none.

    Raises:
        UserError: it is no text; the message begins with `where`.
    """
    try:
        with open_unpacked(path) as file:
            content = file.read()
        text = content.decode("utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{where} is not UTF-8 text: save it as UTF-8") from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{where} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if "\0" in text:
        raise UserError(f"{where} is not a text (it holds NUL characters)")
    return re.split(r"\r\n|\r|\n", text)


class _Number(str):
    """A number with its digits, which ids need."""


def _parse_json(text: str, where: str, place: str = "") -> Any:
    try:
        return json.loads(text, parse_float=_Number, parse_int=_Number)
    except (ValueError, RecursionError) as error:  # their messages do not quote the text
        raise UserError(f"{where} is not valid JSON{place} ({error})") from None


Values = Iterator[tuple[Any, str, str]]  # what should be an object, its split, and what is wrong if it is none


def _json_values(path: Path, where: str) -> Values:
    """Of a list of objects, or of an object of such lists by split, as R2Gen's annotation.json."""
    content = _parse_json("\n".join(read_lines(path, where)), where)
    wrong = "is neither a list of objects nor lists of objects by split"
    for split, values in content.items() if isinstance(content, dict) else [("", content)]:
        for value in values if isinstance(values, list) else [None]:
            yield value, split, wrong


def _json_lines(path: Path, where: str) -> Values:
    for number, line in enumerate(read_lines(path, where), 1):
        if line.strip():
            yield _parse_json(line, where, f" in line {number}"), "", f"is no table: line {number} is no JSON object"


def _objects(values: Values, where: str, text_column: str) -> Iterator[dict[str, Any]]:
    for value, split, wrong in values:
        row = {text_column: value} if text_column and type(value) is str else value
        if not isinstance(row, dict):
            raise UserError(f"{where} {wrong}")
        yield {SPLIT: split} | row if split else row


# ---------------------------------------------------------------------------------------------------------------------
# Parquet and Arrow


def _parquet_rows(path: Path, where: str, unpack_to: Path | None) -> Iterator[dict[str, Any]]:
    parquet = pyarrow("parquet", where)
    split = re.match(r"(train|validation|valid|val|test)[-_.]", path.name.lower())
    try:
        file = parquet.ParquetFile(path)
        yield from arrow_rows(file.schema_arrow, file.iter_batches(256), path, split[1] if split else "", unpack_to)
    except (OSError, ValueError) as error:  # Arrow's errors are ValueErrors
        raise UserError(f"{where} is not a whole Parquet file ({' '.join(str(error).split())[:200]})") from None


def arrow_rows(
    schema: Any, batches: Iterable[Any], path: Path, split: str, unpack_to: Path | None
) -> Iterator[dict[str, Any]]:
    """Rows of Arrow batches; numbers of classes become their names, images become files in `unpack_to`."""
    info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {})
    classes = {name: feature["names"] for name, feature in info.get("features", {}).items() if "names" in feature}
    rows = (row for batch in batches for row in batch.to_pylist())
    for number, row in enumerate(rows):
        for name, value in row.items():
            if name in classes and isinstance(value, int):
                row[name] = classes[name][value] if 0 <= value < len(classes[name]) else ""
            elif isinstance(value, dict) and value.keys() == {"bytes", "path"}:
                row[name] = _unpacked(value, unpack_to, f"{split or path.stem}_{path.stem}_{number:07d}")
        yield {SPLIT: split} | row if split else row


def _unpacked(image: dict[str, Any], folder: Path | None, name: str) -> str:
    """The file name of an image inside a table, which is written unless it is there with the same size."""
    data, path = image["bytes"], image["path"]
    if data is None or folder is None:
        return path or ""
    suffix = next((suffix for magic, suffix in _SIGNATURES.items() if data.startswith(magic)), "")
    target = folder / (Path(path).name if path else f"{name}{suffix or '.png'}")
    if not target.is_file() or target.stat().st_size != len(data):
        folder.mkdir(parents=True, exist_ok=True)
        with atomic(target) as temporary:
            temporary.write_bytes(data)
    return target.name


def pyarrow(module: str, where: str) -> Any:
    """A module of pyarrow; a `UserError` about the table `where` if it is not installed."""
    try:
        return import_module(f"pyarrow.{module}")
    except ImportError:
        raise UserError(f"{where} needs pyarrow: pip install sdcxr[tables], or save it as CSV") from None
