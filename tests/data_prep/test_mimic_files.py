"""What MIMIC-CXR is read from: paths, tables and archives that are not what they should be."""

import gzip
import shutil
import zipfile

import pandas as pd
import pytest
from PIL import Image

from data_prep.mimic_cxr import main
from data_prep.mimic_files import impressions
from data_prep.sources import read_sources
from sdcxr.io.manifest import read_metadata
from sdcxr.runtime.errors import UserError
from tests.data_prep.mimic_tree import CHARS_7, Group, build, config_of, report_of


@pytest.mark.parametrize(
    ("flag", "path", "message"),
    [
        ("images", "nothing", "--images .*nothing: does not exist"),
        ("images", "bare", "no patient folders .*looked for p10"),
        ("images", "empty", "found no image .*jpg.*png.*dcm"),
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


@pytest.mark.parametrize("name", ["metadata", "chexpert"])
def test_a_table_without_rows_is_one_line(small, tmp_path, name):
    change_tables(small, tmp_path, lambda which, table: table.head(0) if which == name else table)
    with pytest.raises(UserError, match=rf"{name}\.csv has a header and no rows: is it complete\?"):
        main(config_of(small, tmp_path / "out", tables=tmp_path))


@pytest.fixture(scope="module")
def officially(small, tmp_path_factory):
    """The dataset folder of the unchanged tables with the official split."""
    folder = tmp_path_factory.mktemp("officially") / "dataset"
    main(config_of(small, folder, split="official"))
    return folder


@pytest.mark.parametrize("name", ["metadata", "chexpert", "split"])
@pytest.mark.parametrize(("end", "start"), [(b",\n", b""), (b"\r\n", b"\xef\xbb\xbf")], ids=["comma", "windows"])
def test_a_table_saved_by_another_program_is_read_the_same(small, officially, tmp_path, name, end, start):
    for table in small.images.glob("*.csv"):
        shutil.copy(table, tmp_path)
    path = tmp_path / f"mimic-cxr-2.0.0-{name}.csv"
    header, *rows = path.read_bytes().splitlines()
    path.write_bytes(start + header + b"\n" + b"".join(row + end for row in rows))
    main(config_of(small, tmp_path / "out", tables=tmp_path, split="official"))
    for split in ("train", "validation", "test"):
        tables = (folder / split / "metadata.csv" for folder in (tmp_path / "out", officially))
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


# ---------------------------------------------------------------------------------------------------------------------
# Ids and joins


def change_tables(small, folder, change):
    """Copies of the tables, as frames of text that `change` gets by name and returns."""
    for path in small.images.glob("*.csv"):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        change(path.stem.rsplit("-", 1)[-1], table).to_csv(folder / path.name, index=False)


SPELLINGS = {
    "floats": lambda ids: ids + ".0",
    "exponents": lambda ids: ids.map(lambda text: f"{float(text):.7E}"),
    "prefixes": lambda ids: ids.name[1].replace("u", "p").replace("t", "s") + ids,
    "blanks": lambda ids: " " + ids,
    "formulas": lambda ids: '="' + ids + '"',
}


@pytest.fixture(scope="module")
def prepared(small, tmp_path_factory):
    """The dataset folder of the unchanged tables."""
    folder = tmp_path_factory.mktemp("prepared") / "dataset"
    main(config_of(small, folder))
    return folder


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("which", ["metadata", "chexpert"])
def test_ids_are_read_in_any_spelling(small, prepared, tmp_path, capsys, which, spelling):
    def respell(name: str, table: pd.DataFrame) -> pd.DataFrame:
        if name != which:
            return table
        return table.assign(**{column: SPELLINGS[spelling](table[column]) for column in ("subject_id", "study_id")})

    change_tables(small, tmp_path, respell)
    main(config_of(small, tmp_path / "out", tables=tmp_path))
    printed = capsys.readouterr().out
    assert "reports: 40 of 40 studies\n" in printed and "chexpert: 30 of 40 studies\n" in printed
    for split in ("train", "test"):
        written, expected = (folder / split / "metadata.csv" for folder in (tmp_path / "out", prepared))
        assert written.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("which", ["metadata", "chexpert", "split"])
def test_ids_that_lost_digits_are_refused(small, tmp_path, which):
    def shorten(name: str, table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(study_id=[f"{float(text):.2E}" for text in table["study_id"]]) if name == which else table

    change_tables(small, tmp_path, shorten)
    config = config_of(small, tmp_path / "out", tables=tmp_path, split="official")
    if which == "split":  # its study_id is not used
        assert main(config) == 0
        return
    with pytest.raises(
        UserError, match=rf"{which}\.csv, study_id: 5\.00E\+07 in row 1 is a number that has lost digits"
    ):
        main(config)


def test_a_join_that_finds_nothing_is_one_line(small, tmp_path):
    with zipfile.ZipFile(tmp_path / "reports.zip", "w") as archive:
        archive.writestr("files/p19/p19999999/s59999999.txt", "IMPRESSION: Somebody else's.")
    config = config_of(small, tmp_path / "out")
    config.reports = tmp_path / "reports.zip"
    with pytest.raises(UserError, match=r"reports: none of the 40 .*p10000000/s50000000; it has p19999999/s5999"):
        main(config)

    def shift(name: str, table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(study_id="9" + table["study_id"]) if name == "chexpert" else table

    change_tables(small, tmp_path, shift)
    with pytest.raises(UserError, match=r"chexpert: none of the 40 studies .*looked for 50000000; it has 950000000"):
        main(config_of(small, tmp_path / "out2", tables=tmp_path))


def test_a_report_and_its_labels_belong_to_patient_and_study(tmp_path):
    tree = build(tmp_path, [Group(3, "train", report_of(CHARS_7), no_finding="1.0")])
    for table, place in ((tree.metadata, "p10000001/s50000001"), (tree.labels, "")):
        table[1]["study_id"] = "50000000"  # of two patients
        if place:
            (tree.images / "files/p10" / place).rename(tree.images / "files/p10/p10000001/s50000000")
    tree.labels[1]["No Finding"] = "0.0"
    tree.texts["p10/p10000001/s50000000.txt"] = report_of("Other words.")
    tree.write_tables(".csv")
    tree.write_reports("zip")
    assert main(config_of(tree, tmp_path / "out")) == 0
    rows = read_metadata(tmp_path / "out" / "train")
    assert rows[["subject_id", "text", "No Finding"]].to_numpy().tolist() == [
        ["10000000", CHARS_7, 1.0], ["10000001", "Other words.", 0.0], ["10000002", CHARS_7, 1.0],
    ]  # fmt: skip


def test_a_label_that_is_none_is_refused_with_its_row(small, tmp_path):
    def spoil(name: str, table: pd.DataFrame) -> pd.DataFrame:
        return table.replace({"No Finding": {"1.0": "2"}}) if name == "chexpert" else table

    change_tables(small, tmp_path, spoil)
    with pytest.raises(
        UserError, match=r"chexpert\.csv: the column No Finding holds '2' in the row of study 50000000: lab"
    ):
        main(config_of(small, tmp_path / "out", tables=tmp_path))


# ---------------------------------------------------------------------------------------------------------------------
# Images


def test_images_may_be_named_with_their_suffix_in_the_table(small, tmp_path):
    def name_files(name: str, table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(dicom_id=table["dicom_id"] + ".DCM") if "dicom_id" in table else table

    change_tables(small, tmp_path, name_files)
    assert main(config_of(small, tmp_path / "out", tables=tmp_path, split="official", max_no_finding=None)) == 0
    assert len(read_metadata(tmp_path / "out" / "train")) == 32


def test_images_that_the_table_names_otherwise_are_one_line(small, tmp_path):
    def rename(name: str, table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(dicom_id="x" + table["dicom_id"]) if name == "metadata" else table

    change_tables(small, tmp_path, rename)
    with pytest.raises(UserError, match=r"images: none of the 35 images .*looked for x0000.*it has 0000"):
        main(config_of(small, tmp_path / "out", tables=tmp_path))


def test_every_image_has_its_own_suffix(tmp_path):
    tree = build(tmp_path, [Group(4, "train", report_of(CHARS_7))])
    first, second, third, _ = sorted((tree.images / "files").rglob("*.jpg"))
    for path, suffix in ((first, "png"), (second, "PNG")):
        Image.open(path).save(path.with_suffix(f".{suffix}"), "PNG")
        path.unlink()
    third.rename(third.with_suffix(".JPEG"))
    assert main(config_of(tree, tmp_path / "out")) == 0
    assert len(read_metadata(tmp_path / "out" / "train")) == 4


@pytest.mark.parametrize(("first_has", "told"), [("nothing", ""), ("dicom", "mimic-cxr-jpg/2.1.0/files is used, not ")])
def test_of_two_collections_the_one_with_pictures_is_used(tmp_path, capsys, first_has, told):
    tree = build(tmp_path / "raw", [Group(3, "train", report_of(CHARS_7))])
    both = tmp_path / "both"
    (both / "mimic-cxr-jpg").mkdir(parents=True)
    if first_has == "dicom":
        other = build(tmp_path / "other", [Group(3, "train", report_of(CHARS_7))], as_dicom=True)
        (both / "mimic-cxr").mkdir()
        other.images.rename(both / "mimic-cxr" / "2.0.0")
        for table in (both / "mimic-cxr" / "2.0.0").glob("*.csv"):
            table.unlink()
    else:
        (both / "mimic-cxr/2.0.0/files/p10").mkdir(parents=True)
    tree.images.rename(both / "mimic-cxr-jpg" / "2.1.0")
    tree.images = both
    assert main(config_of(tree, tmp_path / "out")) == 0
    assert told in capsys.readouterr().out
    assert set(read_sources(tmp_path / "out")["source"].str[-4:]) == {".jpg"}


def test_what_the_metadata_table_does_not_name_is_warned_of(small, tmp_path, capsys):
    def halve(name: str, table: pd.DataFrame) -> pd.DataFrame:
        return table.head(20) if name == "metadata" else table

    change_tables(small, tmp_path, halve)
    assert main(config_of(small, tmp_path / "out", tables=tmp_path)) == 0
    assert "warning: 20 patient folders in" in (told := capsys.readouterr().err) and "such as p10000020: is the" in told


def test_new_reports_and_images_are_taken_up(tmp_path, capsys):
    groups = [Group(20, "train", report_of(CHARS_7)), Group(1, "train", None), Group(1, "train", image="missing")]
    tree = build(tmp_path, groups)
    assert main(config_of(tree, tmp_path / "out")) == 0
    assert len(read_metadata(tmp_path / "out" / "train")) == 20
    tree.texts["p10/p10000020/s50000020.txt"] = report_of("Late words.")
    tree.write_reports("zip")
    (tree.images / "files/p10/p10000021/s50000021/00000015-11111111-22222222-33333333-44444444.png").write_bytes(
        next((tree.images / "files").rglob("*.jpg")).read_bytes()
    )
    capsys.readouterr()
    assert main(config_of(tree, tmp_path / "out")) == 0
    printed = capsys.readouterr().out
    assert "is updated: reports changed; 1 source images are new or changed" in printed
    assert "images: 2 to convert, 20 are up to date" in printed
    assert len(read_metadata(tmp_path / "out" / "train")) == 22


@pytest.mark.parametrize("name", ["mimic_cxr_sectioned.csv", "annotation.json"])
def test_a_table_of_reports_is_sent_to_its_command(small, tmp_path, name):
    (tmp_path / name).write_text("study,impression,findings\n")
    config = config_of(small, tmp_path / "out")
    config.reports = tmp_path / name
    with pytest.raises(UserError, match=r"is a table: give mimic-cxr-reports\.zip, .*python -m data_prep\.table"):
        main(config)


def test_reports_may_be_in_any_encoding_and_read_by_either_rules(tmp_path):
    text = "                  FINAL REPORT\n INDICATION: 38 °C.\n \n IMPRESSION: Café-au-lait.\n CHEST: Clear.\n"
    encodings = ("utf-8-sig", "utf-16", "utf-16-le", "latin-1")
    for number, encoding in enumerate(encodings):
        path = tmp_path / "p10" / "p10000000" / f"s{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode(encoding))
    wanted = {("10000000", str(number)) for number in range(len(encodings))}
    assert set(dict(impressions(tmp_path, wanted)).values()) == {"Café-au-lait. CHEST: Clear."}
    assert set(dict(impressions(tmp_path, wanted, "official")).values()) == {"Café-au-lait."}
