"""Labels: their names, tables of them, and what uncertain and blank ones count as."""

import numpy as np
import pandas as pd
import pytest

from sdcxr.io.labels import chexpert_name, fill_labels, read_label_csv, read_labels, uncertain_policy
from sdcxr.runtime.errors import UserError

NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Effusion", "Pleural Effusion"),
        ("effusion", "Pleural Effusion"),
        ("Lung Lesion", "Lung Lesion"),
        ("lung_opacity", "Lung Opacity"),
        ("Pleural_Thickening", "Pleural Thickening"),  # not Pleural Other
        ("Right Effusion", "Right Effusion"),
        ("", ""),
    ],
)
def test_names_are_chexperts_where_it_has_one(name, wanted):
    assert chexpert_name(name) == wanted


@pytest.mark.parametrize(
    ("uncertain", "blanks", "wanted"),
    [
        ("ignore", "ignore", [1, 0, NAN, NAN]),
        ("zeros", "ignore", [1, 0, 0, NAN]),
        ("ones", "ignore", [1, 0, 1, NAN]),
        ("ignore", "zeros", [1, 0, NAN, 0]),
    ],
)
def test_policies_of_uncertain_and_blank_labels(uncertain, blanks, wanted):
    labels = pd.DataFrame({"Edema": [1.0, 0.0, -1.0, None]})
    np.testing.assert_array_equal(fill_labels(labels, uncertain, blanks)["Edema"], wanted)


def test_old_names_of_policies_are_deprecated_and_unknown_ones_refused(capfd):
    assert uncertain_policy("zeros", "--uncertain") == "zeros"
    assert capfd.readouterr().err == ""
    assert uncertain_policy("negative", "--blanks") == "zeros"
    assert capfd.readouterr().err == "--blanks negative is deprecated: use --blanks zeros\n"
    with pytest.raises(UserError, match="--uncertain zero: choose from ignore, zeros, ones"):
        uncertain_policy("zero", "--uncertain")


def test_columns_that_are_no_labels_anywhere_in_the_file_are_dropped(tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text("dicom_id,Left,height,Tube\na,1,0.0,True\nb,-1,0.5,False\n")
    assert read_label_csv(str(file)).to_dict("list") == {"Left": [1, -1], "Tube": [1, 0]}


def test_ids_of_a_label_csv_are_read_in_any_spelling(tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text("dicom_id,Edema\n 7.0,1\n'00000193_019,0\n")
    assert read_label_csv(str(file))["Edema"].to_dict() == {"7": 1, "00000193_019": 0}


@pytest.mark.parametrize(
    ("ids", "complete", "message"),
    [
        (["a", "b"], False, ""),
        (["a", "x"], False, ""),
        (["x", "y"], False, r"labels: none of the 2 images is in --labels .*labels.csv \(looked for x; it has a\)"),
        (["x", "y"], True, r"labels: none of the 2 images is in --labels .*labels.csv \(looked for x; it has a\)"),
        (["a", "x"], True, r"--labels .*labels.csv: 1 of 2 images have no row \(first: x\)"),
    ],
)
def test_labels_that_join_no_image_are_refused_with_an_id_of_each_side(tmp_path, capsys, ids, complete, message):
    file = tmp_path / "labels.csv"
    file.write_text("dicom_id,Edema\na,1\nb,0\n")
    rows = pd.DataFrame({"id": ids})
    if message:
        with pytest.raises(UserError, match=message):
            read_labels(rows, str(file), complete)
        return
    assert read_labels(rows, str(file), complete)["Edema"].tolist()[0] == 1
    assert capsys.readouterr().out == ("labels: 1 of 2 images\n" if "x" in ids else "")
