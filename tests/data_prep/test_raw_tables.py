"""Folders of images: at any depth, through links, one file of each image."""

from pathlib import Path

import pytest

from data_prep.raw_tables import index_images
from sdcxr.runtime.errors import UserError


def stem(name: str) -> str:
    return name.split(".")[0]


def files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_images_are_found_at_any_depth_and_the_better_format_wins(tmp_path):
    files(tmp_path, "a.jpg", "b/c/a.png", "b/d.JPEG", "b/.e.png", "b/f.txt", "z/a.dcm")
    found = {name: str(path.relative_to(tmp_path)) for name, path in index_images(tmp_path, stem).items()}
    assert found == {"a": "b/c/a.png", "d": "b/d.JPEG"}


def test_linked_folders_are_followed_once(tmp_path):
    files(tmp_path, "disk/images_001/a.png", "disk/images_002/b.png", "raw/c.png")
    (tmp_path / "raw" / "images").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "images_001" / "above").symlink_to(tmp_path / "raw")
    seen: list[str] = []
    found = index_images(tmp_path / "raw", lambda name: seen.append(name) or stem(name))
    assert set(found) == {"a", "b", "c"}
    assert set(seen) == {"a.png", "b.png", "c.png"} and len(seen) == 3  # in no circle


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"--images .*nothing: does not exist"):
        index_images(tmp_path / "nothing", stem)
