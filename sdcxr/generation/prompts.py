"""Prompts from a text, a file or a dataset split; what is a file, or looks like one, is never itself a prompt."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from sdcxr.io.manifest import LABELS, SPLITS, image_ids, read_metadata, with_labels
from sdcxr.io.tables import open_unpacked, read_csv
from sdcxr.runtime.errors import UserError

TEXTS = ("text", "prompt", "impression")
IDS = ("id", "dicom_id")
# Suffixes that make a text the name of a file, also where there is none.
OTHER_FILES = (".xlsx", ".xls", ".ods", ".yaml", ".yml", ".xml", ".arrow", ".feather", ".zip", ".gz", ".docx", ".pdf")


def read_prompts(prompts: str) -> pd.DataFrame:
    """Rows with `id`, `text` and, where the source has them, `dicom_id` and the labels.

    Args:
        prompts: one prompt, a file (.txt, or a table of any kind in `READERS`), or a folder with a metadata.csv.

    Raises:
        UserError: a file or folder is missing, empty, of an unknown kind or has no text column; a text is empty; ids
            repeat or are no file names.
    """
    if not prompts.strip():
        raise UserError("--prompts: is empty")
    path = _path(prompts)
    if path and path.is_dir():
        rows = _read_split(path)
    elif path and (path.exists() or path.is_symlink()):
        rows = _read_file(path)
    elif path and speaks_for_a_path(prompts, path):
        raise UserError(f"--prompts {prompts}: no such file or folder")
    else:
        rows = pd.DataFrame({"id": ["prompt"], "text": [prompts]})
    if not len(rows):
        raise UserError(f"--prompts {prompts}: holds no prompt")
    odd = rows["id"][~rows["id"].map(lambda name: bool(re.fullmatch(r"[\w.-]*\w[\w.-]*", name)))]
    if len(odd):
        raise UserError(f"--prompts {prompts}: the id {odd.iloc[0]!r} is no file name (use letters, digits, - and _)")
    if rows["id"].duplicated().any():
        raise UserError(f"--prompts {prompts}: the id {rows['id'][rows['id'].duplicated()].iloc[0]} comes twice")
    empty = rows["id"][rows["text"].str.strip() == ""]
    if len(empty):
        raise UserError(f"--prompts {prompts}: the text of {empty.iloc[0]} is empty ({len(empty)} in all)")
    return rows


def _path(prompts: str) -> Path | None:
    """The prompts as a path; None for a text that cannot be one (too long, or an unknown ~user).

    Raises:
        UserError: it may be one, in a folder that cannot be looked into.
    """
    try:
        path = Path(prompts).expanduser()
        path.is_dir()
        path.exists()
    except PermissionError:
        raise UserError(f"--prompts {prompts}: no permission to look there") from None
    except (OSError, RuntimeError, ValueError):
        return None
    return path


def kind_of(path: Path) -> str:
    """The suffix that tells the kind of a file, lower case, that of compression left out."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def speaks_for_a_path(prompts: str, path: Path) -> bool:
    """Whether a text that is no file or folder was meant as one: `./x`, `x.csv`, `data/x` in an existing data/, …/test.

    "Pneumonia/effusion" and "..." are prompts.
    """
    if re.match(r"\.{0,2}/|~/|\w+://", prompts):
        return True
    if kind_of(path) in READERS or path.suffix.lower() in OTHER_FILES:
        return True
    return "/" in prompts and (path.parent.is_dir() or path.name in SPLITS or prompts.endswith("/"))


def _read_split(folder: Path) -> pd.DataFrame:
    splits = [name for name in SPLITS if (folder / name / "metadata.csv").is_file()]
    if splits and not (folder / "metadata.csv").is_file():
        raise UserError(
            f"--prompts {folder}: has no metadata.csv, it is a whole dataset: give one of its splits "
            f"({folder / splits[-1]})"
        )
    rows = read_metadata(folder)
    rows["id"] = image_ids(rows)
    return rows


