"""What MIMIC-CXR is read from: paths, tables and archives that are not what they should be."""

import gzip
import shutil
import zipfile

import pandas as pd
import pytest

from data_prep.mimic_cxr import main
from data_prep.mimic_files import impressions
from sdcxr.runtime.errors import UserError
from tests.data_prep.mimic_tree import config_of


@pytest.mark.parametrize(
    ("flag", "path", "message"),
    [
        ("images", "nothing", "--images .*nothing: does not exist"),
        ("images", "bare", "no patient folders .*looked for p10"),
        ("images", "empty", "found no image .*jpg.*dcm"),
        ("reports", "nothing", "--reports .*nothing: does not exist"),
        ("reports", "text.zip", "neither a folder nor a complete zip"),
        ("reports", "other.zip", "has no reports .*looked for files/p10"),
        ("reports", "empty", "has no reports .*MIMIC-CXR-JPG comes without"),
        ("tables", "empty", "found no mimic-cxr-2.0.0-metadata.csv .*MIMIC-CXR-JPG"),
    ],
)
def test_a_wrong_path_says_what_was_looked_for(small, tmp_path, flag, path, message):
    (tmp_path / "empty" / "files" / "p10").mkdir(parents=True)
    (tmp_path / "bare").mkdir()
    (tmp_path / "text.zip").write_text("no archive")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("files/readme.txt", "IMPRESSION: none")
    config = config_of(small, tmp_path / "out")
    setattr(config, flag, tmp_path / path)
    with pytest.raises(UserError, match=message):
        main(config)


@pytest.mark.parametrize(
    ("header", "guess"),
    [
        ("subject_id,study_id,path", "cxr-study-list.csv of MIMIC-CXR; the metadata table comes with MIMIC-CXR-JPG"),
        ("subject_id,study_id,dicom_id,path", "cxr-record-list.csv"),
        ("dicom_id,study_id,subject_id,split", "looks like the split table"),
        ("study,impression,findings", "mimic_cxr_sectioned.csv"),
        ("a,b", "is mimic-cxr-2.0.0-metadata.csv"),
    ],
)
def test_a_table_without_a_column_is_recognised(small, tmp_path, header, guess):
    shutil.copy(small.images / "mimic-cxr-2.0.0-chexpert.csv", tmp_path)
    (tmp_path / "mimic-cxr-2.0.0-metadata.csv").write_text(header + "\n")
    with pytest.raises(UserError) as caught:
        main(config_of(small, tmp_path / "out", tables=tmp_path))
    assert "has no column" in str(caught.value)
    assert header.replace(",", ", ") in str(caught.value)
    assert guess in str(caught.value)


def test_a_missing_table_is_named_before_the_reports_are_read(small, tmp_path, capsys):
    shutil.copy(small.images / "mimic-cxr-2.0.0-metadata.csv", tmp_path)
    with pytest.raises(UserError, match=r"found no mimic-cxr-2\.0\.0-chexpert\.csv"):
        main(config_of(small, tmp_path / "out", tables=tmp_path))
    assert "reports" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [b"", gzip.compress(b"dicom_id,subject_id\n" * 99, mtime=0)[:-20], b"\x00\xff\xfe,"],
    ids=["empty", "truncated", "binary"],
)
def test_a_damaged_table_is_one_line(small, tmp_path, content):
    shutil.copy(small.images / "mimic-cxr-2.0.0-chexpert.csv", tmp_path)
    (tmp_path / "mimic-cxr-2.0.0-metadata.csv.gz").write_bytes(content)
    with pytest.raises(UserError, match="not a readable CSV table"):
        main(config_of(small, tmp_path / "out", tables=tmp_path))


@pytest.mark.parametrize("name", ["metadata", "chexpert", "split"])
@pytest.mark.parametrize(("end", "start"), [(b",\n", b""), (b"\r\n", b"\xef\xbb\xbf")], ids=["comma", "windows"])
def test_a_table_saved_by_another_program_is_read_the_same(small, tmp_path, name, end, start):
    for table in small.images.glob("*.csv"):
        shutil.copy(table, tmp_path)
    path = tmp_path / f"mimic-cxr-2.0.0-{name}.csv"
    header, *rows = path.read_bytes().splitlines()
    path.write_bytes(start + header + b"\n" + b"".join(row + end for row in rows))
    main(config_of(small, tmp_path / "out", tables=tmp_path, split="official"))
    main(config_of(small, tmp_path / "expected", split="official"))
    for split in ("train", "validation", "test"):
        tables = (tmp_path / folder / split / "metadata.csv" for folder in ("out", "expected"))
        assert len({table.read_bytes() for table in tables}) == 1


def test_of_a_study_that_comes_twice_the_first_counts(small, tmp_path):
    for name in ("chexpert", "metadata"):
        table = pd.read_csv(small.images / f"mimic-cxr-2.0.0-{name}.csv", dtype=str)
        again = table.assign(**{"No Finding": "-1.0"}) if name == "chexpert" else table.head(0)
        pd.concat([table, again]).to_csv(tmp_path / f"mimic-cxr-2.0.0-{name}.csv", index=False)
    with zipfile.ZipFile(small.reports) as archive, zipfile.ZipFile(tmp_path / "reports.zip", "w") as twice:
        for name in archive.namelist():
            twice.writestr(name, archive.read(name))
            twice.writestr(f"again/{name}", "IMPRESSION: Other words.")
    config = config_of(small, tmp_path / "out", tables=tmp_path)
    config.reports = tmp_path / "reports.zip"
    main(config)
    main(config_of(small, tmp_path / "expected"))
    for file in ("rejected.csv", "train/metadata.csv", "test/metadata.csv"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "expected" / file).read_bytes()


def test_an_encrypted_archive_is_one_line(small, tmp_path):
    data = bytearray(small.reports.read_bytes())
    entry = data.find(b"PK\x01\x02")
    while entry >= 0:  # of the archive's directory; the flags stand at its byte 8
        data[entry + 8] |= 1
        entry = data.find(b"PK\x01\x02", entry + 1)
    (tmp_path / "reports.zip").write_bytes(data)
    config = config_of(small, tmp_path / "out")
    config.reports = tmp_path / "reports.zip"
    with pytest.raises(UserError, match=r"is damaged at s\d+\.txt .*encrypted"):
        main(config)


def test_tables_may_lie_in_the_folder_of_the_patients(small, tmp_path):
    root = tmp_path / "files-and-tables"
    root.mkdir()
    for folder in (small.images / "files").iterdir():
        (root / folder.name).symlink_to(folder)
    for table in small.images.glob("*.csv"):
        shutil.copy(table, root)
    config = config_of(small, tmp_path / "out")
    config.images = root
    assert main(config) == 0


def test_reports_may_be_in_any_encoding_and_read_by_either_rules(tmp_path):
    text = "                  FINAL REPORT\n INDICATION: 38 °C.\n \n IMPRESSION: Café-au-lait.\n CHEST: Clear.\n"
    encodings = ("utf-8-sig", "utf-16", "utf-16-le", "latin-1")
    for number, encoding in enumerate(encodings):
        path = tmp_path / "p10" / "p10000000" / f"s{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode(encoding))
    wanted = {str(number): "10000000" for number in range(len(encodings))}
    assert set(dict(impressions(tmp_path, wanted)).values()) == {"Café-au-lait. CHEST: Clear."}
    assert set(dict(impressions(tmp_path, wanted, "official")).values()) == {"Café-au-lait."}
