"""Training examples of volumes with masks: patches, drawn in training and central for validation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sdcxr.data.examples import WithMasks, expose
from sdcxr.io.volumes import LOWEST, quiet_monai, read_with_masks


class SegmentationVolumes(WithMasks):
    """Patches (1, side, side, side) float32 in [-1, 1] with masks (structures, side, side, side), as of images.

    Augmented, the patch is drawn, every second around a structure, and exposed anew. `spacing_mm`: size of the voxels
    that the network reads.
    """

    def __init__(self, *about: Any, spacing_mm: Sequence[float], **more: Any):
        super().__init__(*about, **more)
        self.spacing_mm = spacing_mm

    def example(self, index: int, draws: np.random.Generator) -> dict[str, Any]:
        volume, masks = read_with_masks(self.paths[index], self.masks[index], self.spacing_mm)
        both = patch(volume, masks, self.resolution, draws if self.augmented else None)
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
