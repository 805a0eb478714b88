"""Kinds of tables: text files, JSON, Parquet, saved datasets, folders; what is no table is refused."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.data_prep.tables import ROWS, prepare, refusal, save


def comma(path: Path) -> Path:
    return save(path / "t.csv")


def packed(path: Path) -> Path:
    return save(path / "t.csv.gz")


def tabs(path: Path) -> Path:
    return save(path / "t.tsv", sep="\t")


def semicolons(path: Path) -> Path:
    return save(path / "t.csv", sep=";", encoding="utf-8-sig")


def list_of_objects(path: Path) -> Path:
    (path / "t.json").write_text(json.dumps(ROWS))
    return path / "t.json"


def lists_by_split(path: Path) -> Path:
    (path / "t.json").write_text(json.dumps({"train": ROWS[:4], "val": ROWS[4:]}))
    return path / "t.json"


def json_lines(path: Path) -> Path:
    with gzip.open(path / "t.jsonl.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, ROWS)) + "\n")
    return path / "t.jsonl.gz"


def parquet(path: Path) -> Path:
    pytest.importorskip("pyarrow")
    pd.DataFrame(ROWS).astype({"Edema": float, "subject_id": int}).to_parquet(path / "t.parquet")
    return path / "t.parquet"


def saved_dataset(path: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ROWS).save_to_disk(str(path / "t"))
    return path / "t"


def saved_splits(path: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    parts = {"train": ROWS[:4], "test": ROWS[4:]}
    splits = {name: datasets.Dataset.from_list(rows) for name, rows in parts.items()}
    datasets.DatasetDict(splits).save_to_disk(str(path / "t"))
    return path / "t"


@pytest.mark.parametrize(
    "write",
    [
        comma,
        packed,
        tabs,
        semicolons,
        list_of_objects,
        lists_by_split,
        json_lines,
        parquet,
        saved_dataset,
        saved_splits,
    ],
)
def test_every_kind_of_table_gives_the_same_rows(tmp_path, images, write):
    found = prepare(write(tmp_path), images, validation_fraction=0)
    assert found["text"].tolist() == [row["text"] for row in ROWS]
    assert found["subject_id"].tolist() == [row["subject_id"] for row in ROWS]
    assert found["Edema"].tolist() == [0, 1] * 3 and set(found["view"]) == {"PA"}
    last = {lists_by_split: "validation", saved_splits: "test"}.get(write, "train")
    assert found["split"].tolist() == ["train"] * 4 + [last] * 2


def test_an_image_folder_is_read_with_its_splits(tmp_path, images):
    for split, numbers in (("train", range(4)), ("test", range(4, 6))):
        folder = tmp_path / "folder" / split
        folder.mkdir(parents=True)
        for n in numbers:
            (folder / f"i{n}.png").write_bytes((images / f"i{n}.png").read_bytes())
        rows = [{"file_name": f"i{n}.png", "text": f"Text {n}."} for n in numbers]
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = prepare(tmp_path / "folder", tmp_path / "folder")
    assert found["text"].to_dict() == {f"i{n}": f"Text {n}." for n in range(6)}
    assert found["split"].tolist() == ["train"] * 4 + ["test"] * 2


def test_images_and_class_names_inside_a_dataset_are_unpacked(tmp_path, images):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"picture": datasets.Image(), "finding": datasets.ClassLabel(names=["normal", "edema"])}
    )
    rows = {"picture": [Image.open(images / f"i{n}.png") for n in range(6)], "finding": [0, 1] * 3}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "t"))
    flags = {"columns": "image=picture,labels=finding", "prompt_template": "{findings}."}
    found = prepare(tmp_path / "t", tmp_path / "unpacked", **flags)
    assert found["text"].tolist() == ["No finding.", "Edema."] * 3 and found["No Finding"].sum() == 3
    written = sorted((tmp_path / "out/train").glob("*.png"))
    for n, path in enumerate(written):
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(images / f"i{n}.png")))
    assert prepare(tmp_path / "t", tmp_path / "unpacked", **flags)["text"].tolist() == found["text"].tolist()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.xlsx", b"PK", "is an Excel workbook: save it as CSV"),
        ("t.pkl", b"", "is a pickle, which may run code"),
        ("t.tar", b"", "is an archive: unpack it"),
        ("t.docx", b"", "is a file of an unknown kind: save it as one of .csv, .tsv"),
        ("t.json", b"[{", "is not valid JSON"),
        ("t.json", b'{"a": 1}', "is neither a list of objects nor lists of objects by split"),
        ("t.json", b"[]", "has no rows"),
        ("t.jsonl", b'{"a": 1}\n{"a', "is not valid JSON in line 2"),
        ("t.jsonl", b'"a"\n', "line 1 is no JSON object"),
        ("t.csv", b"image,text\n", "has no rows"),
        ("t.csv", b"image,text,text\na,b,c\n", "more than once"),
        ("t.csv", b"", "is not a readable CSV table"),
        ("t.csv.gz", gzip.compress(b"image,text\na,b\n", mtime=0)[:-9], "is not a readable CSV table"),
        ("t.parquet", b"PAR1", "is not a whole Parquet file"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, images, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert message in refusal(tmp_path / name, images)


def test_a_folder_without_a_table_says_what_is_looked_for(tmp_path, images):
    assert "does not exist" in refusal(tmp_path / "none.csv", images)
    assert "looked for a dataset saved by save_to_disk, metadata.csv" in refusal(images, images)


@pytest.mark.parametrize(
    ("places", "told"),
    [
        (("COVID/images", "Normal/images"), "COVID/images and in Normal/images"),  # with masks beside images
        (("benign/patient1", "malignant/patient2"), "benign/patient1 and in malignant/patient2"),
        (("benign", "benign/hard"), "benign and in benign/hard"),
        (("train", "test"), "lie in test"),
        (("benign/train", "malignant/train"), "lie in benign/train"),
    ],
)
def test_folders_that_may_or_may_not_be_classes_are_refused(tmp_path, images, places, told):
    root = tmp_path / "set"
    for n, place in enumerate(places):
        (root / place).mkdir(parents=True)
        shutil.copy(images / f"i{n}.png", root / place)
    message = refusal(root, root)
    assert told in message and "which folders are the classes?" in message


def test_a_split_counts_wherever_it_lies_above_the_class(tmp_path, images):
    root = tmp_path / "set"
    for n, place in enumerate(("chest/Train/images/ill", "chest/Train/images/well", "chest/Test/images/ill")):
        (root / place).mkdir(parents=True)
        shutil.copy(images / f"i{n}.png", root / place)
    found = prepare(root, root, prompt_template="{class}.")
    assert found["split"].tolist() == ["train", "train", "test"]
    assert found["class"].tolist() == ["ill", "well", "ill"]
