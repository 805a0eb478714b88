"""Open-i: reports from XML files, archive and Kaggle's tables; views; splits; what a user gets wrong."""

import io
import re
import tarfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_prep.openi import OpenIConfig, main, select
from data_prep.openi_reports import BadReport, Report, mesh_labels, parse_report, read_reports, section_text
from data_prep.openi_views import image_key, read_views, study_views
from sdcxr.io.files import read_json, write_json
from sdcxr.io.manifest import SPLITS, read_metadata
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError


def report_xml(number: int, impression: str = "Normal chest.", images: int = 2, majors: tuple[str, ...] = ()) -> str:
    """A report as Open-i distributes it, with figures F1, F2, …"""
    parents = "".join(
        f'<parentImage id="CXR{number}_IM-0001-{figure}001"><figureId>F{figure}</figureId></parentImage>'
        for figure in range(1, images + 1)
    )
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n<eCitation><uId id="CXR{number}"/>'
        "<MedlineCitation><Article><Abstract>"
        '<AbstractText Label="COMPARISON">None.</AbstractText>'
        '<AbstractText Label="FINDINGS">The heart is of\n  normal size.</AbstractText>'
        f'<AbstractText Label="IMPRESSION">{escape(impression)}</AbstractText></Abstract></Article></MedlineCitation>'
        f"<MeSH>{''.join(f'<major>{escape(major)}</major>' for major in majors)}</MeSH>{parents}</eCitation>"
    )


def write_image(path: Path, side: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(side * side, dtype=np.uint32).reshape(side, side).astype(np.uint8)).save(path)


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """Forty reports with two images each in two folders below `images`."""
    for number in range(1, 41):
        path = tmp_path / "reports" / "ecgen-radiology" / f"{number}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(report_xml(number, f"Opacity number {number}."))
        for figure in (1, 2):
            write_image(tmp_path / "images" / str(number % 2) / f"CXR{number}_IM-0001-{figure}001.png")
    return tmp_path


def config_for(folder: Path, **changes: object) -> OpenIConfig:
    settings: dict = {"images": folder / "images", "reports": folder / "reports", "output_dir": folder / "out"}
    return OpenIConfig(**(settings | {"resolution": 16, "workers": 1} | changes))


def metadata(output_dir: Path) -> pd.DataFrame:
    splits = [split for split in SPLITS if (output_dir / split).is_dir()]
    return pd.concat([read_metadata(output_dir / split).assign(split=split) for split in splits], ignore_index=True)


def rejected_reasons(output_dir: Path) -> dict[str, int]:
    return pd.read_csv(output_dir / "rejected.csv")["reason"].value_counts().to_dict()


# ---------------------------------------------------------------------------------------------------------------------
# Reading reports


def test_report_fields():
    report = parse_report(report_xml(7, "No  acute\n disease XXXX.", images=2, majors=("normal",)).encode())
    assert report == Report(
        uid="CXR7",
        sections={"findings": "The heart is of normal size.", "impression": "No acute disease XXXX."},
        majors=("normal",),
        images=("CXR7_IM-0001-1001", "CXR7_IM-0001-2001"),
        figures=(1, 2),
    )


def test_mesh_and_images_are_found_wherever_they_hang():
    report = parse_report(b'<a><uId id="CXR1"/><b><MeSH><major>normal</major></MeSH><parentImage id="x"/></b></a>')
    assert (report.majors, report.images, report.figures) == (("normal",), ("x",), (0,))


@pytest.mark.parametrize("text", ["", "  \n", "None", "None.", "none.", "XXXX", "XXXX.", ". .", None])
def test_a_section_that_says_nothing_is_absent(text):
    assert section_text(text) == ""


@pytest.mark.parametrize("text", ["COPD.", "Normal chest x-XXXX.", "None of the above."])
def test_a_section_that_says_something_is_kept(text):
    assert section_text(text) == text


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff")))
def test_impression_comes_back_with_white_space_collapsed(text):
    report = parse_report(report_xml(1, text).encode())
    assert report.sections.get("impression", "") == section_text(" ".join(text.split()))


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_a_report_or_a_bad_report(data):
    with pytest.raises(BadReport):
        parse_report(data)


@pytest.mark.parametrize("declaration", ["", '<?xml version="1.0" encoding="utf-8"?>'])
def test_a_report_in_another_encoding_than_it_claims_is_read(declaration):
    xml = re.sub(r"<\?xml.*?\?>", "", report_xml(1, "Effusion of 3 × 2 cm."))
    assert parse_report((declaration + xml).encode("latin-1")).sections["impression"] == "Effusion of 3 × 2 cm."


