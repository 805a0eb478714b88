"""NIfTI volumes: one orientation and spacing whatever the file's, masks on the same grid, damaged files."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("monai")
pytest.importorskip("nibabel")
pytest.importorskip("einops")

from sdcxr.data.volumes import SegmentationVolumes, patch
from sdcxr.io.volumes import is_volume, read_with_masks, voxel_sizes, write_volume
from sdcxr.runtime.errors import UserError

AFFINE = np.diag([2.0, 3.0, 4.0, 1.0])


def block(at: tuple[int, int, int] = (2, 3, 4)) -> np.ndarray:
    """A bright block near the patient's left, back and bottom."""
    values = np.zeros((12, 16, 20), np.int16)
    values[tuple(slice(start, start + 4) for start in at)] = 1000
    return values


def write(folder: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> tuple[Path, Path]:
    write_volume(folder / "v.nii.gz", values, affine)
    write_volume(folder / "m.nii.gz", (values > 0).astype(np.uint8), affine)
    return folder / "v.nii.gz", folder / "m.nii.gz"


def reoriented(
    values: np.ndarray, order: tuple[int, int, int], flipped: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The same volume in other axes, and its affine."""
    affine = AFFINE.copy()
    for axis in flipped:
        affine[:3, 3] += affine[:3, axis] * (values.shape[axis] - 1)
        affine[:3, axis] *= -1
        values = np.flip(values, axis)
    return np.ascontiguousarray(values.transpose(order)), affine[:, [*order, 3]]


@pytest.mark.parametrize(("order", "flipped"), [((0, 1, 2), (0, 1)), ((2, 0, 1), ()), ((1, 2, 0), (0, 2))])
def test_a_volume_is_the_same_in_any_orientation(tmp_path, order, flipped):
    (tmp_path / "other").mkdir()
    volume, mask = write(tmp_path, block())
    other, other_mask = write(tmp_path / "other", *reoriented(block(), order, flipped))
    assert voxel_sizes(volume).tolist() == voxel_sizes(other).tolist() == [2, 3, 4]
    wanted, found = (read_with_masks(*each, (2.0, 3.0, 4.0)) for each in ((volume, [mask]), (other, [other_mask])))
    assert wanted[0].shape == (1, 12, 16, 20) and wanted[0].dtype == torch.float32
    assert torch.equal(wanted[0], found[0]) and torch.equal(wanted[1], found[1])
    assert (wanted[1][0].numpy() == (block() > 0)).all()
    assert (wanted[0].min(), wanted[0].max()) == (-1, 1)


def test_volumes_are_resampled_with_their_masks(tmp_path):
    volume, mask = write(tmp_path, block())
    pixels, masks = read_with_masks(volume, [mask, None], (1.0, 1.5, 2.0))
    assert pixels.shape[1:] == masks.shape[1:] and pixels.shape[1:] == (23, 31, 39)  # between the outer centres
    assert set(masks[0].unique().tolist()) == {0, 1} and masks[1].isnan().all()
    assert masks[0].sum() * 3 == pytest.approx(64 * 24, rel=0.3)  # mm³
    assert pixels[0][masks[0] == 1].mean() > 0.3 and pixels[0][masks[0] == 0].mean() < -0.9


def test_a_patch_holds_a_structure_every_second_time_and_is_a_function_of_its_draws(tmp_path):
    volume, mask = write(tmp_path, block())
    examples = SegmentationVolumes([volume], ["v"], [[mask, None]], 8, spacing_mm=(2.0, 3.0, 4.0))
    found = [examples.example(0, np.random.default_rng(seed)) for seed in range(12)]
    assert all(each["pixels"].shape == (1, 8, 8, 8) and each["masks"].shape == (2, 8, 8, 8) for each in found)
    assert all(each["masks"][1].isnan().all() for each in found)
    assert sum(bool(each["masks"][0].any()) for each in found) >= 4
    assert len({float(each["masks"][0].sum()) for each in found}) > 2
    again = examples.example(0, np.random.default_rng(3))
    assert all(torch.equal(again[name][:1], found[3][name][:1]) for name in ("pixels", "masks"))


def test_a_small_volume_is_padded_and_without_draws_the_patch_is_central(tmp_path):
    volume, mask = write(tmp_path, block((4, 6, 8)))
    read = read_with_masks(volume, [mask], (2.0, 3.0, 4.0))
    both = patch(*read, 24)
    assert both.shape == (2, 24, 24, 24) and both[0, 0, 0, 0] == -1 and both[1].sum() == 64
    assert patch(*read, 4)[1].sum() == 64


def test_files_that_cannot_be_used_are_one_line(tmp_path):
    volume, _ = write(tmp_path, block())
    whole = volume.read_bytes()
    (tmp_path / "torn.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.nii").write_text("no volume")
    write_volume(tmp_path / "four.nii.gz", np.zeros((4, 4, 4, 2), np.int16), AFFINE)
    write_volume(tmp_path / "infinite.nii.gz", np.full((4, 4, 4), np.inf, np.float32), AFFINE)
    colours = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    write_volume(tmp_path / "colour.nii.gz", np.zeros((4, 4, 4), colours), AFFINE)
    moved = AFFINE.copy()
    moved[0, 3] = 5
    write_volume(tmp_path / "moved.nii.gz", block().astype(np.uint8), moved)
    for name, message in {
        "absent.nii": "does not exist",
        "torn.nii.gz": "cannot be read",
        "text.nii": "cannot be read",
        "four.nii.gz": "has 4 dimensions",
        "colour.nii.gz": "cannot be read",
        "infinite.nii.gz": "not finite",
    }.items():
        with pytest.raises(UserError, match=f"{name}.*{message}") as error:
            read_with_masks(tmp_path / name, [], (1.0, 1.0, 1.0))
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"does not lie on the grid of its volume v\.nii\.gz"):
        read_with_masks(volume, [tmp_path / "moved.nii.gz"], (2.0, 3.0, 4.0))


def test_the_same_values_are_the_same_bytes_and_names_tell_volumes(tmp_path):
    first = write(tmp_path, block())[0].read_bytes()
    assert write(tmp_path, block())[0].read_bytes() == first
    assert [is_volume(Path(name)) for name in ("a.nii", "a.NII.GZ", "a.png", "nii")] == [True, True, False, False]


def test_a_mask_that_numbers_structures_is_refused_not_united(tmp_path):
    volume, _ = write(tmp_path, block())
    numbered = (block() > 0).astype(np.uint8)
    numbered[3] *= 2
    write_volume(tmp_path / "numbered.nii.gz", numbered, AFFINE)
    with pytest.raises(UserError, match=r"numbered\.nii\.gz has several values beside 0 \(1 to 2\)"):
        read_with_masks(volume, [tmp_path / "numbered.nii.gz"], (2.0, 3.0, 4.0))
    write_volume(tmp_path / "threes.nii.gz", (block() > 0) * np.uint8(3), AFFINE)
    masks = read_with_masks(volume, [tmp_path / "threes.nii.gz"], (2.0, 3.0, 4.0))[1]
    assert (masks[0].numpy() == (block() > 0)).all()


@pytest.mark.parametrize(("order", "flipped"), [((0, 1, 2), ()), ((2, 0, 1), (1,))])
def test_a_structure_between_the_voxels_is_not_lost(tmp_path, order, flipped):
    mask = np.zeros((12, 16, 20), np.uint8)
    mask[5, 9, 14] = 1
    volume, place = reoriented(block(), order, flipped)
    write_volume(tmp_path / "v.nii.gz", volume, place)
    write_volume(tmp_path / "m.nii.gz", *reoriented(mask, order, flipped))
    masks = read_with_masks(tmp_path / "v.nii.gz", [tmp_path / "m.nii.gz"], (6.0, 9.0, 12.0))[1]
    assert np.argwhere(masks[0].numpy()).tolist() == [[2, 3, 5]]  # to the nearest third
