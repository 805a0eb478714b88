"""Any table: kinds of files, columns, labels, prompts, splits, images; every mistake is one line."""

import gzip
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_prep.table import TableConfig, main
from data_prep.table_images import find_images, image_names
from data_prep.table_labels import parse_list
from data_prep.table_text import view_of, words_of
from sdcxr.io.files import read_json
from sdcxr.io.manifest import SPLITS, read_metadata
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError

ROWS = [
    {"image": f"i{n}.png", "text": f"Invented text {n}.", "subject_id": str(n // 2), "view": "PA", "Edema": str(n % 2)}
    for n in range(6)
]


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for n in range(6):
        pixels = np.random.default_rng(n).integers(0, 256, (24, 24), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"i{n}.png")
    return folder


def prepare(table: Path, images: Path, **flags: object) -> pd.DataFrame:
    """Run the command; all rows that were written, by the name of the image."""
    output_dir = table.with_name("out")
    settings: dict = {"validation_fraction": 0, "test_fraction": 0, "resolution": 24, "workers": 1} | flags
    assert main(TableConfig(table=table, images=images, output_dir=output_dir, **settings)) == 0
    there = [split for split in SPLITS if (output_dir / split).is_dir()]
    rows = pd.concat([read_metadata(output_dir / split).assign(split=split) for split in there])
    return rows.set_index(rows["file_name"].str.removesuffix(".png")).sort_index()


def refusal(table: Path, images: Path, **flags: object) -> str:
    with pytest.raises(UserError) as error:
        prepare(table, images, **flags)
    assert "\n" not in str(error.value)
    return str(error.value)


def save(path: Path, rows: list[dict] | None = None, **options: object) -> Path:
    pd.DataFrame(ROWS if rows is None else rows).to_csv(path, index=False, **options)  # type: ignore[call-overload]
    return path


def changed(**cells: object) -> list[dict]:
    """The rows with other cells; a list has one for each row."""
    return [
        row | {name: cell[n] if isinstance(cell, list) else cell for name, cell in cells.items()}
        for n, row in enumerate(ROWS)
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Kinds of tables


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


# ---------------------------------------------------------------------------------------------------------------------
# Columns


def test_other_names_are_given_by_flags(tmp_path, images, capsys):
    rows = [{"Bild, Datei": row["image"], "befund": row["text"], "pid": f"{row['subject_id']}.0"} for row in ROWS]
    columns = '"image=Bild, Datei",text=befund,subject_id=pid'
    found = prepare(save(tmp_path / "t.csv", rows), images, columns=columns)
    assert found["subject_id"].tolist() == [row["subject_id"] for row in ROWS]
    assert "columns: image = Bild, Datei, text = befund, subject_id = pid" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"columns": "text=txt"},
            "has no column 'txt' (text=txt; it has: image, text, subject_id, view, Edema): did you",
        ),
        ({"columns": "txt=text"}, "--columns txt=…: before the = stands one of image, text"),
        ({"columns": "text"}, "--columns text: expected name=value"),
        ({"columns": "image=name"}, "has no column 'name'"),
        ({"columns": "text="}, "which column is the prompt?"),
        ({"columns": "image="}, "which column names the images?"),
        ({"prompt_template": "{sex}."}, "has no column 'sex' (--prompt_template"),
        ({"prompt_template": "{text"}, "expected text with fields in braces"),
        ({"prompt_template": "text"}, "would be the prompt itself: a field stands in braces, {text}"),
        ({"columns": "split=view"}, "the split column holds 'pa': expected train"),
        ({"columns": "Pneumonia=view"}, "the column 'view' has 'PA': labels are 1, 0, -1 or empty; say what it means"),
        ({"columns": "Pneumonia=text"}, "the column 'text' holds texts: labels are 1, 0, -1 or empty"),
        ({"label_values": "PA=2"}, "--label_values PA=2: labels are 1, 0, -1 or nothing"),
        ({"views": "LL"}, "--views LL: no image has such a view (there are: 'PA' 6)"),
        ({"columns": "view=", "views": "PA"}, "--views PA: no column is the view"),
        ({"mapping": "chexpert"}, "has no column 'Path'"),
        ({"mapping": "nothing"}, "is neither a YAML file nor one of busi, chexgenbench"),
        ({"min_chars": 100}, "no image is left after the filters"),
        ({"min_chars": 9, "max_chars": 8}, "--min_chars 9 is more than --max_chars 8"),
    ],
)
def test_a_wrong_flag_is_one_line_that_says_what_is_there(tmp_path, images, flags, message):
    assert message in refusal(save(tmp_path / "t.csv"), images, **flags)


