"""Reading Open-i's reports: XML of any encoding and damage, MeSH, the archive."""

import io
import re
import tarfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.openi_reports import BadReport, Report, mesh_labels, parse_report, read_reports, section_text
from data_prep.openi_views import image_key
from sdcxr.runtime.errors import UserError
from tests.data_prep.openi_collection import report_xml


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
