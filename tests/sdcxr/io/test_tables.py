"""CSV tables that are packed, cut off, or something else."""

import gzip
import re

import pytest

from sdcxr.io.tables import read_csv
from sdcxr.runtime.errors import UserError

TABLE = b"a,b,c\n1,2,3\n4,5,6\n"


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_table_is_read_by_its_content_not_by_its_name(tmp_path, name, packed):
    (tmp_path / name).write_bytes(gzip.compress(TABLE, mtime=0) if packed else TABLE)
    assert read_csv(tmp_path / name).to_numpy().tolist() == [["1", "2", "3"], ["4", "5", "6"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TABLE[:-3], "t.csv is cut off (its last row has 2 of 3 cells and no end of line): get it again"),
        (TABLE[:-5], "t.csv is cut off (its last row has 1 of 3 cells and no end of line): get it again"),
        (b'a,b\n1,2\n3,"half a te', "EOF inside string starting at row 2: it is cut off, get it again"),
        (gzip.compress(TABLE, mtime=0)[:-9], "end-of-stream marker was reached: it is cut off, get it again"),
        (gzip.compress(TABLE, mtime=0)[:-8] + b"12345678", "CRC check failed"),
        (gzip.compress(TABLE, mtime=0)[:-4] + b"1234", "Incorrect length"),
        (b"PK\x03\x04", "it is a zip archive or an Excel workbook: save it as CSV"),
        (b"", "No columns to parse"),
        (b"a,b,b\n1,2,3\n", "t.csv has a column more than once (columns 2 and 3: 'b'): rename one of them"),
        (b"a,b\n1,half a text, with a comma\n", "rows have more cells than the header: put texts with"),
        (b"a,b\n1,2,,\n", "rows have more cells than the header"),
    ],
)
def test_a_damaged_table_is_one_line(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_csv(tmp_path / "t.csv")
    assert "\n" not in str(error.value)


def test_a_comma_at_the_end_of_rows_is_no_column(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfa,b\n1,2,\n3,4\n")
    assert read_csv(tmp_path / "t.csv").to_dict("list") == {"a": ["1", "3"], "b": ["2", "4"]}
    assert read_csv(tmp_path / "t.csv", dtype=None, keep_default_na=True)["b"].tolist() == [2, 4]


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        (TABLE, ""),
        (TABLE.replace(b"\n", b"\r\n"), ""),
        (TABLE[:-1], "has no end of line after its last row: is it cut off?"),
        (TABLE[:-3] + b"\n", "its last row has 2 of 3 cells: is it cut off?"),
        (b"a,b,c\n1\n4\n", ""),  # a program that leaves out empty cells at the end
        (b'a,b,c\n1,2,"two\nlines, with commas"\n', ""),
        (b"a,b,c\n", ""),
    ],
)
def test_a_table_that_may_be_cut_off_is_warned_of(tmp_path, content, warning, capsys):
    (tmp_path / "t.csv").write_bytes(content)
    read_csv(tmp_path / "t.csv")
    assert capsys.readouterr().err == ""
    read_csv(tmp_path / "t.csv", check_end=True)
    assert warning in capsys.readouterr().err