@given(st.data())
def test_a_damaged_report_is_a_report_or_a_bad_report(data):
    whole = bytearray(report_xml(1).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with suppress(BadReport):
        assert parse_report(bytes(whole)).uid


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused_unread(encoding, tmp_path):
    (tmp_path / "secret").write_text("secret")
    declaration = f'<!DOCTYPE a [<!ENTITY e SYSTEM "{tmp_path / "secret"}">]>'
    bomb = '<!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;&b;">]>'
    for doctype in (declaration, bomb, "<!DOCTYPE a>"):
        with pytest.raises(BadReport, match="document type declaration"):
            parse_report(f'<?xml version="1.0" encoding="{encoding}"?>{doctype}<a/>'.encode(encoding))


@pytest.mark.parametrize(
    ("majors", "labels"),
    [
        (("normal",), {"No Finding": 1}),
        (("Pleural Effusion/left", "Cardiomegaly/mild"), {"Pleural Effusion": 1, "Cardiomegaly": 1}),
        (("Cardiac Shadow/enlarged/mild",), {"Cardiomegaly": 1}),
        (("Cardiac Shadow/borderline",), {}),
        (("Nodule/lung/right", "Mass/breast/large"), {"Lung Lesion": 1}),
        (("Mass/breast/large",), {}),
        (("Hydropneumothorax",), {"Pleural Effusion": 1, "Pneumothorax": 1}),
        (("Thickening/bronchi", "No Indexing", ""), {}),
    ],
)
def test_mesh_labels(majors, labels):
    assert mesh_labels(majors) == labels


def test_archive_in_the_torchxrayvision_wheel_has_3955_reports_and_3921_impressions():
    spec = find_spec("torchxrayvision")
    assert spec is not None and spec.submodule_search_locations is not None
    path = Path(spec.submodule_search_locations[0], "data", "NLMCXR_reports.tgz")
    reports = [report for _, report in read_reports(path) if isinstance(report, Report)]
    assert len(reports) == 3955
    assert sum("impression" in report.sections for report in reports) == 3921
    assert sum("findings" in report.sections for report in reports) == 3425
    names = [name for report in reports for name in report.images]
    assert len(names) == len(set(map(image_key, names))) == 7470


def test_archive_is_read_without_extraction(tmp_path):
    path = tmp_path / "reports.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("../../escape.xml", "ecgen-radiology/2.xml", "readme.txt"):
            data = report_xml(2).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("link.xml")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert [name for name, _ in read_reports(path)] == ["escape.xml", "2.xml"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["reports.tgz"]


def test_truncated_archive_is_one_clear_error(tmp_path):
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        data = np.random.default_rng(0).bytes(100_000)
        member = tarfile.TarInfo("1.xml")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    path = tmp_path / "reports.tgz"
    path.write_bytes(whole.getvalue()[:50_000])
    with pytest.raises(UserError, match="not a complete tar archive"):
        list(read_reports(path))


# ---------------------------------------------------------------------------------------------------------------------
# Views


@pytest.mark.parametrize(
    "name", ["CXR1_1_IM-0001-4001.png", "CXR1_IM-0001-4001", "1_IM-0001-4001.dcm.png", "CXR1_1_IM-0001-4001"]
)
def test_an_image_has_one_key_in_all_distributions(name):
    assert image_key(name) == "1_IM-0001-4001"


@pytest.mark.parametrize(
    ("table", "views"),
    [
        ({}, ["", ""]),
        ({"1_IM-1": "PA", "1_IM-2": "LATERAL"}, ["PA", "LATERAL"]),
        ({"1_IM-1": "PA", "1_IM-2": "PA"}, ["", ""]),  # one of them is the lateral
        ({"1_IM-1": "FRONTAL"}, ["FRONTAL", ""]),
    ],
)
def test_views_of_a_study(table, views):
    assert study_views(["CXR1_IM-1", "CXR1_IM-2"], table) == views


def test_dicom_view_table_is_read(tmp_path):
    path = tmp_path / "views.csv"
    path.write_text("imageid,View Position\nCXR1_IM-1,PA\nCXR1_IM-2,LL\nCXR1_IM-3,\n")
    assert read_views(path) == {"1_IM-1": "PA", "1_IM-2": "LATERAL"}


@pytest.mark.parametrize(
    ("views", "unknown_views", "kept"),
    [
        ("frontal", "guess", ["1001"]),
        ("lateral", "guess", ["2001"]),
        ("all", "guess", ["1001", "2001"]),
        ("frontal", "keep", ["1001", "2001"]),
        ("frontal", "drop", []),
    ],
)
def test_images_of_unknown_view(collection, views, unknown_views, kept):
    rows = select(config_for(collection, views=views, unknown_views=unknown_views)).rows
    assert sorted(rows["dicom_id"].str[-4:].unique()) == kept
    assert (rows["view"] == "").all()  # a guess is not written down as a fact


def test_views_table_overrules_the_guess(collection):
    path = collection / "views.csv"
    path.write_text("imageid,View Position\nCXR1_IM-0001-1001,LL\nCXR1_IM-0001-2001,PA\n")
    rows = select(config_for(collection, views_table=path)).rows
    assert rows.loc[rows["study_id"] == "CXR1", ["dicom_id", "view"]].to_numpy().tolist() == [
        ["CXR1_IM-0001-2001", "PA"]
    ]


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


def test_imagefolder_reads_it(collection, tmp_path_factory, monkeypatch):
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
