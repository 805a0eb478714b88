"""Columns, labels, prompts, splits and views of any table; every mistake is one line."""

import re
import shutil
import sys

import pytest

from data_prep.table import main
from data_prep.table_labels import parse_list
from data_prep.table_text import view_of, words_of
from sdcxr.io.files import read_json
from sdcxr.io.manifest import read_metadata
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError
from tests.data_prep.tables import ROWS, changed, prepare, refusal, save

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
    ("cell", "value"),
    [("{'effusion': -1, 'Pleural Effusion': 0}", -1), ("{'effusion': 0, 'Pleural Effusion': -1}", -1),
     ("{'effusion': 1, 'Pleural Effusion': 0}", 1), ("{'Pleural Effusion': 0, 'effusion': None}", 0)],
)  # fmt: skip
def test_of_two_names_of_one_label_the_stronger_value_counts_in_any_order(tmp_path, images, cell, value):
    rows = [{"image": "i0.png", "text": "Text.", "f": cell}]
    assert prepare(save(tmp_path / "t.csv", rows), images, columns="labels=f")["Pleural Effusion"].tolist() == [value]


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


@pytest.mark.parametrize(("column", "ours"), [("grade", "class"), ("split", "split"), ("subject_id", "subject_id")])
def test_rows_of_an_image_that_contradict_each_other_are_no_matter_of_votes(tmp_path, images, column, ours):
    rows = [
        {"image": name, "text": "Text.", "grade": "low", "split": "train", "subject_id": "p"} for name in ("i0", "i1")
    ]
    table = save(tmp_path / "t.csv", [*rows, rows[0] | {column: "test"}])
    flags = {"columns": "class=grade"}
    for repeats in ("any", "majority"):
        message = refusal(table, images, repeats=repeats, **flags)
        assert "rows of 'i0.png' contradict each other" in message and f"({ours}: " in message and "'test'" in message
    assert prepare(table, images, repeats="first", **flags)["class"].tolist() == ["low", "low"]


def test_rows_of_an_image_that_agree_or_are_empty_are_one(tmp_path, images):
    rows = [{"image": "i0.png", "text": "Text.", "grade": grade, "subject_id": "1"} for grade in ("low", "", "low")]
    found = prepare(save(tmp_path / "t.csv", rows), images, repeats="any", columns="class=grade")
    assert found["class"].tolist() == ["low"]


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


def test_a_finding_that_is_no_label_is_named(tmp_path, images, capsys):
    rows = changed(lab="Edema|Pneumonia|Pneumonai|" + "x" * 60)
    prepare(save(tmp_path / "t.csv", rows), images, columns="labels=lab")
    told = "labels: 2 of 4 findings in the column 'lab' are labels of CheXpert (not 'Pneumonai', '" + "x" * 40 + "')"
    assert told in capsys.readouterr().out


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


def test_images_of_a_study_share_a_split_where_the_patient_is_not_known(tmp_path, images, capsys):
    rows = [{"image": f"i{n}.png", "text": "Text.", "study_id": f"s{n % 2}", "subject_id": ""} for n in range(6)]
    shares = {"validation_fraction": 0.4, "test_fraction": 0.4}
    seen = set()
    for seed in range(8):
        folder = tmp_path / str(seed)
        folder.mkdir()
        found = prepare(save(folder / "t.csv", rows), images, seed=seed, **shares)
        assert (found.groupby("study_id")["split"].nunique() == 1).all()
        seen |= set(found["split"])
    assert len(seen) == 3
    assert "each of these studies counts as a patient of its own" in capsys.readouterr().err


def test_a_row_without_a_study_has_no_images_of_other_folders(tmp_path, images):
    folder = tmp_path / "images"
    for name, place in {"i0": "p10/p10000001/s50000001", "i1": "other"}.items():
        (folder / place).mkdir(parents=True)
        shutil.copy(images / f"{name}.png", folder / place)
    rows = [{"study": study, "impression": f"Text of {study or 'none'}."} for study in ("s50000001", "")]
    found = prepare(save(tmp_path / "t.csv", rows), folder, mapping="mimic_cxr_sectioned")
    assert found["text"].to_dict() == {"i0": "Text of s50000001."}


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


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities")
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, images, capfd, read_only):
    table = save(tmp_path / "t.csv", changed(subject_id="1"))
    argv = [f"--table={table}", f"--images={images}", f"--output_dir={tmp_path / 'out'}", "--resolution=24"]
    for flag in ("--validation_fraction=0", "--test_fraction=0"):
        argv.append(flag)

    def refused(*more: str) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            run(main, [*argv, *more])
        assert stopped.value.code == 2
        return capfd.readouterr().err.splitlines()[-1]

    with read_only(tmp_path):
        assert refused() == f"error: no permission for {tmp_path / 'out'}: Permission denied"
    prepare(table, images)
    (tmp_path / "out/train/i0.png").unlink()
    with read_only(tmp_path / "out"):
        assert refused("--workers=1").startswith(f"error: no permission for {tmp_path / 'out'}/")
    prepare(table, images)
    assert (tmp_path / "out/train/i0.png").is_file()
