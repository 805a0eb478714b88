"""Volume phantoms: a dataset folder with masks on the grids of their volumes, repeatable."""

import numpy as np
import pytest

pytest.importorskip("nibabel")
pytest.importorskip("monai")
pytest.importorskip("einops")

import nibabel

from data_prep.volume_phantom import STRUCTURES, VolumePhantomConfig, main
from eval.inputs.folders import is_phantom, read_folder
from sdcxr.io.manifest import read_masks, read_metadata
from sdcxr.runtime.errors import UserError


def test_a_dataset_of_volumes_with_masks(tmp_path, capsys):
    config = VolumePhantomConfig(tmp_path / "a", volumes=8, side=16)
    main(config)
    tables = {split: read_metadata(tmp_path / "a" / split) for split in ("train", "validation", "test")}
    assert {split: len(rows) for split, rows in tables.items()} == {"train": 6, "validation": 1, "test": 1}
    rows, folder = tables["train"], tmp_path / "a/train"
    assert is_phantom(folder) and len(read_folder(folder, "--real")) == 6
    masks, orientations, shapes = read_masks(rows, folder), set(), set()
    assert tuple(masks) == STRUCTURES
    for name, of_volume in zip(rows["file_name"], masks.to_dict("records"), strict=True):
        image = nibabel.load(folder / name)
        values, planes = np.asarray(image.dataobj), {}
        for structure, path in of_volume.items():
            mask = nibabel.load(path)
            planes[structure] = np.asarray(mask.dataobj) > 0
            assert mask.shape == image.shape and np.allclose(mask.affine, image.affine)
        assert values[planes["lungs"] & ~planes["nodule"]].mean() < -700 < 100 < values[planes["heart"]].mean()
        assert not (planes["nodule"] & ~planes["lungs"]).any() and not (planes["lungs"] & planes["heart"]).any()
        place = nibabel.affines.apply_affine(image.affine, np.argwhere(planes["heart"])).mean(axis=0)
        assert place[0] < 0 < place[1]  # on the left, in front
        orientations.add(nibabel.aff2axcodes(image.affine))
        shapes.add(image.shape)
    assert orientations == {("R", "A", "S"), ("L", "P", "S")} and len(shapes) > 1
    capsys.readouterr()
    main(config)
    assert "finished already" in capsys.readouterr().out
    main(VolumePhantomConfig(tmp_path / "b", volumes=8, side=16))
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) == 8 * 4 + 4
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_settings_out_of_range_and_another_folder_are_one_line(tmp_path):
    with pytest.raises(UserError, match="--volumes 2: expected 3 to"):
        main(VolumePhantomConfig(tmp_path / "a", volumes=2))
    main(VolumePhantomConfig(tmp_path / "a", volumes=3, side=16))
    with pytest.raises(UserError):
        main(VolumePhantomConfig(tmp_path / "a", volumes=4, side=16))