@pytest.mark.parametrize("ours", ["image", "split", "view", "subject_id", "labels", "Edema"])
def test_messages_do_not_quote_reports(tmp_path, images, capsys, ours):
    """Whichever column the column of reports is taken for."""
    rows = changed(text="A patient's secret, rather long text.")
    flags = {"columns": f"{ours}=text,text=view", "views": "PA", "repeats": "first"}
    told = ""
    try:
        prepare(save(tmp_path / "t.csv", rows), images, **flags)
    except UserError as error:
        told = str(error)
    captured = capsys.readouterr()
    assert "secret" not in f"{told} {captured.out} {captured.err}".lower()


def test_alternatives_and_the_impression_of_a_report(tmp_path, images):
    reports = ["FINDINGS: Clear.\nIMPRESSION: No change.", "FINDINGS: Clear."] * 3
    rows = changed(text=["", "Own text."] * 3, report=reports)
    found = prepare(save(tmp_path / "t.csv", rows), images, columns="text=text|report")
    assert found["text"].tolist()[:2] == ["FINDINGS: Clear. IMPRESSION: No change.", "Own text."]
    other = tmp_path / "other"
    other.mkdir()
    found = prepare(save(other / "t.csv", rows), images, columns="text=report", impression=True)
    assert found["text"].tolist() == ["No change."] * 3
    assert read_json(other / "out/prep.json")["rejected"] == {"no impression": 3}


def test_hugging_face_reads_the_folder_whatever_the_length_of_ids(tmp_path, images):
    datasets = pytest.importorskip("datasets")
    rows = changed(subject_id=[f"83986048869429233163798823568146098{n}" for n in range(6)])
    prepare(save(tmp_path / "t.csv", rows), images, test_fraction=0.5)
    loaded = datasets.load_dataset("imagefolder", data_dir=f"{tmp_path}/out", cache_dir=f"{tmp_path}/cache")
    assert sum(map(len, loaded.values())) == 6
    assert loaded["train"][0]["subject_id"].startswith("n83986048869429233163798823568146098")


def test_a_text_that_a_data_frame_wrote_for_none_is_none(tmp_path, images):
    found = prepare(save(tmp_path / "t.csv", changed(text=["nan", "None", "<NA>", " ", "Text.", "Nan."])), images)
    assert found["text"].tolist() == ["Text.", "Nan."]


def test_findings_of_which_none_is_a_label_are_a_warning(tmp_path, images, capsys):
    prepare(save(tmp_path / "t.csv"), images, columns="labels=view")
    assert "warning: labels: 0 of 1 findings in the column 'view'" in capsys.readouterr().err


def test_two_spellings_of_a_path_are_one_image(tmp_path, images):
    rows = changed(image=["i0.png", "./i0.png", "i0", "i1.png", "i1.png", "i2.png"], Edema="")
    assert "3 rows are of an image with more ('i0.png' has 3)" in refusal(save(tmp_path / "t.csv", rows), images)


def test_without_patients_every_image_is_one_and_a_warning_says_so(tmp_path, images, capsys):
    rows = [{"image": row["image"], "text": row["text"]} for row in ROWS]
    found = prepare(save(tmp_path / "t.csv", rows), images)
    assert found["subject_id"].tolist() == [f"i{n}" for n in range(6)]
    assert "warning: 6 of 6 rows have no patient" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# Labels and prompts


