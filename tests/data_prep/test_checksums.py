"""The collection's own list of SHA-256 sums: where it is found, what it says of a file."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_prep.checksums import difference, expected_sums, read_sums
from data_prep.cohort import Cohort
from data_prep.sources import input_states
from data_prep.writer import Settings, write_dataset
from sdcxr.runtime.errors import UserError


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def collection(root: Path) -> list[str]:
    """Three files in two folders and a list of two of them; absolute paths."""
    files = [root / "files" / name for name in ("p10/a.jpg", "p10/b.jpg", "p11/c.jpg")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(file.name.encode())
    lines = [f"{sha256(b'a.jpg').upper()}  files/p10/a.jpg", f"{sha256(b'other')} *./files/p10/b.jpg", ""]
    (root / "SHA256SUMS.txt").write_text("\n".join(lines))
    return [str(file) for file in files]


def test_listed_files_are_compared_and_others_are_not(tmp_path):
    files = collection(tmp_path)
    expected = expected_sums(files)
    assert expected == [sha256(b"a.jpg"), sha256(b"other"), ""]
    words = [difference(file, one) for file, one in zip(files, expected, strict=True)]
    assert words[0] == words[2] == "" and "download the file again" in words[1]


@pytest.mark.parametrize("between", [" ", "  ", " *", "\t"])
def test_any_white_space_stands_between_sum_and_name(tmp_path, between):
    path = tmp_path / "SHA256SUMS.txt"
    path.write_text(f"{'a' * 64}{between}files/two  words.jpg\n")
    assert read_sums(path) == {"files/two  words.jpg": "a" * 64}


def test_the_list_is_found_from_any_part_of_the_collection(tmp_path):
    files = collection(tmp_path)
    assert expected_sums(files[:1]) == [sha256(b"a.jpg")]
    assert expected_sums([]) == []


def test_a_missing_foreign_or_damaged_list_is_one_line(tmp_path):
    files = collection(tmp_path)
    sums = tmp_path / "SHA256SUMS.txt"
    with pytest.raises(UserError, match=r"SHA256SUMS\.txt names none of the images, such as .*c\.jpg"):
        expected_sums(files[2:])
    sums.write_text(f"{sha256(b'a')}  a.jpg\n0123  cut off")
    with pytest.raises(UserError, match=r"SHA256SUMS\.txt, line 2"):
        read_sums(sums)
    sums.unlink()
    with pytest.raises(UserError, match=r"no SHA256SUMS\.txt in .*/files or a folder above it"):
        expected_sums(files)


def test_a_missing_file_is_left_to_the_decoder(tmp_path):
    assert difference(str(tmp_path / "gone.jpg"), sha256(b"")) == ""


def test_a_file_that_differs_from_the_list_is_rejected(tmp_path, capsys):
    rng = np.random.default_rng(0)
    images = tmp_path / "images"
    images.mkdir()
    names = [f"{number}.png" for number in range(4)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (30, 20), dtype=np.uint8)).save(images / name)
    lines = [f"{sha256((images / name).read_bytes())}  images/{name}\n" for name in names[:3]]
    (tmp_path / "SHA256SUMS.txt").write_text("".join(lines))
    Image.fromarray(rng.integers(0, 256, (30, 20), dtype=np.uint8)).save(images / "1.png")  # readable, but another one
    ids = {column: [f"{column}{number}" for number in range(4)] for column in ("dicom_id", "study_id", "subject_id")}
    sources = [str(images / name) for name in names]
    cohort = Cohort(pd.DataFrame(ids | {"text": "Words.", "view": "PA", "split": "train", "source": sources}), "all")
    config = Settings(
        output_dir=tmp_path / "out", resolution=16, workers=1, max_rejected_fraction=1, verify_checksums=True
    )
    assert write_dataset(config, {"source": "test"}, cohort, input_states(images)) == 0
    rejected = pd.read_csv(tmp_path / "out/rejected.csv")
    assert rejected[["dicom_id", "reason"]].to_numpy().tolist() == [["dicom_id1", "checksum differs"]]
    assert "checksums: 3 images are listed, 1 are not" in capsys.readouterr().out
    assert len(list((tmp_path / "out/train").glob("*.png"))) == 3
