"""Folders of images: at any depth, through links, one file of each image. Tables: the whole one of two."""

import gzip

import pytest

from data_prep.raw_tables import image_stem, index_images, read_table, warn_unnamed, whole_table
from sdcxr.runtime.errors import UserError
from tests.data_prep.folders import touch


def stem(name: str) -> str:
    return name.split(".")[0]


def test_images_are_found_at_any_depth_and_the_better_format_wins(tmp_path):
    touch(tmp_path, "a.jpg", "b/c/a.png", "b/d.JPEG", "b/.e.png", "b/f.txt", "z/a.dcm")
    found = {name: str(path.relative_to(tmp_path)) for name, path in index_images(tmp_path, stem).items()}
    assert found == {"a": "b/c/a.png", "d": "b/d.JPEG"}


def test_the_file_of_the_exact_name_wins_wherever_it_is(tmp_path):
    touch(tmp_path, "a/x.jpg", "b/x.png", "c/y.dcm")
    images = index_images(tmp_path)
    named = [images.file(stem(name), name) for name in ("x.jpg", "x.png", "x.dcm", "images\\x.jpg ", "y.png", "z.png")]
    expected = ["a/x.jpg", "b/x.png", "b/x.png", "a/x.jpg", "c/y.dcm"]
    assert named == [*(tmp_path / name for name in expected), None]


def test_linked_folders_are_followed_once(tmp_path):
    touch(tmp_path, "disk/images_001/a.png", "disk/images_002/b.png", "raw/c.png")
    (tmp_path / "raw" / "images").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "images_001" / "above").symlink_to(tmp_path / "raw")
    seen: list[str] = []
    found = index_images(tmp_path / "raw", lambda name: seen.append(name) or stem(name))
    assert set(found) == {"a", "b", "c"}
    assert set(seen) == {"a.png", "b.png", "c.png"} and len(seen) == 3  # in no circle


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"--images .*nothing: does not exist"):
        index_images(tmp_path / "nothing", stem)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("00000193_019.png", "00000193_019"),
        ("images_001/00000193_019.PNG ", "00000193_019"),
        ("images\\x.jpeg", "x"),
        ("x.dcm.gz", "x"),
        ("1.2.840.5", "1.2.840.5"),
        ("x", "x"),
    ],
)
def test_stems_of_names(name, stem):
    assert image_stem(name) == stem


def test_an_image_in_two_folders_is_warned_of(tmp_path, capsys):
    touch(tmp_path, "a/x.png", "b/x.png", "b/y.png")
    assert index_images(tmp_path)["x"] == tmp_path / "a" / "x.png"
    assert "1 images are in" in (told := capsys.readouterr().err) and "a/x.png" in told and "b/x.png" in told


def test_folders_that_data_prep_has_written_are_left_out_and_none_is_a_source(tmp_path):
    touch(tmp_path, "data512/train/x.png", "data512/prep.json", "images/x.jpg")
    assert index_images(tmp_path) == {"x": tmp_path / "images" / "x.jpg"}
    for folder in ("data512", "data512/train"):
        with pytest.raises(UserError, match="was written by data_prep: give the folder of the original images"):
            index_images(tmp_path / folder)


ROWS = "a,b\n" + "1,2\n" * 99


@pytest.mark.parametrize("given", ["t.csv", "t.csv.gz"])
def test_of_a_table_and_its_archive_the_whole_one_is_read(tmp_path, capsys, given):
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(ROWS.encode(), mtime=0))
    if given == "t.csv.gz":
        assert whole_table(tmp_path / given) == tmp_path / "t.csv.gz"
    (tmp_path / "t.csv").write_text(ROWS)
    assert whole_table(tmp_path / given) == tmp_path / "t.csv" and capsys.readouterr().err == ""
    (tmp_path / "t.csv").write_text(ROWS[:200])  # at the end of a row
    assert len(read_table(tmp_path / given, ("a", "b"))) == 99
    assert ("t.csv is only a part of t.csv.gz" in capsys.readouterr().err) == (given == "t.csv")


@pytest.mark.parametrize(
    "packed",
    [gzip.compress(ROWS.replace("1", "3").encode(), mtime=0), gzip.compress(ROWS.encode(), mtime=0)[:-30], b""],
)
def test_two_different_tables_are_refused(tmp_path, packed):
    (tmp_path / "t.csv.gz").write_bytes(packed)
    (tmp_path / "t.csv").write_text(ROWS[:200])
    with pytest.raises(UserError, match=r"t\.csv and t\.csv\.gz are different tables: delete one of them"):
        read_table(tmp_path / "t.csv", ("a", "b"))


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding", "CheXpert's train.csv"),
        ("path_to_image,section_findings,section_impression", "CheXpert Plus"),
        ("ImageID,StudyID,PatientID,Projection,Labels", "PadChest"),
        ("image_id,class_name,class_id,rad_id", "VinDr-CXR"),
        ("patientId,x,y,Target", "RSNA"),
        ("study,impression,findings", "mimic_cxr_sectioned.csv"),
    ],
)
def test_tables_of_other_collections_are_sent_to_their_command(tmp_path, header, told):
    (tmp_path / "t.csv").write_text(header + "\n")
    with pytest.raises(UserError, match=rf"has no column 'Image Index'.*{told}.*: python -m data_prep.table reads"):
        read_table(tmp_path / "t.csv", ("Image Index",), "Hint.")


def test_images_that_a_table_does_not_name_are_counted(tmp_path, capsys):
    warn_unnamed(["a", "b", "c"], ["a"], tmp_path, "t.csv")
    assert "warning: 2 images in" in (told := capsys.readouterr().err) and "not named in t.csv" in told and "b" in told
    warn_unnamed(["a"], ["a", "b"], tmp_path, "t.csv")
    assert capsys.readouterr().err == ""


def test_pictures_of_formats_that_are_not_read_are_counted(tmp_path, capsys):
    for name in ("a.jp2", "b.jp2", "b.png"):
        (tmp_path / name).write_bytes(b"x")
    assert list(index_images(tmp_path)) == ["b"]
    assert f"warning: 2 files in {tmp_path} have a format that is not read, such as" in capsys.readouterr().err