def test_label_values_have_the_meaning_that_is_given(tmp_path, images):
    rows = changed(heart=["Yes", "no", "?", "", "YES", "1.0"])
    flags = {"columns": "cardiomegaly=heart", "label_values": "yes=1,no=0,?=-1"}
    found = prepare(save(tmp_path / "t.csv", rows), images, **flags)
    assert found["Cardiomegaly"].fillna(9).tolist() == [1, 0, -1, 9, 1, 1]


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("['edema', ' lung mass']", ["edema", "lung mass"]),
        ('["edema"]', ["edema"]),
        ("edema|mass", ["edema", "mass"]),
        ("edema; mass, left", ["edema", "mass, left"]),
        ("edema, mass", ["edema", "mass"]),
        ("edema", ["edema"]),
        ("", []),
        ("nan", []),
        ("[]", []),
        ("['edema'", None),
        ("['a', __import__('os')]", None),
        ("{'Edema': 1, 'Mass': None, 'Cyst': nan}", {"Edema": 1, "Mass": "", "Cyst": ""}),
    ],
)
def test_lists_in_a_cell(cell, names):
    assert parse_list(cell) == names


def test_lists_of_findings_become_labels_and_words(tmp_path, images):
    lists = ["Edema|Effusion", "normal", "", "scoliosis", "EDEMA", "Pleural_Effusion"]
    rows = [{"image": row["image"], "f": found} for row, found in zip(ROWS, lists, strict=True)]
    flags = {"columns": "labels=f", "prompt_template": "Chest: {findings}."}
    found = prepare(save(tmp_path / "t.csv", rows), images, **flags)
    assert found["text"].to_dict() == {
        "i0": "Chest: edema and effusion.",
        "i1": "Chest: no finding.",
        "i3": "Chest: scoliosis.",
        "i4": "Chest: EDEMA.",
        "i5": "Chest: pleural effusion.",
    }
    assert found["Pleural Effusion"].fillna(9).tolist() == [1, 9, 9, 9, 1]
    assert found["No Finding"].fillna(9).tolist() == [9, 1, 9, 9, 9]


@pytest.mark.parametrize(
    ("repeats", "expected"),
    [("first", [1, 0, -1]), ("any", [1, 1, -1]), ("majority", [1, -1, 0])],
)
def test_several_rows_of_an_image(tmp_path, images, repeats, expected):
    votes = {"i0": [1, 0, 1], "i1": [0, 1], "i2": [-1, 0, 0]}
    rows = [{"image": name, "text": "Text.", "Edema": vote} for name, given in votes.items() for vote in given]
    table = save(tmp_path / "t.csv", rows)
    assert "5 rows are of an image with more ('i0.png' has 3)" in refusal(table, images)
    assert prepare(table, images, repeats=repeats)["Edema"].tolist() == expected


@pytest.mark.parametrize(
    ("cell", "words"),
    [("58.0", "58"), ("058Y", "58"), ("3.5", "3.5"), ("nan", ""), ("['a', 'b']", "a and b"), (" x  y ", "x y")],
)
def test_cells_in_a_template(cell, words):
    assert words_of(cell) == words


@pytest.mark.parametrize(
    ("cell", "view"),
    [
        ("POSTEROANTERIOR", "PA"), ("postero-anterior", "PA"), ("pa", "PA"), ("PA view", "PA"), ("AP_horizontal", "AP"),
        ("AP Supine", "AP"), ("Antero-Posterior", "AP"), ("L", "LATERAL"), ("Lateral", "LATERAL"), ("LL", "LL"),
        ("left lateral", "LL"), ("Frontal", "FRONTAL"), ("nan", ""), ("UNK", ""), ("COSTAL", "COSTAL"),
    ],
)  # fmt: skip
def test_views_have_one_spelling(cell, view):
    assert view_of(cell) == view


def test_views_and_lengths_are_filtered_and_accounted_for(tmp_path, images):
    rows = changed(
        view=["POSTEROANTERIOR", "AP", "Lateral", "", "Frontal", "PA"], text=["Long enough."] * 5 + ["Short"]
    )
    found = prepare(save(tmp_path / "t.csv", rows), images, views="frontal", min_chars=6, max_chars=50)
    assert found["view"].to_dict() == {"i0": "PA", "i1": "AP", "i4": "FRONTAL"}
    rejected = read_json(tmp_path / "out/prep.json")["rejected"]
    assert rejected == {"text too short": 1, "view not wanted": 1, "view unknown": 1}


