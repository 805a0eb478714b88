"""Images of a table: found by path, by its end or by name, never another one's; names of written images."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_prep.table_images import find_images, image_names
from sdcxr.io.files import read_json
from tests.data_prep.tables import changed, prepare, save


def paths(folder: Path, *names: str) -> list[Path]:
    return [folder / name for name in names]


@pytest.mark.parametrize(
    ("cell", "file"),
    [
        ("a/1.png", "a/1.png"),
        ("a/1", "a/1.png"),
        ("a/1.jpg", "a/1.png"),
        ("./a/1.png", "a/1.png"),
        ("a\\1.png", "a/1.png"),
        ("/elsewhere/data/a/1.png", "a/1.png"),
        ("/root/data/a/1.png", "a/1.png"),
        ("data/a/1.png", "a/1.png"),
        ("unique.dcm.gz", "deep/er/unique.dcm.gz"),
        ("unique", "deep/er/unique.dcm.gz"),
        ("1.2.840.5", "deep/1.2.840.5.dcm"),
        ("other/place/unique.dcm", "deep/er/unique.dcm.gz"),  # by its name alone
        ("er/unique", "deep/er/unique.dcm.gz"),
    ],
)
def test_images_are_found_by_path_by_its_end_and_by_name(cell, file):
    folder = Path("/root/data")
    files = paths(folder, "a/1.png", "b/1.png", "deep/er/unique.dcm.gz", "deep/1.2.840.5.dcm")
    assert find_images(pd.Series([cell]), files, folder).source.tolist() == [str(folder / file)]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [("1.png", "several images of that name"), ("c/1.png", "several images of that name"), ("2.png", "missing image")],
)
def test_an_image_that_may_be_another_is_not_taken(cell, reason):
    folder = Path("/root/data")
    found = find_images(pd.Series([cell]), paths(folder, "a/1.png", "b/1.png"), folder)
    assert found.source.tolist() == [""] and found.reason.tolist() == [reason]


def test_a_name_of_many_folders_never_stands_for_another_folder():
    """view1_frontal.jpg of a patient whose images are missing is not that of another patient."""
    folder = Path("/root/data")
    cells = pd.Series(["patient1/view1_frontal.jpg", "patient2/view1_frontal.jpg"])
    found = find_images(cells, paths(folder, "patient2/view1_frontal.jpg"), folder)
    assert found.source.tolist() == ["", "/root/data/patient2/view1_frontal.jpg"]
    assert found.reason.tolist() == ["missing image", ""] and not found.by_name.any()


@pytest.mark.parametrize(
    ("cells", "files", "found"),
    [
        (["1.jpg"], ["1.jpg", "1.png"], ["1.jpg"]),  # the mask beside it is another picture
        (["1.JPG"], ["1.jpg", "1.png"], ["1.jpg"]),
        (["scan.dcm"], ["scan.dcm", "scan.png"], ["scan.dcm"]),
        (["scan.jpg"], ["a/scan.png", "b/scan.jpg"], ["b/scan.jpg"]),
        (["scan.jpg"], ["scan.png", "b/scan.jpg"], ["b/scan.jpg"]),
        (["x/scan.jpg"], ["a/scan.png", "b/scan.jpg"], ["b/scan.jpg"]),
        (["a/scan.jpg"], ["a/scan.png", "b/scan.jpg"], ["a/scan.png"]),  # its folder counts more
        (["scan.png", "scan.dcm"], ["scan.dcm", "scan.png"], ["scan.png", "scan.dcm"]),
        (["scan.png", "scan.dcm"], ["scan.png"], ["scan.png", ""]),
        (["scan", "scan.png"], ["scan.png"], ["scan.png", "scan.png"]),
        (["scan"], ["scan", "scan.png"], ["scan"]),
    ],
)
def test_the_file_that_is_named_exactly_wins(cells, files, found):
    source = find_images(pd.Series(cells), [Path("/data", file) for file in files], Path("/data")).source
    assert source.str.removeprefix("/data/").tolist() == found


@pytest.mark.parametrize("order", [1, -1])
def test_one_name_in_two_formats_never_swaps_text(tmp_path, order):
    for n, name in enumerate(("scan.png", "scan.tif")):
        pixels = np.random.default_rng(n).integers(100 * n, 100 * n + 100, (24, 24), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    rows = [{"image": f"scan.{end}", "text": f"Of {end}.", "id": end} for end in ("png", "tif")][::order]
    found = prepare(save(tmp_path / "t.csv", rows), tmp_path, repeats="first", columns="dicom_id=id")
    assert found["text"].to_dict() == {"png": "Of png.", "tif": "Of tif."}
    for name, bright in (("png", False), ("tif", True)):
        with Image.open(tmp_path / f"out/train/{name}.png") as image:
            assert (np.asarray(image).mean() > 100) == bright
    (tmp_path / "b").mkdir()
    found = prepare(save(tmp_path / "b/t.csv", rows), tmp_path)  # one id for both
    assert found["text"].tolist() == [rows[0]["text"]]
    with Image.open(tmp_path / "b/out/train/scan.png") as image:
        assert (np.asarray(image).mean() > 100) == (order == -1)
    assert read_json(tmp_path / "b/out/prep.json")["rejected"] == {"duplicate dicom_id": 1}


def test_files_of_formats_that_are_not_read_are_not_called_missing(tmp_path, images):
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    for name in ("a.jp2", "sub/b.gif", "c.GIF"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"other")
    prepare(save(tmp_path / "t.csv", changed(image=["a.jp2", "sub/b.gif", "c", "gone.gif", "i4", "i5"])), folder)
    rejected = pd.read_csv(tmp_path / "out/rejected.csv")
    assert rejected[["reason", "detail"]].to_numpy().tolist() == [
        ["format not read", "a.jp2"],
        ["format not read", "b.gif"],
        ["format not read", "c.GIF"],
        ["missing image", "gone.gif"],
    ]


def test_of_two_formats_one_is_taken():
    folder = Path("/root/data")
    found = find_images(pd.Series(["1"]), paths(folder, "1.jpg", "1.png", "1.dcm"), folder)
    assert found.source.tolist() == ["/root/data/1.png"]


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (["x/1.png", "x/2.png"], ["1", "2"]),
        (["a/1.png", "b/1.png"], ["a_1", "b_1"]),
        (["p1/s1/v.jpg", "p1/s2/v.jpg", "p2/s1/v.jpg"], ["p1_s1_v", "p1_s2_v", "p2_s1_v"]),
        (["left chest.png"], ["left_chest"]),
        (["a/1.png", "./a/1.png", "a\\1.jpg"], ["1", "1", "1"]),
        (["a 1.png", "a(1.png"], ["a_1_042a5f2e", "a_1_0ea8885f"]),
        (["1.2.840.5", "1.2.840.5"], ["1.2.840.5", "1.2.840.5"]),
    ],
)
def test_names_of_written_images_are_unique_and_safe(cells, names):
    assert image_names(pd.Series(cells)).tolist() == names
