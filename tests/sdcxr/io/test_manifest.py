"""metadata.csv: what is written is read again, by us and by `datasets`, and what is wrong is said."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sdcxr.io.manifest import COLUMNS, LABELS, read_metadata, split_folder, text_key, write_metadata
from sdcxr.runtime.errors import UserError


def table(*texts: str, **columns: list) -> pd.DataFrame:
    return pd.DataFrame({"file_name": [f"{i}.png" for i in range(len(texts))], "text": list(texts)} | columns)


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


@given(st.lists(texts, min_size=1, max_size=5))
@example(['"quoted", with comma', "two\nlines", "carriage\rreturn", "NA", "nan", "", " spaces ", "γ ☃ 😀", "1.0", "'"])
def test_any_text_comes_back_as_it_was(values):
    with tempfile.TemporaryDirectory() as folder:
        write_metadata(Path(folder), table(*values))
        expected = [value.replace("\r\n", "\n").replace("\r", "\n") for value in values]
        assert read_metadata(folder)["text"].tolist() == expected


def test_labels_are_one_zero_minus_one_or_missing(tmp_path):
    write_metadata(tmp_path, table(*"abcd", Edema=[1, 0, -1, None], Fracture=[1.0, 1.0, 0.0, 0.0]))
    lines = (tmp_path / "metadata.csv").read_text().splitlines()
    assert lines == [
        "file_name,text,Edema,Fracture",
        "0.png,a,1.0,1.0",
        "1.png,b,0.0,1.0",
        "2.png,c,-1.0,0.0",
        "3.png,d,,0.0",
    ]
    rows = read_metadata(tmp_path)
    np.testing.assert_array_equal(rows["Edema"], [1, 0, -1, np.nan])
    assert rows["Edema"].dtype == float and rows["Fracture"].dtype == float


def test_numbers_as_ids_stay_texts(tmp_path):
    write_metadata(tmp_path, table("a", "b", subject_id=["007", "10"], study_id=[50414267, 1], view=["PA", None]))
    rows = read_metadata(tmp_path)
    assert rows["subject_id"].tolist() == ["007", "10"]
    assert rows["study_id"].tolist() == ["50414267", "1"]
    assert rows["view"].tolist() == ["PA", ""]


def test_writing_leaves_the_callers_rows_alone(tmp_path):
    rows = table("a", Edema=[1])
    write_metadata(tmp_path / "new" / "folder", rows)
    assert rows["Edema"].dtype == np.int64


def test_the_14_labels_are_chexperts_in_its_order():
    assert len(LABELS) == 14 and list(LABELS) == sorted(LABELS)
    assert COLUMNS[:6] == ("file_name", "text", "subject_id", "study_id", "dicom_id", "view")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text\na\n", "has no column 'file_name' .it has: text."),
        ("file_name\na.png\n", "has no column 'text'"),
        ("file_name,text\na.png,x\na.png,y\n", "names a.png more than once"),
        ("file_name,text\n../a.png,x\n", "leads out of the folder"),
        ("file_name,text\n/etc/passwd,x\n", "leads out of the folder"),
        ("file_name,text\na.png,x,behind a comma\n", "more cells than the header: put texts with commas in quotes"),
        ("file_name;text\na.png;x\nb.png;y, z\n", "columns are separated by ';': save it with commas"),
        ("file_name\ttext\na.png\tx, y\n", "columns are separated by a tab"),
        ("", "is not a readable CSV table"),
        ("file_name,text\na.png,x\nb.png,y,z\n", "is not a readable CSV table"),
        (b"file_name,text\na.png,\xff\n", "is not a readable CSV table"),
    ],
)
def test_wrong_tables_are_refused_by_what_is_wrong(tmp_path, content, message):
    (tmp_path / "metadata.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read_metadata(tmp_path)


@pytest.mark.parametrize(
    ("cell", "shown"),
    [("yes", "'yes'"), ("2", "'2'"), ("inf", "'inf'"), ("Edema of both lungs.", "a text")],
)
def test_what_is_no_label_is_refused_by_column_and_row(tmp_path, cell, shown):
    (tmp_path / "metadata.csv").write_text(f"file_name,text,Edema\na.png,x,1\nb.png,y,\nc.png,z,{cell}\n")
    with pytest.raises(UserError) as refused:
        read_metadata(tmp_path)
    told = f"metadata.csv: the column Edema holds {shown} in the row of c.png: labels are 1, 0, -1 or empty"
    assert str(refused.value).endswith(told)


def test_labels_may_be_written_in_several_ways_and_other_columns_hold_anything(tmp_path):
    (tmp_path / "metadata.csv").write_text(
        "file_name,text,Edema,Fracture,Note\n"
        "a.png,x,1,,yes\nb.png,x, 0.0,,2\nc.png,x,-1,,\nd.png,x,NA,,\ne.png,x,nan,,\n"
    )
    rows = read_metadata(tmp_path)
    np.testing.assert_array_equal(rows["Edema"], [1, 0, -1, np.nan, np.nan])
    assert rows["Fracture"].dtype == float and rows["Fracture"].isna().all()
    assert rows["Note"].tolist() == ["yes", "2", "", "", ""]


def test_a_folder_without_table_is_no_split(tmp_path):
    with pytest.raises(UserError, match=r"has no metadata\.csv"):
        read_metadata(tmp_path)


@pytest.mark.parametrize("text", ["no  effusion", "1. No effusion.", " 1) NO EFFUSION\n", "No effusion ___."])
def test_texts_that_say_the_same_in_the_same_words(text):
    assert text_key(text) == "no effusion"


@pytest.mark.parametrize("text", ["No effusion?", "No effusion 2", "1.5 cm. No effusion", "effusion no", "noeffusion"])
def test_texts_that_do_not(text):
    assert text_key(text) != "no effusion"


def test_split_folder_lists_the_splits_there_are(tmp_path, micro_dataset):
    assert split_folder(micro_dataset, "test") == micro_dataset / "test"
    with pytest.raises(UserError, match=r"has no split .testing. \(it has: train, validation, test\)"):
        split_folder(micro_dataset, "testing")
    with pytest.raises(UserError, match="no split at all"):
        split_folder(tmp_path, "train")
    with pytest.raises(UserError, match="does not exist"):
        split_folder(tmp_path / "nowhere", "train")


def test_a_split_of_the_dataset_folder_is_an_imagefolder(micro_dataset, tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    loaded = datasets.load_dataset("imagefolder", data_dir=str(micro_dataset), cache_dir=str(tmp_path))
    assert {name: len(split) for name, split in loaded.items()} == {"train": 11, "validation": 3, "test": 4}
    first = loaded["train"][0]
    assert first["image"].size == (64, 64) and first["text"] == "Large left pneumothorax."
    assert first[LABELS[1]] == 1.0 and loaded["train"][3][LABELS[1]] is None
