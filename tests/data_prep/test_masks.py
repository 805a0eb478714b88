"""Masks: found by the image's name, in one crop with it, part of what a finished folder is compared with."""

import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_prep.masks import find_masks
from sdcxr.runtime.errors import UserError
from tests.data_prep.pictures import box_mask, busi, picture, prepare, rejected, save, written


def test_masks_are_part_of_what_a_finished_folder_is_compared_with(tmp_path, capsys):
    root = busi(tmp_path)
    rows = prepare(root, root, mapping="busi")
    prepare(root, root, mapping="busi")
    assert "nothing to do" in capsys.readouterr().out
    before = (rows.loc["benign_2", "folder"] / "masks/benign_2.png").read_bytes()

    (rows.loc["benign_2", "folder"] / "masks/benign_2.png").unlink()
    prepare(root, root, mapping="busi")
    assert "1 PNGs are missing or damaged" in capsys.readouterr().out
    assert (rows.loc["benign_2", "folder"] / "masks/benign_2.png").read_bytes() == before

    save(root / "benign/benign (2)_mask_1.png", box_mask((40, 30), (24, 18, 30, 26)))
    prepare(root, root, mapping="busi")
    assert (rows.loc["benign_2", "folder"] / "masks/benign_2.png").read_bytes() != before

    for path in root.rglob("malignant (1)*"):
        path.unlink()
    prepare(root, root, mapping="busi")
    assert not list((tmp_path / "out").rglob("*malignant_1.png"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: save(path, box_mask((20, 30), (0, 0, 9, 9))), "mask of another size"),
        (lambda path: save(path, picture(3).convert("L")), "mask of several levels"),
        (
            lambda path: save(path, Image.fromarray(np.arange(1200, dtype=np.uint8).reshape(30, 40) % 3)),
            "several levels",
        ),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "image"),
    ],
    ids=["size", "photograph", "class numbers", "cut off"],
)
def test_a_mask_that_is_none_rejects_its_image(tmp_path, damage, reason):
    root = busi(tmp_path)
    damage(root / "malignant/malignant (2)_mask.png")
    assert "malignant_2" not in prepare(root, root, mapping="busi").index
    assert reason in rejected(tmp_path / "out")["malignant_2"]


@pytest.mark.parametrize("square", ["crop", "pad"])
def test_a_structure_between_the_pixels_is_not_lost(tmp_path, square):
    save(tmp_path / "set/ill/a.png", picture(1, (96, 96), colour=False))
    save(tmp_path / "set/ill/a_mask.png", box_mask((96, 96), (41, 69, 42, 70)))
    save(tmp_path / "set/well/b.png", picture(2, (96, 96), colour=False))
    save(tmp_path / "set/well/b_mask.png", box_mask((96, 96), (0, 0, 0, 0)))
    rows = prepare(tmp_path / "set", tmp_path / "set", mapping="busi", square=square)
    small, none = (written(rows.loc[name], "mask") for name in ("a", "b"))
    assert np.argwhere(small).tolist() == [[69 // 4, 41 // 4]] and small.max() == 255 and not none.any()


def test_a_dataset_with_masks_is_an_image_folder(tmp_path):
    from datasets import load_dataset

    root = busi(tmp_path)
    rows = prepare(root, root, mapping="busi", validation_fraction=0, test_fraction=0)
    loaded = load_dataset("imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"]
    assert sorted(loaded["class"]) == sorted(rows["class"])
    assert set(loaded["mask"]) == set(rows["mask"])


# ---------------------------------------------------------------------------------------------------------------------
# Masks by name


@pytest.mark.parametrize(
    ("place", "structure"),
    [
        ("masks/a.png", ""),
        ("masks/a_mask.png", ""),
        ("masks/a-mask-2.png", ""),
        ("masks/lungs/a.png", "lungs"),
        ("masks/left lung/more/left lung/a_seg.png", "left-lung"),
        ("images/a_mask.png", ""),
    ],
)
def test_masks_are_found_by_the_name_of_the_image(tmp_path, place, structure):
    image = save(tmp_path / "images/a.png", picture(0))
    save(tmp_path / "images/b.png", picture(0))
    mask = save(tmp_path / place, box_mask((40, 30), (0, 0, 9, 9)))
    rows = pd.DataFrame({"dicom_id": ["a", "b"], "source": [str(image), str(image.with_name("b.png"))]})
    assert find_masks(mask.parents[place.count("/") - 1], rows).tolist() == [{structure: [str(mask)]}, {}]


def test_no_mask_at_all_is_one_line(tmp_path):
    root = busi(tmp_path)
    shutil.copytree(root / "normal", tmp_path / "others")
    with pytest.raises(UserError, match=r"--masks .*others: no image has a mask \(looked for NAME.png") as error:
        prepare(root, root, mapping="busi", masks=tmp_path / "others", limit=1, seed=2)
    assert "\n" not in str(error.value)


def test_folders_of_splits_are_no_structures(tmp_path):
    rows = pd.DataFrame({"source": [str(tmp_path / f"{name}.png") for name in "ab"], "dicom_id": ["a", "b"]})
    for place in ("train/lung/a", "test/lung/b", "Training/b"):
        save(tmp_path / f"masks/{place}.png", box_mask((4, 4), (0, 0, 2, 2)))
    assert [set(masks) for masks in find_masks(tmp_path / "masks", rows)] == [{"lung"}, {"lung", ""}]


def test_folders_that_may_be_classes_of_images_are_told(tmp_path, capsys):
    rows = pd.DataFrame({"source": [str(tmp_path / f"{name}.png") for name in "ab"], "dicom_id": ["a", "b"]})
    for place in ("benign/a", "malignant/b"):
        save(tmp_path / f"masks/{place}.png", box_mask((4, 4), (0, 0, 2, 2)))
    assert [set(masks) for masks in find_masks(tmp_path / "masks", rows)] == [{"benign"}, {"malignant"}]
    assert "the folders benign, malignant are taken for structures, and no image has" in capsys.readouterr().err
    save(tmp_path / "masks/malignant/a.png", box_mask((4, 4), (0, 0, 2, 2)))
    find_masks(tmp_path / "masks", rows)
    assert not capsys.readouterr().err
