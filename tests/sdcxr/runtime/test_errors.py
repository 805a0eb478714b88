"""What of an error becomes a line, and which errors of the system are the user's."""

import errno

import pytest

from sdcxr.io.files import atomic, write_text
from sdcxr.runtime.errors import explain_os_error, first_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("cannot be read\nTraceback", "cannot be read"),
        ("Error(s) in loading Net:\n\tMissing key: a\n\tMissing key: b", "Error(s) in loading Net: Missing key: a"),
        ("\n  indented", "indented"),
        ("", "ValueError"),
        ("x" * 500, "x" * 300),
    ],
)
def test_the_first_line_of_an_error_says_something(text, line):
    assert first_line(ValueError(text)) == line


def test_other_system_errors_are_not_explained():
    assert explain_os_error(FileNotFoundError(errno.ENOENT, "gone", "x")) is None


def test_a_file_in_the_place_of_a_folder_is_one_line(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(OSError) as caught:
        (tmp_path / "taken").mkdir()
    assert (
        explain_os_error(caught.value) == f"{tmp_path / 'taken'} is a file, but a folder is needed: give another folder"
    )


def test_a_folder_in_the_place_of_a_file_is_one_line(tmp_path):
    (tmp_path / "scores.json").mkdir()
    with pytest.raises(OSError) as caught:
        write_text(tmp_path / "scores.json", "[]")
    line = explain_os_error(caught.value)
    assert line == f"{tmp_path / 'scores.json'} is a folder, but a file is needed: give another name"


def test_a_file_that_cannot_be_read_while_another_is_written_keeps_its_traceback(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic(tmp_path / "a.txt"):
        (tmp_path / "gone").read_text()
    assert explain_os_error(caught.value) is None
