"""MedMNIST's files: splits, pixels, names of classes and findings; what is not one of them."""

from pathlib import Path

import numpy as np
import pytest

from data_prep.medmnist import CLASSES, FINDINGS
from sdcxr.io.files import read_json
from sdcxr.runtime.errors import UserError
from tests.data_prep.pictures import SIDE, prepare, written


def npz(path: Path, channels: int = 3, side: int = SIDE, labels: int = 1, n_classes: int = 2) -> Path:
    """Six images for training, two for validation and four for testing, with each class in each split."""
    arrays = {}
    for seed, (split, n) in enumerate({"train": 6, "val": 2, "test": 4}.items()):
        rng = np.random.default_rng(seed)
        shape = (n, side, side) if channels == 1 else (n, side, side, channels)
        arrays[f"{split}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
        numbers = np.arange(n * labels).reshape(n, labels) % n_classes
        arrays[f"{split}_labels"] = numbers.astype(np.uint8)
    np.savez_compressed(path, **arrays)
    return path


def test_medmnist_has_the_official_split_the_pixels_and_the_names_of_classes(tmp_path):
    table = npz(tmp_path / "pathmnist.npz", n_classes=9)
    rows = prepare(table, tmp_path / "unpacked")
    assert rows["split"].value_counts().to_dict() == {"train": 6, "test": 4, "validation": 2}
    arrays = np.load(table)
    for split, ours in (("train", "train"), ("val", "validation"), ("test", "test")):
        for number, pixels in enumerate(arrays[f"{split}_images"]):
            row = rows.loc[f"{split}_{number:06}"]
            assert (row["split"], row["class"]) == (ours, CLASSES["path"][arrays[f"{split}_labels"][number, 0]])
            assert (written(row) == pixels).all()
    assert read_json(tmp_path / "out/prep.json")["channels"] == 3


def test_grey_sets_of_medmnist_stay_grey(tmp_path):
    rows = prepare(npz(tmp_path / "pneumoniamnist_64.npz", channels=1), tmp_path / "unpacked")
    assert written(rows.iloc[0]).shape == (SIDE, SIDE)
    assert rows.loc["train_000001", ["class", "text"]].tolist() == ["pneumonia", "pneumonia"]
    assert read_json(tmp_path / "out/prep.json")["channels"] == 1


def test_dark_pictures_that_are_no_radiographs_are_kept(tmp_path):
    """Of TissueMNIST most pixels are black."""
    table = npz(tmp_path / "tissuemnist.npz", channels=1)
    arrays = dict(np.load(table))
    for name in ("train_images", "val_images", "test_images"):
        arrays[name][:, 4:] = 0
    np.savez(table, **arrays)
    assert len(prepare(table, tmp_path / "unpacked")) == 12


def test_chestmnist_has_a_column_for_every_finding(tmp_path):
    table = npz(tmp_path / "chestmnist.npz", channels=1, labels=len(FINDINGS))
    arrays = dict(np.load(table))
    arrays["train_labels"][:2] = 0
    arrays["train_labels"][1, [FINDINGS.index("mass"), FINDINGS.index("hernia")]] = 1
    np.savez(table, **arrays)
    rows = prepare(table, tmp_path / "unpacked")
    first, second = rows.loc["train_000000"], rows.loc["train_000001"]
    assert (first["text"], second["text"]) == ("no finding", "mass and hernia")
    assert (first["No Finding"], first["Lung Lesion"], first["Edema"]) == (1, 0, 0)
    assert (second["No Finding"], second["Lung Lesion"], second["hernia"]) == (0, 1, "1.0")
    assert np.isnan(first["Lung Opacity"])  # infiltration alone does not rule it out
    assert "class" not in rows


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.rename(path.with_name("organmnist3d.npz")), "holds volumes"),
        (lambda path: path.rename(path.with_name("features.npz")), "is called as no file of MedMNIST"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "is not a whole file of MedMNIST"),
        (lambda path: path.write_bytes(b"nothing"), "is not a whole file of MedMNIST"),
        (lambda path: npz(path.with_name("octmnist.npz"), n_classes=6), "has 5, and octmnist 4 classes"),
        (lambda path: npz(path, labels=3), "has shape"),
        (lambda path: np.savez(path, train_labels=np.zeros((1, 1), int)), "is not a whole file of MedMNIST"),
        (lambda path: np.savez(path, train_labels=np.array([{}])), "is not a whole file of MedMNIST"),
        (lambda path: Path.unlink(path), "does not exist"),
    ],
    ids=["3d", "other", "cut", "bytes", "classes", "labels", "arrays", "pickle", "missing"],
)
def test_a_wrong_npz_is_one_line(tmp_path, damage, message):
    path = npz(tmp_path / "pathmnist.npz")
    path = damage(path) or path
    path = path if isinstance(path, Path) else tmp_path / "pathmnist.npz"
    with pytest.raises(UserError, match=message) as error:
        prepare(path, tmp_path / "unpacked")
    assert "\n" not in str(error.value)


def test_small_images_are_not_enlarged_unasked(tmp_path):
    with pytest.raises(UserError, match="have 24 pixels: give --resolution 24"):
        prepare(npz(tmp_path / "bloodmnist.npz"), tmp_path / "unpacked", resolution=512)


def test_another_file_of_the_same_name_has_its_own_images(tmp_path):
    table = npz(tmp_path / "pneumoniamnist.npz")
    before = prepare(table, tmp_path / "unpacked")
    first = tmp_path / "unpacked/pneumoniamnist/train_000000.png"
    written_at, pixels = first.stat().st_mtime_ns, written(before.iloc[0])
    prepare(table, tmp_path / "unpacked")
    assert first.stat().st_mtime_ns == written_at
    arrays = dict(np.load(table))
    arrays |= {name: 255 - array for name, array in arrays.items() if name.endswith("images")}
    np.savez_compressed(table, **arrays)
    after = prepare(table, tmp_path / "unpacked", output_dir=tmp_path / "out2")
    assert after.index.equals(before.index) and (written(after.iloc[0]) == 255 - pixels).all()
