"""CSV tables from anywhere: read, or refused in one line that says what is wrong with them."""

import re
import warnings
import zlib
from pathlib import Path
from typing import Any

import pandas as pd

from sdcxr.runtime.errors import UserError


def read_csv(path: str | Path, flag: str = "", drop_surplus: bool = False, **options: Any) -> pd.DataFrame:
    """`pandas.read_csv` with these options; as str, missing values empty, where they do not say otherwise.

    Args:
        path: the file, plain or .gz.
        flag: the command-line flag it came from, for messages.
        drop_surplus: whether cells beyond the header's are dropped, such as those that a trailing comma makes.
        options: of `pandas.read_csv`.

    Raises:
        UserError: it cannot be read, is separated by something else than commas, or has surplus cells.
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
            # Surplus cells must not turn the first column into an index.
            return pd.read_csv(path, index_col=False, **options)
    except FileNotFoundError:
        raise UserError(f"{where} does not exist") from None
    except pd.errors.ParserWarning:
        raise UserError(f"{where}: rows have more cells than the header: put texts with commas in quotes") from None
    except UnicodeDecodeError:
        raise UserError(f"{where} is not a readable CSV table (not a text in UTF-8)") from None
    except (OSError, EOFError, zlib.error, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{where} is not a readable CSV table ({' '.join(str(error).split())})") from None
