"""ChestX-ray14: both editions of its table, the dataset folder, a part of the images."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_prep.nih14 import main, parse_findings, read_labels, select
from sdcxr.io.files import read_json
from sdcxr.io.manifest import SPLITS
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError
from tests.data_prep.folders import metadata
from tests.data_prep.nih14_collection import (
    FIRST_EDITION,
    PERSON,
    SECOND_EDITION,
    config_for,
    write_collection,
)


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    return write_collection(tmp_path)


REAL = Path(__file__).parents[3] / "shared" / "real-cxr"
# ---------------------------------------------------------------------------------------------------------------------
# The table


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        ("No Finding", []),
        ("Effusion|Pneumonia", ["Effusion", "Pneumonia"]),
        ("Pleural_Thickening", ["Pleural_Thickening"]),
        ("Cough", None),
        ("", None),
        ("No Finding|Effusion", None),
        ("Effusion|Effusion", ["Effusion"]),
        ("effusion| Pleural Thickening ", ["Effusion", "Pleural_Thickening"]),
        ("no finding", []),
    ],
)
def test_findings(text, findings):
    assert parse_findings(text) == findings


def test_both_editions_give_the_same_rows(tmp_path):
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    first.write_text(FIRST_EDITION + "00000001_000.png,Effusion|Edema,0,1,058Y,F,PA,2682,2749,0.143,0.143,\n")
    second.write_text(SECOND_EDITION + "00000001_000.png,Effusion|Edema,0,1,58,F,PA,2682,2749,0.143,0.143\n")
    pd.testing.assert_frame_equal(read_labels(first), read_labels(second))
    row = read_labels(first).iloc[0]
    assert (row["subject_id"], row["dicom_id"], row["age"], row["sex"]) == ("1", "00000001_000", "58", "F")
    assert row["findings"] == ["Effusion", "Edema"]


def test_one_unknown_age_changes_no_other(tmp_path):
    ages = ("058Y", "60", "411", "")
    lines = [f"0000000{n}_000.png,Effusion,0,{n}.0,{age},M,PA,1,1,1,1\n" for n, age in enumerate(ages)]
    path = tmp_path / "labels.csv"
    path.write_text(SECOND_EDITION + "".join(lines))
    table = read_labels(path)
    assert table["age"].tolist() == ["58", "60", "", ""] and table["subject_id"].tolist() == ["0", "1", "2", "3"]
    rows = select(config_for(tmp_path, prompt_template=PERSON), set(table["dicom_id"])).rows
    assert [text.removesuffix(". Pleural effusion.") for text in rows["text"]] == [
        "58 year old male", "60 year old male", "Male", "Male",
    ]  # fmt: skip


def test_trailing_comma_in_the_rows_alone_shifts_no_column(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(SECOND_EDITION + "00000001_000.png,Edema,0,1,058Y,F,PA,2682,2749,0.143,0.143,\n")
    assert read_labels(path)["dicom_id"].tolist() == ["00000001_000"]


# ---------------------------------------------------------------------------------------------------------------------
# The command


def test_dataset_folder(collection):
    assert main(config_for(collection, prompt_template=PERSON)) == 0
    rows = metadata(collection / "out")
    assert len(rows) == 80 and set(rows["split"]) == set(SPLITS)
    row = rows.set_index("dicom_id").loc["00000002_001"]
    assert row["text"] == "22 year old male. Pleural effusion and pneumonia."
    assert (row["subject_id"], row["study_id"], row["view"]) == ("2", "00000002_001", "AP")
    assert (row["Pneumonia"], row["No Finding"]) == (1, 0) and np.isnan(row["Fracture"])
    assert (row["age"], row["sex"]) == ("22.0", "male")
    with Image.open(collection / "out" / row["split"] / row["file_name"]) as image:
        assert (image.size, image.mode) == ((16, 16), "L")


def test_imagefolder_reads_it(collection, tmp_path_factory):
    datasets = pytest.importorskip("datasets")
    main(config_for(collection))
    cache = str(tmp_path_factory.mktemp("cache"))
    loaded = datasets.load_dataset("imagefolder", data_dir=str(collection / "out"), cache_dir=cache)
    assert sum(len(loaded[split]) for split in SPLITS) == 80
    assert loaded["train"][0]["text"] in ("No finding.", "Pleural effusion and pneumonia.")
    kinds = {(loaded[split].features["age"].dtype, loaded[split].features["sex"].dtype) for split in SPLITS}
    assert len(kinds) == 1 and next(iter(kinds))[0] == "float64"


def test_views(collection):
    assert main(config_for(collection, views="PA")) == 0
    assert set(metadata(collection / "out")["view"]) == {"PA"}


def test_absent_images_are_listed_and_are_no_failure(collection):
    for patient in range(1, 31):
        for path in (collection / "images").rglob(f"{patient:08d}_*.png"):
            path.unlink()
    assert main(config_for(collection)) == 0
    assert len(metadata(collection / "out")) == 20
    rejected = pd.read_csv(collection / "out" / "rejected.csv")
    assert rejected["reason"].value_counts().to_dict() == {"missing image": 60}


def test_a_picture_of_the_same_name_in_another_format_is_not_taken(collection):
    table = collection / "labels.csv"
    table.write_text(table.read_text().replace("00000001_000.png", "00000001_000.jpg"))
    pixels = np.random.default_rng(0).integers(150, 256, (24, 24), dtype=np.uint8)
    Image.fromarray(pixels).save(collection / "images" / "00000001_000.jpg", quality=95)
    assert main(config_for(collection)) == 0
    written = next((collection / "out").rglob("00000001_000.png"))
    with Image.open(written) as image:
        assert np.asarray(image).min() > 100


def test_images_that_come_later_are_taken_up(collection, capsys):
    late = [(path, path.read_bytes()) for path in sorted((collection / "images" / "images_003").rglob("*.png"))]
    for path, _ in late:
        path.unlink()
    assert main(config_for(collection)) == 0
    assert "images: 54 of 80 images of the table" in capsys.readouterr().out
    for path, data in late:
        path.write_bytes(data)
    assert main(config_for(collection)) == 0
    printed = capsys.readouterr().out
    assert "is updated: images changed" in printed and "26 to convert, 54 are up to date" in printed
    assert len(metadata(collection / "out")) == 80
    assert main(config_for(collection)) == 0
    assert "nothing to do (compared with 80 source images)" in capsys.readouterr().out


def test_earlier_results_below_the_images_are_no_sources(collection):
    small = config_for(collection, images=collection, output_dir=collection / "a", resolution=8)
    assert main(small) == 0
    assert main(config_for(collection, images=collection, output_dir=collection / "b")) == 0
    assert main(config_for(collection, output_dir=collection / "direct")) == 0
    for path in (collection / "direct").rglob("*.png"):
        assert path.read_bytes() == (collection / "b" / path.relative_to(collection / "direct")).read_bytes()
    assert main(small) == 0
    with pytest.raises(UserError, match="was written by data_prep: give the folder of the original images"):
        main(config_for(collection, images=collection / "a" / "train", output_dir=collection / "c"))


def test_images_that_the_table_does_not_name_are_counted(collection, capsys):
    path = collection / "labels.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:41]))
    assert main(config_for(collection)) == 0
    assert "warning: 40 images in" in capsys.readouterr().err


def test_names_that_are_unsafe_count_as_failures(collection, capsys):
    path = collection / "labels.csv"
    path.write_text(path.read_text().replace("0000000", "left chest "))
    for image in sorted((collection / "images").rglob("0000000*.png")):
        image.rename(image.with_name(image.name.replace("0000000", "left chest ")))
    assert main(config_for(collection)) == 1
    assert "18 of 80 images cannot be used" in capsys.readouterr().err


def test_unreadable_images_are_a_failure(collection):
    for path in (collection / "images" / "images_001").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    assert main(config_for(collection)) == 1
    assert read_json(collection / "out" / "prep.json")["usable"] is False


def test_row_with_an_unknown_label_is_rejected_and_the_rest_goes_on(collection):
    path = collection / "labels.csv"
    path.write_text(path.read_text().replace("Effusion|Pneumonia", "Effusion|Cough", 1))
    assert main(config_for(collection)) == 0
    rejected = pd.read_csv(collection / "out" / "rejected.csv", dtype=str)
    assert rejected[["dicom_id", "reason", "detail"]].to_numpy().tolist() == [
        ["00000002_000", "no patient or unknown label", "Effusion|Cough"]
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": Path("/nowhere")}, "--images /nowhere: does not exist"),
        (
            {"images": "empty"},
            r"none of the 80 images of the table is in --images .*empty \(looked for 00000001_000; it is empty\)",
        ),
        ({"labels": "none.csv"}, "none.csv does not exist"),
        ({"labels": "bbox.csv"}, r"has no column 'Finding Labels' \(it has: Image Index, Bbox\)"),
        ({"labels": "images"}, "is not a readable CSV table"),
        ({"train_list": "labels.csv"}, "--train_list and --test_list belong together"),
        ({"prompt_template": "{finding}s, {vieww}"}, r"unknown field 'vieww' .there are: view, .*did you mean {view}."),
        ({"prompt_template": "findings"}, "would be the prompt itself"),
        ({"prompt_template": "{findings"}, "expected text with fields in braces"),
        ({"text": "clean"}, "--text clean: ChestX-ray14 has no reports"),
        ({"field_dropout": 1.5}, "--field_dropout 1.5: expected 0 to 1"),
        ({"views": "LATERAL"}, "--views LATERAL: expected one or more of PA, AP"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(collection, changes, message):
    (collection / "empty").mkdir()
    (collection / "bbox.csv").write_text("Image Index,Bbox\nx,1\n")
    words = ("prompt_template", "views", "text")
    paths = {
        name: collection / value if isinstance(value, str) and name not in words else value
        for name, value in changes.items()
    }
    with pytest.raises(UserError, match=message) as error:
        main(config_for(collection, **paths))
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real radiographs are not beside the repository")
def test_real_radiographs(tmp_path):
    argv = [f"--images={REAL / 'images'}", f"--labels={REAL / 'Data_Entry_2017_v2020.csv'}"]
    with pytest.raises(SystemExit) as end:
        run(main, [*argv, f"--output_dir={tmp_path / 'out'}", "--resolution=64", "--workers=1"])
    assert end.value.code == 0
    rows = metadata(tmp_path / "out")
    assert len(rows) == 203 and rows["subject_id"].nunique() == 138
    assert rows["view"].value_counts().to_dict() == {"AP": 122, "PA": 81}
    assert (rows["No Finding"] == 1).sum() == 101
    assert rows.groupby("subject_id")["split"].nunique().eq(1).all()