# ---------------------------------------------------------------------------------------------------------------------
# Splits


def test_a_split_column_counts_and_lacks_no_validation(tmp_path, images):
    rows = changed(split=["Train", "train", "train", "train", "TEST", "test"])
    assert prepare(save(tmp_path / "t.csv", rows), images)["split"].tolist() == ["train"] * 4 + ["test"] * 2
    other = tmp_path / "other"
    other.mkdir()
    found = prepare(save(other / "t.csv", rows), images, validation_fraction=0.9)
    assert set(found["split"]) == {"train", "validation", "test"} and found["split"].tolist()[4:] == ["test"] * 2


def test_a_patient_in_two_splits_is_refused(tmp_path, images):
    rows = changed(split=["train", "test"] * 3)
    assert "3 patients are in more than one split" in refusal(save(tmp_path / "t.csv", rows), images)
    found = prepare(save(tmp_path / "t.csv", rows), images, columns="split=", test_fraction=0.5)
    assert len(found[["subject_id", "split"]].drop_duplicates()) == 3


# ---------------------------------------------------------------------------------------------------------------------
# Images


def paths(folder: Path, *names: str) -> list[Path]:
    return [folder / name for name in names]


@pytest.mark.parametrize(
    ("cell", "file"),
    [
        ("a/1.png", "a/1.png"),
        ("a/1", "a/1.png"),
        ("a/1.jpg", "a/1.png"),
        ("./a/1.png", "a/1.png"),
        ("a\\1.png", "a/1.png"),
        ("/elsewhere/data/a/1.png", "a/1.png"),
        ("/root/data/a/1.png", "a/1.png"),
        ("data/a/1.png", "a/1.png"),
        ("unique.dcm.gz", "deep/er/unique.dcm.gz"),
        ("unique", "deep/er/unique.dcm.gz"),
        ("1.2.840.5", "deep/1.2.840.5.dcm"),
        ("other/place/unique.dcm", "deep/er/unique.dcm.gz"),  # by its name alone
        ("er/unique", "deep/er/unique.dcm.gz"),
    ],
)
def test_images_are_found_by_path_by_its_end_and_by_name(cell, file):
    folder = Path("/root/data")
    files = paths(folder, "a/1.png", "b/1.png", "deep/er/unique.dcm.gz", "deep/1.2.840.5.dcm")
    assert find_images(pd.Series([cell]), files, folder).source.tolist() == [str(folder / file)]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [("1.png", "several images of that name"), ("c/1.png", "several images of that name"), ("2.png", "missing image")],
)
def test_an_image_that_may_be_another_is_not_taken(cell, reason):
    folder = Path("/root/data")
    found = find_images(pd.Series([cell]), paths(folder, "a/1.png", "b/1.png"), folder)
    assert found.source.tolist() == [""] and found.reason.tolist() == [reason]


def test_a_name_of_many_folders_never_stands_for_another_folder():
    """view1_frontal.jpg of a patient whose images are missing is not that of another patient."""
    folder = Path("/root/data")
    cells = pd.Series(["patient1/view1_frontal.jpg", "patient2/view1_frontal.jpg"])
    found = find_images(cells, paths(folder, "patient2/view1_frontal.jpg"), folder)
    assert found.source.tolist() == ["", "/root/data/patient2/view1_frontal.jpg"]
    assert found.reason.tolist() == ["missing image", ""] and not found.by_name.any()


