"""Labels by name: what counts as known, where they come from, and what is refused before anything is computed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eval.inputs.folders import ImageFolder
from eval.inputs.labels import choose_findings, truth_of
from sdcxr.runtime.errors import UserError
from tests.eval.features import folder_of

NAN = float("nan")


@pytest.mark.parametrize(
    ("uncertain", "wanted"), [("ignore", [1, 0, NAN, NAN]), ("zeros", [1, 0, 0, NAN]), ("ones", [1, 0, 1, NAN])]
)
def test_minus_one_is_what_the_flag_says_and_empty_never_counts(uncertain, wanted):
    images = folder_of(Edema=[1.0, 0.0, -1.0, NAN], Fracture=[NAN] * 4)
    truth = truth_of(images, None, uncertain, "--real")
    assert list(truth.columns) == ["Edema"]  # nothing is known of fractures
    np.testing.assert_array_equal(truth["Edema"], wanted)


def test_labels_come_from_the_table_by_the_prompts_id_or_the_images(tmp_path):
    file = tmp_path / "truth.csv"
    file.write_text("dicom_id,Left,Effusion,width,note\nb,0,1,0.5,x\na,1,-1,0.7,y\n")
    truth = truth_of(folder_of(id=["a", "a", "b"]), str(file), "ignore", "--synthetic")
    assert truth["Left"].tolist() == [1, 1, 0]
    assert truth["Pleural Effusion"].tolist() == pytest.approx([NAN, NAN, 1], nan_ok=True)
    assert "width" not in truth  # a measurement is no label
    real = truth_of(
        ImageFolder(Path(), pd.DataFrame({"file_name": ["b.png", "a.png"], "text": "", "dicom_id": ["b", ""]})),
        str(file),
        "ignore",
        "--real",
    )
    assert real["Left"].tolist() == [0, 1]


def test_a_column_under_chexperts_name_goes_before_its_synonym(tmp_path):
    file = tmp_path / "truth.csv"
    file.write_text("dicom_id,Effusion,Pleural Effusion\na,0,1\n")
    truth = truth_of(folder_of(id=["a"]), str(file), "ignore", "--synthetic")
    assert truth["Pleural Effusion"].tolist() == [1] and truth["Effusion"].tolist() == [0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"dicom_id,Left\n0,1\n", r"1 of 2 images have no row \(first: z\)"),
        (b"dicom_id;Left\n0;1\nz;a, b\n", "separated by ';': save it with commas"),
        (b"dicom_id\tLeft\n0\t1\n", "separated by a tab"),
        ("dicom_id,Größe\n0,1\n".encode("latin-1"), "not UTF-8 text"),
        ("dicom_id,Left\n0,1\n".encode("utf-16"), "not UTF-8 text"),
        (b"id,Left\n0,1\n", r"no column dicom_id \(it has: id, Left\)"),
        (b"dicom_id,Edema\n0,2\nz,1\n", r"column Edema holds '2(\.0)?' in the row of 0: labels are 1, 0, -1 or empty"),
        (b"dicom_id,Edema\n0,yes\nz,1\n", "column Edema holds 'yes' in the row of 0"),
        (b"dicom_id,Effusion\n0,2\nz,1\n", "column Effusion holds 2: labels are"),
        (b"dicom_id,Left\n0,1\nz,1\n0,0\n", "rows of 0 contradict each other"),
        (b"dicom_id,Left\n0,1\nz,1\n0,\n", "rows of 0 contradict each other"),
        (None, "does not exist"),
    ],
)
def test_a_table_of_labels_that_does_not_fit_is_one_line(tmp_path, content, message):
    file = tmp_path / "truth.csv"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        truth_of(folder_of(id=["0", "z"]), str(file), "ignore", "--synthetic")
    assert "truth.csv" in str(error.value) and "\n" not in str(error.value)


def test_rows_that_come_twice_with_the_same_labels_are_one(tmp_path):
    file = tmp_path / "truth.csv"
    file.write_text("dicom_id,Left,Edema,width,note\na,1,,0.5,x\nb,0,1,0.6,y\na,1,,0.7,z\n")
    truth = truth_of(folder_of(id=["a", "b"]), str(file), "ignore", "--real")
    assert truth["Left"].tolist() == [1, 0] and truth["Edema"].tolist() == pytest.approx([NAN, 1], nan_ok=True)


def test_a_folder_without_a_table_has_no_labels():
    plain = ImageFolder(Path("plain"), pd.DataFrame({"file_name": ["a.png"]}))
    with pytest.raises(UserError, match=r"--real plain has no metadata\.csv"):
        truth_of(plain, None, "ignore", "--real")


def test_findings_are_those_that_all_sources_have():
    sources = {
        "the classifier": ["Left", "Fracture", "Edema"],
        "--real": ["Edema", "Left", "Fracture"],
        "--synthetic": ["Left", "Edema", "Pneumonia"],
    }
    assert choose_findings(None, sources) == (
        ["Left", "Edema"],
        {"Fracture": "--synthetic", "Pneumonia": "the classifier and --real"},
    )
    assert choose_findings("Edema, Left,edema", sources) == (["Edema", "Left"], {})
    with pytest.raises(UserError, match=r"'Fracture' .not in --synthetic. is not among: Left, Edema"):
        choose_findings("Fracture", sources)
    with pytest.raises(UserError, match=r"'Lefft' .not in any of them"):
        choose_findings("Lefft", sources)
    with pytest.raises(UserError, match="no finding is given"):
        choose_findings(" ,", sources)
    with pytest.raises(UserError, match="no finding is common to the classifier, --real and --synthetic"):
        choose_findings(None, sources | {"the classifier": ["Hernia"]})
    assert choose_findings("Effusion", {source: ["Pleural Effusion"] for source in sources})[0] == ["Pleural Effusion"]
