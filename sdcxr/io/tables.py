"""Read CSV files; malformed or cut-off input raises a one-line UserError."""

import csv
import gzip
import io
import re
import sys
import warnings
import zlib
from pathlib import Path
from typing import IO, Any, cast

import pandas as pd

from sdcxr.runtime.errors import UserError

GZIP_MAGIC = b"\x1f\x8b"
_TAIL_BYTES = 1 << 16
_LONGEST_NAME = 40  # characters of a column that messages quote
_SURPLUS = "\0"  # name of the column of cells beyond the last one


def read_csv(
    path: str | Path,
    flag: str = "",
    check_end: bool = False,
    sep: str | None = ",",
    **options: Any,
) -> pd.DataFrame:
    """`pandas.read_csv`, by default as str with missing values empty.

    Cells beyond the last column, such as those of a trailing comma, are dropped where they are empty.

    Args:
        path: the file, plain or compressed with gzip, whatever its name.
        flag: the command-line flag it came from, for messages.
        check_end: warn on stderr if the last row looks cut off, which a table that was typed may be, too.
        sep: the separator; None: of comma, semicolon, tab and bar the most frequent one in the header.
        options: of `pandas.read_csv`.

    Raises:
        UserError: unreadable, separated by something else, with more cells than columns, with a column that is there
            twice, of which pandas would rename one, or cut off in the last row.
    """
    where = f"{flag} {path}".lstrip()
    try:
        sep = sep or _separator(path)
        options = {"dtype": str, "keep_default_na": False, "sep": sep, **options}
        with _Reader(path) as reader:
            header = pd.read_csv(cast(IO[bytes], reader), header=None, nrows=1, sep=sep, dtype=str, na_filter=False)
        columns = header.iloc[0].tolist()
        _check_columns(columns, where, sep)
        try:
            table, tail = _parse(path, options)
        except pd.errors.ParserWarning:
            table, tail = _parse(path, options | {"header": 0, "names": [*columns, _SURPLUS]})
            if table.pop(_SURPLUS).replace("", None).notna().any():
                raise
        if "nrows" not in options:
            _check_last_row(path, where, tail, len(columns), check_end, sep)
        return table
    except FileNotFoundError:
        raise UserError(f"{where} does not exist") from None
    except pd.errors.ParserWarning:
        raise UserError(f"{where}: rows have more cells than the header: put texts with commas in quotes") from None
    except (OSError, EOFError, zlib.error, ValueError) as error:  # pandas' parser errors are ValueErrors
        told = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else " ".join(str(error).split())
        if isinstance(error, EOFError) or "EOF inside string" in told:
            told += ": it is cut off, get it again"
        raise UserError(f"{where} is not a readable CSV table ({told})") from None


def _separator(path: str | Path) -> str:
    with open_unpacked(path) as file:
        header = file.readline(1 << 20).decode("utf-8-sig", errors="replace")
    marks = "\t,;|" if re.search(r"\.(tsv|tab)\b", Path(path).name.lower()) else ",;\t|"
    return max(marks, key=re.sub(r'"[^"]*"', "", header).count)


def _check_columns(columns: list[str], where: str, sep: str) -> None:
    if sep == "," and len(columns) == 1 and (separator := re.search("[;\t|]", columns[0])):
        shown = "a tab" if separator[0] == "\t" else repr(separator[0])
        raise UserError(f"{where}: its columns are separated by {shown}: save it with commas")
    names = [name.strip() for name in columns]
    if repeated := [i for i, name in enumerate(names) if name and name in names[:i]]:
        name, second = names[repeated[0]], repeated[0] + 1
        # A longer one is not quoted: without a header, the first line is of a report.
        shown = f": {name!r}" if len(name) <= _LONGEST_NAME and len(name.split()) <= 3 else ""
        raise UserError(
            f"{where} has a column more than once (columns {names.index(name) + 1} and {second}{shown}): "
            "rename one of them"
        )


def _parse(path: str | Path, options: dict[str, Any]) -> tuple[pd.DataFrame, bytes]:
    """The table and the last bytes of its file; surplus cells are a `ParserWarning`, raised."""
    with warnings.catch_warnings(), _Reader(path) as reader:
        warnings.simplefilter("error", pd.errors.ParserWarning)
        # index_col=False: with surplus cells, pandas would take the first column as index.
        return pd.read_csv(cast(IO[bytes], reader), index_col=False, **options), reader.tail


class _Reader(io.RawIOBase):
    """The unpacked bytes of a file, plain or gzip by its first bytes; keeps the last ones that were read."""

    def __init__(self, path: str | Path) -> None:
        self.tail = b""
        self._file = open_unpacked(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self.tail = (self.tail + data)[-_TAIL_BYTES:]
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def open_unpacked(path: str | Path) -> IO[bytes]:
    """Open a table for reading; one that begins as gzip does is unpacked, and its length and checksum are verified.

    Raises:
        ValueError: it is an Excel workbook or a zip archive.
    """
    with Path(path).open("rb") as file:
        magic = file.read(2)
    if magic == b"PK":
        raise ValueError("it is a zip archive or an Excel workbook: save it as CSV")
    return cast(IO[bytes], gzip.open(path, "rb")) if magic == GZIP_MAGIC else Path(path).open("rb")


def _check_last_row(path: str | Path, where: str, tail: bytes, n_columns: int, warn: bool, sep: str) -> None:
    """Raise if the table ends in the middle of its last row; warn if it may."""
    ended = tail.endswith((b"\n", b"\r")) or not tail
    lines = tail.splitlines()[-2:]
    if not ended:
        n_cells = _cells_of_last_row(path, sep)
    elif warn and len(lines) == 2 and not any(b'"' in line for line in lines):
        before, n_cells = (line.count(sep.encode()) + 1 for line in lines)
        if before < n_columns or not lines[-1].strip():  # a program that leaves out empty cells at the end
            return
    else:
        return
    if n_cells < n_columns:
        cut = f"its last row has {n_cells} of {n_columns} cells"
        if not ended:
            raise UserError(f"{where} is cut off ({cut} and no end of line): get it again")
        print(f"warning: {where}: {cut}: is it cut off?", file=sys.stderr)
    elif warn and not ended:
        print(f"warning: {where} has no end of line after its last row: is it cut off?", file=sys.stderr)


def _cells_of_last_row(path: str | Path, sep: str) -> int:
    n_cells = 0
    with open_unpacked(path) as file, io.TextIOWrapper(file, encoding="utf-8", errors="replace", newline="") as text:
        for row in csv.reader(text, delimiter=sep):
            n_cells = len(row) or n_cells
    return n_cells