def _read_file(path: Path) -> pd.DataFrame:
    if not path.is_file():
        what = "a link to what is not there" if path.is_symlink() else "neither a file nor a folder"
        raise UserError(f"--prompts {path}: {what}")
    read = READERS.get(kind_of(path))
    if read is None:
        known = ", ".join(READERS)
        raise UserError(f"--prompts {path}: a file of an unknown kind: save it as one of {known}, or rename it")
    try:
        return read(path)
    except (OSError, EOFError) as error:
        raise UserError(f"--prompts {path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _read_csv(path: Path) -> pd.DataFrame:
    return prompt_rows(read_csv(path, "--prompts"), path)


def _read_tsv(path: Path) -> pd.DataFrame:
    return prompt_rows(read_csv(path, "--prompts", sep="\t"), path)


def _read_lines(path: Path) -> pd.DataFrame:
    lines = _lines(path)
    if lines and ("\t" in lines[0] or {*lines[0].lower().split(",")} & {*TEXTS}):
        raise UserError(
            f"--prompts {path}: begins as a table does: name it .tsv or .csv (.txt has one prompt per line)"
        )
    return pd.DataFrame({"id": [f"{i:05d}" for i in range(len(lines))], "text": lines}, dtype=str)


def _read_json_lines(path: Path) -> pd.DataFrame:
    return _records([_json(line, path) for line in _lines(path)], path)


def _read_json(path: Path) -> pd.DataFrame:
    return _records(_json("\n".join(_lines(path)), path), path)


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path, dtype_backend="numpy_nullable")
    except ImportError:
        raise UserError(f"--prompts {path}: needs pyarrow (pip install pyarrow), or save it as CSV") from None
    except (ValueError, OSError) as error:  # pyarrow's own errors are these
        raise UserError(f"--prompts {path}: not a readable Parquet table ({' '.join(str(error).split())})") from None
    return _records(table.to_dict("records"), path)


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".tab": _read_tsv,
    ".txt": _read_lines,
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
}


def _lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped."""
    with open_unpacked(path) as file:
        content = file.read()
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))  # as Windows calls Unicode
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"--prompts {path}: not a text in UTF-8") from None
    if "\0" in text:
        raise UserError(f"--prompts {path}: not a text (it holds NUL characters)")
    return [line.strip() for line in re.split(r"\r\n|\r|\n", text) if line.strip()]


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:  # its message does not quote the text
        raise UserError(f"--prompts {path}: not valid JSON ({error})") from None


def _records(values: Any, path: Path) -> pd.DataFrame:
    """Rows from a list of texts, or of objects with a text."""
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        values = [{"text": value} for value in values]
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise UserError(f"--prompts {path}: neither a list of texts nor one of objects with a text")
    cells = [{str(name): _cell(value) for name, value in row.items()} for row in values]
    rows = pd.DataFrame(cells).fillna("").astype(str)
    text = _column(rows, TEXTS)
    if any(not isinstance(row.get(text, ""), str | None) for row in values):
        raise UserError(f"--prompts {path}: its column {text} holds something else than texts")
    return prompt_rows(rows, path)


def _cell(value: Any) -> str:
    return "" if value is None or value is pd.NA else str(value)


def _column(rows: pd.DataFrame, names: tuple[str, ...]) -> str | None:
    """The first of these columns that there is, in upper or lower case."""
    there = {str(column).strip().lower(): column for column in reversed(rows.columns)}
    return next((there[name] for name in names if name in there), None)


def prompt_rows(rows: pd.DataFrame, path: Path) -> pd.DataFrame:
    """`id`, `text` and labels of a table; numbers as ids where it has none.

    Raises:
        UserError: it has no text column, or a label has another value.
    """
    text, ids = _column(rows, TEXTS), _column(rows, IDS)
    if text is None:
        # Its columns are not listed: without a header they are the first prompt, which may be a patient's report.
        raise UserError(f"--prompts {path}: no column text or prompt (its first line has to name the columns)")
    numbered = pd.Series([f"{i:05d}" for i in range(len(rows))], dtype=str)
    prompts = pd.DataFrame({"id": rows[ids] if ids else numbered, "text": rows[text]})
    labels = rows[[name for name in LABELS if name in rows]]
    return with_labels(prompts.join(labels), prompts["id"], f"--prompts {path}")