@pytest.mark.parametrize(
    ("cells", "files", "found"),
    [
        (["1.jpg"], ["1.jpg", "1.png"], ["1.jpg"]),  # the mask beside it is another picture
        (["1.JPG"], ["1.jpg", "1.png"], ["1.jpg"]),
        (["scan.dcm"], ["scan.dcm", "scan.png"], ["scan.dcm"]),
        (["scan.jpg"], ["a/scan.png", "b/scan.jpg"], ["b/scan.jpg"]),
        (["scan.jpg"], ["scan.png", "b/scan.jpg"], ["b/scan.jpg"]),
        (["x/scan.jpg"], ["a/scan.png", "b/scan.jpg"], ["b/scan.jpg"]),
        (["a/scan.jpg"], ["a/scan.png", "b/scan.jpg"], ["a/scan.png"]),  # its folder counts more
        (["scan.png", "scan.dcm"], ["scan.dcm", "scan.png"], ["scan.png", "scan.dcm"]),
        (["scan.png", "scan.dcm"], ["scan.png"], ["scan.png", ""]),
        (["scan", "scan.png"], ["scan.png"], ["scan.png", "scan.png"]),
        (["scan"], ["scan", "scan.png"], ["scan"]),
    ],
)
def test_the_file_that_is_named_exactly_wins(cells, files, found):
    source = find_images(pd.Series(cells), [Path("/data", file) for file in files], Path("/data")).source
    assert source.str.removeprefix("/data/").tolist() == found


@pytest.mark.parametrize("order", [1, -1])
def test_one_name_in_two_formats_never_swaps_text(tmp_path, order):
    for n, name in enumerate(("scan.png", "scan.tif")):
        pixels = np.random.default_rng(n).integers(100 * n, 100 * n + 100, (24, 24), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    rows = [{"image": f"scan.{end}", "text": f"Of {end}.", "id": end} for end in ("png", "tif")][::order]
    found = prepare(save(tmp_path / "t.csv", rows), tmp_path, repeats="first", columns="dicom_id=id")
    assert found["text"].to_dict() == {"png": "Of png.", "tif": "Of tif."}
    for name, bright in (("png", False), ("tif", True)):
        with Image.open(tmp_path / f"out/train/{name}.png") as image:
            assert (np.asarray(image).mean() > 100) == bright
    (tmp_path / "b").mkdir()
    found = prepare(save(tmp_path / "b/t.csv", rows), tmp_path)  # one id for both
    assert found["text"].tolist() == [rows[0]["text"]]
    with Image.open(tmp_path / "b/out/train/scan.png") as image:
        assert (np.asarray(image).mean() > 100) == (order == -1)
    assert read_json(tmp_path / "b/out/prep.json")["rejected"] == {"duplicate dicom_id": 1}


def test_files_of_formats_that_are_not_read_are_not_called_missing(tmp_path, images):
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    for name in ("a.jp2", "sub/b.gif", "c.GIF"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"other")
    prepare(save(tmp_path / "t.csv", changed(image=["a.jp2", "sub/b.gif", "c", "gone.gif", "i4", "i5"])), folder)
    rejected = pd.read_csv(tmp_path / "out/rejected.csv")
    assert rejected[["reason", "detail"]].to_numpy().tolist() == [
        ["format not read", "a.jp2"],
        ["format not read", "b.gif"],
        ["format not read", "c.GIF"],
        ["missing image", "gone.gif"],
    ]


def test_a_finding_that_is_no_label_is_named(tmp_path, images, capsys):
    rows = changed(lab="Edema|Pneumonia|Pneumonai|" + "x" * 60)
    prepare(save(tmp_path / "t.csv", rows), images, columns="labels=lab")
    told = "labels: 2 of 4 findings in the column 'lab' are labels of CheXpert (not 'Pneumonai', '" + "x" * 40 + "')"
    assert told in capsys.readouterr().out


def test_of_two_formats_one_is_taken():
    folder = Path("/root/data")
    found = find_images(pd.Series(["1"]), paths(folder, "1.jpg", "1.png", "1.dcm"), folder)
    assert found.source.tolist() == ["/root/data/1.png"]


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (["x/1.png", "x/2.png"], ["1", "2"]),
        (["a/1.png", "b/1.png"], ["a_1", "b_1"]),
        (["p1/s1/v.jpg", "p1/s2/v.jpg", "p2/s1/v.jpg"], ["p1_s1_v", "p1_s2_v", "p2_s1_v"]),
        (["left chest.png"], ["left_chest"]),
        (["a/1.png", "./a/1.png", "a\\1.jpg"], ["1", "1", "1"]),
        (["a 1.png", "a(1.png"], ["a_1_042a5f2e", "a_1_0ea8885f"]),
        (["1.2.840.5", "1.2.840.5"], ["1.2.840.5", "1.2.840.5"]),
    ],
)
def test_names_of_written_images_are_unique_and_safe(cells, names):
    assert image_names(pd.Series(cells)).tolist() == names


