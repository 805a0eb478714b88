"""Read CSV files; malformed input raises a one-line UserError."""

import re
import warnings
import zlib
from pathlib import Path
from typing import Any

import pandas as pd

from sdcxr.runtime.errors import UserError


def read_csv(path: str | Path, flag: str = "", drop_surplus: bool = False, **options: Any) -> pd.DataFrame:
    """`pandas.read_csv`, by default as str with missing values empty.

    Args:
        path: the file, plain or .gz.
        flag: the command-line flag it came from, for messages.
        drop_surplus: drop cells beyond the last column of the header, such as those of a trailing comma.
        options: of `pandas.read_csv`.

    Raises:
        UserError: unreadable, not separated by commas, or with more cells than columns.
    """
    where = f"{flag} {path}".lstrip()
    options = {"dtype": str, "keep_default_na": False, **options}
    try:
        columns = pd.read_csv(path, nrows=0).columns
        if len(columns) == 1 and (separator := re.search("[;\t|]", columns[0])):
            shown = "a tab" if separator[0] == "\t" else repr(separator[0])
            raise UserError(f"{where}: its columns are separated by {shown}: save it with commas")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if drop_surplus else "error", pd.errors.ParserWarning)
            # index_col=False: with surplus cells, pandas would take the first column as index.
            return pd.read_csv(path, index_col=False, **options)
    except FileNotFoundError:
        raise UserError(f"{where} does not exist") from None
    except pd.errors.ParserWarning:
        raise UserError(f"{where}: rows have more cells than the header: put texts with commas in quotes") from None
    except (OSError, EOFError, zlib.error, ValueError) as error:  # pandas' parser errors are ValueErrors
        told = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else " ".join(str(error).split())
        raise UserError(f"{where} is not a readable CSV table ({told})") from None
