"""Which files are images: by the name, or by the first bytes where the name says nothing."""

import pytest

from sdcxr.io.image_files import is_image_name, looks_like_image


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("a.png", True),
        ("a.JPG", True),
        ("1_IM-0001-1001.dcm.png", True),
        ("a.DCM", True),
        ("a.dicom", True),
        ("a.dcm.gz", True),
        ("._a.png", False),
        ("a.csv", False),
        ("a.csv.gz", False),
        ("png", False),
    ],
)
def test_names_of_images(name, image):
    assert is_image_name(name) is image


@pytest.mark.parametrize(
    ("name", "content", "image"),
    [
        ("IM0001", bytes(128) + b"DICM", True),
        ("1.2.840.5", bytes(128) + b"DICM", True),
        ("picture", b"\x89PNG\r\n\x1a\n", True),
        ("notes", b"some text", False),
        ("a.png", b"whatever", True),
        (".hidden", bytes(128) + b"DICM", False),
        ("table.csv", b"\xff\xd8\xff", False),
    ],
)
def test_files_without_a_known_suffix_are_told_by_their_first_bytes(tmp_path, name, content, image):
    (tmp_path / name).write_bytes(content)
    assert looks_like_image(tmp_path / name) is image


def test_what_cannot_be_opened_is_no_image(tmp_path):
    (tmp_path / "IM0001").mkdir()
    assert not looks_like_image(tmp_path / "IM0001")
    assert not looks_like_image(tmp_path / "gone")