def test_missing_images_are_listed_and_none_is_an_error_with_both_sides(tmp_path, images):
    rows = changed(image=["i0.png", "i1", "gone.png", "../../etc/passwd", "", "I2.PNG"])
    found = prepare(save(tmp_path / "t.csv", rows), images)
    assert found.index.tolist() == ["i0", "i1"]
    assert read_json(tmp_path / "out/prep.json")["rejected"] == {"missing image": 4}
    other = tmp_path / "other"
    other.mkdir()
    message = refusal(save(other / "t.csv", changed(image="study7/x.png", Edema="")), images, repeats="first")
    assert re.search(
        r"images: 0 of the .* that t.csv names are in .*\(not found: 'study7/x.png'; there is i0.png\)", message
    )


def test_rows_without_an_image_are_rejected_one_by_one(tmp_path, images):
    found = prepare(save(tmp_path / "t.csv", changed(image=["i0", "", "", "nan", "", "i5"])), images)
    assert found.index.tolist() == ["i0", "i5"]
    assert read_json(tmp_path / "out/prep.json")["rejected"] == {"missing image": 4}


def test_several_images_in_a_cell_are_rows_of_their_own(tmp_path, images):
    rows = [{"image": "['i0.png', 'i1.png']", "text": "Two."}, {"image": "['i2.png']", "text": "One."}]
    found = prepare(save(tmp_path / "t.csv", rows), images)
    assert found["text"].to_dict() == {"i0": "Two.", "i1": "Two.", "i2": "One."}


def test_the_same_command_resumes_and_another_template_is_refused(tmp_path, images, capsys):
    table = save(tmp_path / "t.csv")
    prepare(table, images)
    prepare(table, images)
    assert "is finished: nothing to do" in capsys.readouterr().out
    assert "was begun with other settings" in refusal(table, images, prompt_template="{text}")


def test_on_the_command_line(tmp_path, images, capsys):
    table = save(tmp_path / "t.csv")
    flags = f"--table {table} --images {images} --output_dir {tmp_path / 'out'} --workers 1 --resolution 24"
    with pytest.raises(SystemExit, match="0"):
        run(main, [*flags.split(), "--columns", "text=text", "--prompt_template", "[{view} view. ]{text}"])
    assert "PA view. Invented text 0." in read_metadata(tmp_path / "out/train")["text"].tolist()
    with pytest.raises(SystemExit, match="2"):
        run(main, [*flags.split(), "--duplicates", "some"])
    assert "--duplicates" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# Texts in a mode


def test_columns_of_texts_are_refocused_and_labels_are_not(tmp_path, images):
    rows = changed(text=["Unchanged edema since ___.", "___"] * 3, note=["Stable", "New"] * 3)
    found = prepare(save(tmp_path / "t.csv", rows), images, text="refocused")
    assert found["text"].tolist() == ["Edema."] * 3
    prep = read_json(tmp_path / "out/prep.json")
    assert prep["rejected"] == {"empty after cleaning": 3} and prep["texts"]["changed"] == 6
    (tmp_path / "other").mkdir()
    template = "[{text} ]{note} one."
    found = prepare(save(tmp_path / "other/t.csv", rows), images, text="clean", prompt_template=template)
    assert found["text"].tolist() == ["Unchanged edema. Stable one.", "New one."] * 3


def test_persons_of_a_table(tmp_path, images):
    rows = changed(Age=["058Y", "60", "", "58", "7", "411"], Sex=["M", "F", "f", "", "x", "male"])
    found = prepare(save(tmp_path / "t.csv", rows), images, prompt_template="[{demographics}]")
    assert found["text"].tolist() == [
        "58 year old male", "60 year old female", "Female", "58 year old patient", "7 year old patient", "Male",
    ]  # fmt: skip
    assert found["age"].tolist() == ["58.0", "60.0", "", "58.0", "7.0", ""]
    assert found["sex"].tolist() == ["male", "female", "female", "unknown", "unknown", "male"]
