"""Tables of every common form give the same cells; what cannot be read is one line that quotes no cell."""

import gzip
import json
import sys

import pandas as pd
import pytest

from sdcxr.io.table_formats import read_table
from sdcxr.runtime.errors import UserError

ROWS = [{"id": "07", "text": "x, \u2028y; z"}, {"id": "8", "text": ""}]
OBJECTS = json.dumps([{"id": "07", "text": "x, \u2028y; z"}, {"id": 8, "text": None}], ensure_ascii=False)
LINES = "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in json.loads(OBJECTS))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", 'id,text \n07,"x, \u2028y; z"\n8,\n'),
        ("t.CSV", 'id;text\n07;"x, \u2028y; z"\n8;\n'),
        ("t.tsv", "id\ttext\n07\tx, \u2028y; z\n8\t\n"),
        ("t.txt", "id|text\n07|x, \u2028y; z\n8|\n"),
        ("t.json", OBJECTS),
        ("t.jsonl", LINES),
        ("t.NDJSON", "\ufeff" + LINES),
    ],
)
def test_every_form_gives_the_same_cells(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode())
    (tmp_path / f"packed.{name}.gz").write_bytes(gzip.compress(content.encode(), mtime=0))
    for file in (name, f"packed.{name}.gz"):
        assert read_table(tmp_path / file).to_dict("records") == ROWS
    if "json" in name.lower():
        (tmp_path / name).write_bytes(content.removeprefix("\ufeff").encode("utf-16"))
        assert read_table(tmp_path / name).to_dict("records") == ROWS


def test_one_column_of_texts_is_not_split(tmp_path):
    for name, content in (("t.csv", 'text\n"a, b"\nc; d\n'), ("t.tsv", "text\na, b\nc; d\n")):
        (tmp_path / name).write_text(content)
        assert read_table(tmp_path / name)["text"].tolist() == ["a, b", "c; d"]


def test_parquet_has_the_same_cells_and_needs_pyarrow(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    pd.DataFrame({"id": [7, None], "text": ["x", None], "names": [["a", 1], []]}, dtype=object).astype(
        {"id": "Int64", "names": str}
    ).to_parquet(tmp_path / "t.PARQUET")
    rows = read_table(tmp_path / "t.PARQUET")
    assert rows.to_dict("list") == {"id": ["7", ""], "text": ["x", ""], "names": ["['a', 1]", "[]"]}
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"t.PARQUET needs pyarrow: pip install sdcxr\[tables\], or save it as CSV"):
        read_table(tmp_path / "t.PARQUET", "--table")


def test_lists_stay_and_splits_are_a_column(tmp_path):
    (tmp_path / "t.json").write_text('{"train": [{"a": ["x", 1.50]}], "val": [{"b": {"c": null}}], "test": []}')
    rows = read_table(tmp_path / "t.json").to_dict("records")
    assert rows == [{"split": "train", "a": ["x", "1.50"], "b": ""}, {"split": "val", "a": "", "b": {"c": ""}}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.json", b'["secret"]', "is neither a list of objects nor lists of objects by split"),
        ("t.json", b'{"secret": 1}', "is neither a list of objects"),
        ("t.json", b'{"secret"', "is not valid JSON"),
        ("t.json", b"[" * 200_000, "is not valid JSON"),
        ("t.jsonl", b"\n{}\nsecret", "is not valid JSON in line 3"),
        ("t.jsonl", b'"secret"', "line 1 is no JSON object"),
        ("t.jsonl", b"secret\xff", "is not UTF-8 text: save it as UTF-8"),
        ("t.jsonl", b"PK\x03\x04", "cannot be read (it is a zip archive or an Excel workbook"),
        ("t.jsonl.gz", gzip.compress(b"{}", mtime=0)[:-9], "cannot be read"),
        ("t.json", b"secret\0", "holds NUL characters"),
        ("t.csv", b"secret text of four,secret text of four\n", "has a column more than once (columns 1 and 2)"),
        ("t.pkl", b"", "is a pickle, which may run code"),
        ("t", b"", "is a file of an unknown kind"),
    ],
)
def test_what_is_no_table_is_one_line_that_quotes_nothing(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read_table(tmp_path / name, "--prompts")
    assert message in str(error.value) and "\n" not in str(error.value) and "secret" not in str(error.value)
