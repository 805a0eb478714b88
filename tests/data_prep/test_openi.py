"""Open-i: dataset folder, Kaggle's tables, splits; what a user gets wrong."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_prep.openi import main, select
from data_prep.openi_reports import read_reports
from sdcxr.io.files import read_json, write_json
from sdcxr.io.manifest import SPLITS
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError
from tests.data_prep.folders import metadata
from tests.data_prep.openi_collection import (
    config_for,
    rejected_reasons,
    report_xml,
    write_collection,
    write_image,
)


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    return write_collection(tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# The command


def test_dataset_folder(collection):
    assert main(config_for(collection)) == 0
    rows = metadata(collection / "out")
    assert len(rows) == 40 and set(rows["split"]) == set(SPLITS)
    row = rows[rows["study_id"] == "CXR9"].iloc[0]
    assert (row["text"], row["subject_id"], row["dicom_id"]) == ("Opacity number 9.", "CXR9", "CXR9_IM-0001-1001")
    with Image.open(collection / "out" / row["split"] / row["file_name"]) as image:
        assert (image.size, image.mode) == ((16, 16), "L")


def test_imagefolder_reads_it(collection, tmp_path_factory):
    datasets = pytest.importorskip("datasets")
    main(config_for(collection, views="all"))
    cache = str(tmp_path_factory.mktemp("cache"))
    loaded = datasets.load_dataset("imagefolder", data_dir=str(collection / "out"), cache_dir=cache)
    assert sum(len(loaded[split]) for split in SPLITS) == 80
    assert loaded["train"][0]["image"].size == (16, 16)
    assert loaded["train"][0]["text"].startswith("Opacity number")


def test_images_of_a_report_share_a_split_which_does_not_depend_on_the_other_reports(collection):
    rows = select(config_for(collection, views="all")).rows
    assert rows.groupby("study_id")["split"].nunique().eq(1).all()
    for number in range(1, 30):
        (collection / "reports" / "ecgen-radiology" / f"{number}.xml").unlink()
    fewer = select(config_for(collection, views="all")).rows
    assert len(fewer) == 22
    assert fewer.merge(rows, on="dicom_id")[["split_x", "split_y"]].nunique(axis=1).eq(1).all()


def test_every_dropped_report_is_listed_with_its_reason(collection):
    reports = collection / "reports"
    (reports / "50.xml").write_text(report_xml(50, "None."))
    (reports / "51.xml").write_text(report_xml(51, images=0))
    (reports / "52.xml").write_text(report_xml(52, "y" * 78))
    (reports / "53.xml").write_text(report_xml(53, "y" * 6))
    (reports / "54.xml").write_text(report_xml(54)[:200])
    (reports / "55.xml").write_text(report_xml(1))
    assert main(config_for(collection)) == 0
    assert rejected_reasons(collection / "out") == {
        "view not wanted, by guess": 42,
        "no impression": 2,
        "duplicate report": 2,
        "report without images": 1,
        "impression too long": 1,
        "impression too short": 1,
        "broken report": 1,
    }
    rejected = pd.read_csv(collection / "out" / "rejected.csv").set_index("reason")
    assert rejected.loc["broken report", "detail"].startswith("54.xml: report is not readable XML")
    assert rejected.loc["report without images", "study_id"] == "CXR51"


def test_findings_as_prompt(collection):
    assert main(config_for(collection, section="findings")) == 0
    assert set(metadata(collection / "out")["text"]) == {"The heart is of normal size."}


def test_kaggle_tables(tmp_path):
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "indiana_reports.csv").write_text(
        "uid,MeSH,Problems,image,indication,comparison,findings,impression\n"
        '1,normal,normal,Xray,,None.,,"Clear, normal\nchest."\n'
        "2,Cardiomegaly/mild;Pleural Effusion/left,Cardiomegaly,Xray,,,,Large heart.\n"
        "3,normal,normal,Xray,,,,\n"
    )
    (tmp_path / "reports" / "indiana_projections.csv").write_text(
        "uid,filename,projection\n1,1_IM-1-1001.dcm.png,Lateral\n1,1_IM-1-2001.dcm.png,Frontal\n"
        "2,2_IM-2-1001.dcm.png,Frontal\n3,3_IM-3-1001.dcm.png,Frontal\n"
    )
    for name in ("1_IM-1-1001", "1_IM-1-2001", "2_IM-2-1001"):
        write_image(tmp_path / "images" / "images_normalized" / f"{name}.dcm.png")
    assert main(config_for(tmp_path)) == 0
    rows = metadata(tmp_path / "out").set_index("dicom_id")
    assert rows["text"].to_dict() == {"1_IM-1-2001": "Clear, normal chest.", "2_IM-2-1001": "Large heart."}
    assert set(rows["view"]) == {"FRONTAL"}
    assert rows.loc["2_IM-2-1001", ["Cardiomegaly", "Pleural Effusion"]].tolist() == [1, 1]
    assert rows.loc["1_IM-1-2001", "No Finding"] == 1
    assert rejected_reasons(tmp_path / "out") == {"view not wanted": 1, "no impression": 1}


def test_the_file_that_kaggles_table_names_wins(tmp_path):
    (tmp_path / "indiana_reports.csv").write_text("uid,MeSH,findings,impression\n1,normal,,Clear chest.\n")
    (tmp_path / "indiana_projections.csv").write_text("uid,filename,projection\n1,1_IM-1-1001.dcm.jpg,Frontal\n")
    write_image(tmp_path / "images" / "1_IM-1-1001.dcm.png")
    pixels = np.random.default_rng(0).integers(150, 256, (24, 24), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "images" / "1_IM-1-1001.dcm.jpg")
    assert main(config_for(tmp_path, reports=tmp_path / "indiana_reports.csv")) == 0
    with Image.open(next((tmp_path / "out").rglob("1_IM-1-1001.png"))) as image:
        assert np.asarray(image).min() > 100


# ---------------------------------------------------------------------------------------------------------------------
# What a user gets wrong


def test_kaggle_tables_saved_by_a_spreadsheet_and_under_another_name(tmp_path, capsys):
    (tmp_path / "my_reports.csv").write_text("uid,MeSH,findings,impression\n1.0,normal,,Clear chest.\n2.0,,,Other.\n")
    (tmp_path / "indiana_projections.csv").write_text("uid,filename,projection\n1,1_IM-1-1001.dcm.png,Frontal\n")
    write_image(tmp_path / "images" / "1_IM-1-1001.dcm.png")
    assert main(config_for(tmp_path, reports=tmp_path / "my_reports.csv")) == 0
    assert metadata(tmp_path / "out")[["study_id", "text"]].to_numpy().tolist() == [["CXR1", "Clear chest."]]
    printed = capsys.readouterr().out
    assert "reports: 1 of 2 reports with images" in printed and "images: 1 of 1 images of the reports" in printed


def test_images_without_a_report_are_counted(collection, capsys):
    for number in range(31, 41):
        (collection / "reports" / "ecgen-radiology" / f"{number}.xml").unlink()
    assert main(config_for(collection)) == 0
    assert "warning: 20 images in" in (told := capsys.readouterr().err) and "are not named in the reports of" in told


def test_a_result_beside_the_reports_leaves_them_as_they_were(collection, capsys):
    config = config_for(collection, images=collection, reports=collection, output_dir=collection / "out")
    assert main(config) == 0
    assert main(config) == 0
    assert "is finished: nothing to do" in capsys.readouterr().out
    (collection / "reports" / "ecgen-radiology" / "41.xml").write_text(report_xml(41))
    assert main(config) == 0
    assert "is updated: reports changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("annotation.json", "{}", "give the unpacked ecgen-radiology folder.*python -m data_prep.table"),
        ("captions.csv", "image,caption\n", "has no column 'uid'.*python -m data_prep.table"),
        ("reports.csv", "uid,MeSH,findings,impression\n1,,,Clear.\n", "has no indiana_proj.*data_prep.table"),
    ],
)
def test_other_tables_are_sent_to_their_command(collection, name, content, message):
    (collection / name).write_text(content)
    with pytest.raises(UserError, match=message) as error:
        main(config_for(collection, reports=collection / name))
    assert "\n" not in str(error.value)


def test_a_folder_without_the_images_is_one_line(collection, capsys):
    empty = collection / "empty"
    empty.mkdir()
    argv = [f"--images={empty}", f"--reports={collection / 'reports'}", f"--output_dir={collection / 'out'}"]
    with pytest.raises(SystemExit) as end:
        run(main, [*argv, "--workers=1"])
    assert end.value.code == 2
    wanted = (
        f"images: none of the 40 images of the reports is in --images {empty} (looked for 1_IM-0001-1001; it is empty)"
    )
    assert capsys.readouterr().err == f"error: {wanted}\n"


def test_too_many_absent_images_are_exit_code_1(collection):
    for number in (2, 4, 6):
        (collection / "images" / "0" / f"CXR{number}_IM-0001-1001.png").unlink()
    assert main(config_for(collection)) == 1
    assert read_json(collection / "out" / "prep.json")["usable"] is False
    assert main(config_for(collection, max_rejected_fraction=0.1)) == 0
    assert len(metadata(collection / "out")) == 37


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": Path("/nowhere")}, "--images /nowhere: does not exist"),
        ({"reports": Path("/nowhere.tgz")}, "--reports /nowhere.tgz: does not exist"),
        ({"reports": "images"}, "has no .xml reports"),
        ({"reports": "images/1/CXR1_IM-0001-1001.png"}, "not a complete tar archive"),
        ({"views_table": "views.csv"}, "neither the columns filename and projection"),
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, "less than 1 together"),
        ({"min_chars": 80}, "--min_chars 80 is more than --max_chars 77"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(collection, changes, message):
    (collection / "views.csv").write_text("a,b\n1,2\n")
    paths = {name: collection / value if isinstance(value, str) else value for name, value in changes.items()}
    with pytest.raises(UserError, match=message) as error:
        main(config_for(collection, **paths))
    assert "\n" not in str(error.value)


def test_kaggle_table_without_a_column(tmp_path):
    (tmp_path / "indiana_reports.csv").write_text("uid,text\n1,x\n")
    with pytest.raises(UserError, match=r"indiana_reports.csv has no column 'MeSH' \(it has: uid, text\)"):
        list(read_reports(tmp_path))


# ---------------------------------------------------------------------------------------------------------------------
# Texts in a mode, templates


def test_texts_are_refocused_before_their_length_counts_and_that_is_recorded(collection, capsys):
    reports = collection / "reports/ecgen-radiology"
    (reports / "1.xml").write_text(
        report_xml(1, "Unchanged opacity since the prior study. " + "Recommend CT of the chest. " * 9)
    )
    (reports / "2.xml").write_text(report_xml(2, "XXXX XXXX, XXXX."))
    (reports / "3.xml").write_text(report_xml(3, "Stable edema."))
    assert main(config_for(collection, text="refocused", unknown_views="keep", views="all")) == 0
    rows = metadata(collection / "out").set_index("dicom_id")
    assert rows["text"]["CXR1_IM-0001-1001"] == "Opacity." and "CXR3_IM-0001-1001" not in rows.index
    assert rejected_reasons(collection / "out") == {"empty after cleaning": 2, "impression too short": 2}
    prep = read_json(collection / "out/prep.json")
    assert prep["settings"]["text"] == "refocused" and prep["texts"]["texts"] == 80 and prep["texts"]["changed"] == 6
    assert "6 of 80 are changed by --text refocused" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"begun with other settings \(text refocused → raw"):
        main(config_for(collection, unknown_views="keep", views="all"))


def test_a_folder_of_version_0_1_has_raw_texts(collection):
    assert main(config_for(collection)) == 0
    path = collection / "out/prep.json"
    prep = read_json(path)
    for name in ("text", "prompt_template", "field_dropout"):
        del prep["settings"][name]
    write_json(path, prep)
    assert main(config_for(collection)) == 0
    with pytest.raises(UserError, match="text raw → clean"):
        main(config_for(collection, text="clean"))


def test_several_templates_and_a_row_without_a_needed_field(collection):
    reports = collection / "reports/ecgen-radiology"
    for number in range(1, 31):
        (reports / f"{number}.xml").write_text(report_xml(number, majors=("Cardiomegaly/mild",)))
    templates = ["{findings}.", "a photo of a lung xray with {finding}"]
    assert main(config_for(collection, prompt_template=templates)) == 0
    assert set(metadata(collection / "out")["text"]) == {"Cardiomegaly.", "a photo of a lung xray with cardiomegaly"}
    assert rejected_reasons(collection / "out")["no prompt by the template"] == 10
    assert read_json(collection / "out/prep.json")["settings"]["prompt_template"] == templates
