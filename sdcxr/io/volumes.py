"""NIfTI volumes with masks, read with one orientation and one size of voxels; needs `pip install sdcxr[volumes]`."""

import gzip
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdcxr.io.files import atomic
from sdcxr.runtime.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".nii", ".nii.gz")
PACKAGES = ("monai", "nibabel", "einops")
PERCENTILES = (0.5, 99.5)  # of a volume's values: -1 and 1 of what a network reads
LOWEST = -1.0
DAMAGE = (
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    zlib.error,
)  # beside nibabel's own, of damaged files and colours
SAME_PLACE = 1e-2  # mm; how far a mask's grid may be from that of its volume


def is_volume(path: Path) -> bool:
    """Whether a file is a NIfTI volume by its name."""
    return path.name.lower().endswith(SUFFIXES)


def require_packages() -> None:
    """Raise a `UserError` if a package that volumes need is not installed; none is imported."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"volumes (.nii) need pip install sdcxr[volumes]: {missing[0]} is not installed")


@contextmanager
def quiet_monai() -> Iterator[None]:
    """Inside the block MONAI does not warn of itself, of other libraries, or of crops without any structure."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def voxel_sizes(path: Path) -> np.ndarray:
    """Size in mm of a volume's voxels along the patient's axes (right, anterior, superior), shape (3,).

    Raises:
        UserError: the file is missing, no NIfTI volume, or of other than three dimensions.
    """
    from nibabel import affines, orientations

    with _named_errors(path):
        affine = _open(path).affine
        sizes = np.empty(3)
        sizes[orientations.io_orientation(affine)[:, 0].astype(int)] = affines.voxel_sizes(affine)
    return sizes


def read_with_masks(path: Path, masks: Sequence[Path | None], spacing_mm: Sequence[float]) -> tuple["Tensor", "Tensor"]:
    """A volume (1, X, Y, Z) float32 in [-1, 1], and masks (n, X, Y, Z) of 1 and 0, NaN where one is unknown.

    Axes point to the patient's right, front and top. The values are scaled by their `PERCENTILES`, and cut there.

    Args:
        path: the NIfTI file.
        masks: those of its structures on the same grid, of 0 and one other value; None: unknown.
        spacing_mm: size of the voxels, to which all are resampled (masks to the nearest).

    Raises:
        UserError: a file is missing or damaged, or has other than three dimensions; a mask lies elsewhere, or numbers
            several structures.
    """
    import torch

    with quiet_monai():
        from monai.transforms import ScaleIntensityRangePercentiles

        values, affine = _load(path)
        scale = ScaleIntensityRangePercentiles(*PERCENTILES, LOWEST, 1.0, clip=True)
        volume = scale(_resampled(values, affine, spacing_mm, "bilinear")).as_tensor().float()
        planes = torch.full((len(masks), *volume.shape[1:]), torch.nan)
        for plane, mask in zip(planes, masks, strict=True):
            if mask is not None:
                inside, place = _load(mask)
                if inside.shape != values.shape or not np.allclose(place, affine, atol=SAME_PLACE):
                    raise UserError(f"{mask} does not lie on the grid of its volume {path.name}: resample it to that")
                _check_two_levels(inside, mask)
                plane[:] = _resampled_mask(inside, place, spacing_mm)
    return volume, planes


def write_volume(path: Path, values: np.ndarray, affine: np.ndarray) -> None:
    """Write a volume (X, Y, Z) atomically as .nii.gz; the same values give the same bytes.

    Args:
        path: where to.
        values: of a type that NIfTI has (int16, uint8, float32).
        affine: from voxels to mm (right, anterior, superior), shape (4, 4).
    """
    import nibabel

    with atomic(path) as temporary:
        temporary.write_bytes(gzip.compress(nibabel.Nifti1Image(values, affine).to_bytes(), mtime=0))


def _open(path: Path) -> Any:
    import nibabel

    image: Any = nibabel.load(path)
    if len(image.shape) < 3 or any(size != 1 for size in image.shape[3:]):
        raise UserError(f"{path} has {len(image.shape)} dimensions: volumes of three are read")
    return image


def _load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values, float32 (X, Y, Z), and the affine of a file."""
    with _named_errors(path):
        image = _open(path)
        values = np.asarray(image.dataobj, dtype=np.float32).reshape(image.shape[:3])
    if not np.isfinite(values).all():
        raise UserError(f"{path} has values that are not finite")
    return values, image.affine


def _check_two_levels(mask: np.ndarray, path: Path) -> None:
    """Raise a `UserError` if a mask numbers several structures: it would be read as their union."""
    levels = mask[mask != 0]
    if levels.size and levels.min() != levels.max():
        raise UserError(
            f"{path} has several values beside 0 ({levels.min():g} to {levels.max():g}): one file per structure is read"
        )


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} is named in metadata.csv and does not exist: complete the folder") from None
    except (ImageFileError, HeaderDataError, OSError, *DAMAGE) as error:
        reason = " ".join(str(error).replace(str(path), path.name).split())[:200]
        raise UserError(f"{path} is named in metadata.csv and cannot be read ({reason}): copy it again") from None


def _resampled_mask(mask: np.ndarray, affine: np.ndarray, spacing_mm: Sequence[float]) -> "Tensor":
    """A mask (X, Y, Z) of 1 and 0; where all of it falls between the voxels, the one nearest to its middle is 1."""
    resampled = _resampled((mask != 0).astype(np.float32), affine, spacing_mm, "nearest")
    found: Tensor = resampled.as_tensor()[0]
    if not found.any() and (voxels := np.argwhere(mask)).size:
        to_index = np.linalg.inv(np.asarray(resampled.affine)) @ affine
        index = np.rint(to_index[:3, :3] @ voxels[len(voxels) // 2] + to_index[:3, 3]).astype(int)
        found[tuple(index.clip(0, np.array(found.shape) - 1))] = 1.0
    return found


def _resampled(values: np.ndarray, affine: np.ndarray, spacing_mm: Sequence[float], mode: str) -> Any:
    """A MetaTensor (1, X, Y, Z)."""
    import torch
    from monai.data import MetaTensor
    from monai.transforms import Orientation, Spacing

    upright = Orientation("RAS", labels=None)(MetaTensor(torch.from_numpy(values)[None], torch.from_numpy(affine)))
    return Spacing(spacing_mm, mode=mode)(upright)
