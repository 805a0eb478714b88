"""Training examples of volumes with masks: patches, drawn in training and central for validation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdcxr.data.examples import expose
from sdcxr.io.volumes import LOWEST, quiet_monai, read_with_masks


class SegmentationVolumes:
    """Patches (1, side, side, side) float32 in [-1, 1] with masks (structures, side, side, side), as of images.

    Args:
        paths: of the volumes.
        ids: of the volumes.
        masks: path of the mask of each structure of each volume, or None.
        spacing_mm: size of the voxels that the network reads.
        side: of a patch in voxels.
        augmented: whether the patch is drawn, every second around a structure, and exposed anew, as in training.
        digest: hash of the mask files, of examples that are to be told from others.
    """

    def __init__(
        self,
        paths: list[Path],
        ids: list[str],
        masks: list[list[Path | None]],
        spacing_mm: Sequence[float],
        side: int,
        augmented: bool = True,
        digest: str = "",
    ):
        self.paths, self.ids, self.masks, self.spacing_mm = paths, ids, masks, spacing_mm
        self.side, self.augmented, self.digest = side, augmented, digest

    def content(self) -> dict[str, np.ndarray]:
        there = np.array([[mask is not None for mask in masks] for masks in self.masks])
        return {"masks": there, "mask files": np.frombuffer(self.digest.encode(), dtype=np.uint8)}

    def example(self, index: int, draws: np.random.Generator) -> dict[str, Any]:
        volume, masks = read_with_masks(self.paths[index], self.masks[index], self.spacing_mm)
        both = patch(volume, masks, self.side, draws if self.augmented else None)
        pixels, masks = both[:1], both[1:]
        return {"pixels": expose(pixels, draws) if self.augmented else pixels, "masks": masks}


def patch(
    volume: torch.Tensor, masks: torch.Tensor, side: int, draws: np.random.Generator | None = None
) -> torch.Tensor:
    """A cube of a volume and its masks (1 + structures, side, side, side), padded where the volume is smaller.

    Args:
        volume: (1, X, Y, Z).
        masks: (structures, X, Y, Z), NaN where unknown.
        side: in voxels.
        draws: of where it lies: with equal probability around a voxel of a structure or another one. Default: centre.
    """
    with quiet_monai():
        from monai.transforms import CenterSpatialCrop, RandCropByPosNegLabel, SpatialPad

        size = (side,) * 3
        unknown = masks.flatten(1).isnan().any(dim=1)
        outside = ((volume, LOWEST), (masks.nan_to_num(0.0), 0.0))
        both = torch.cat([SpatialPad(size, value=value)(each).as_tensor() for each, value in outside])
        if draws is None:
            cropped = CenterSpatialCrop(size)(both)
        else:
            crop = RandCropByPosNegLabel(size, label=both[1:].amax(dim=0, keepdim=True))
            crop.set_random_state(int(draws.integers(1 << 32)))
            (cropped,) = crop(both)
    found: torch.Tensor = cropped.as_tensor().contiguous()
    found[1:][unknown] = torch.nan
    return found
