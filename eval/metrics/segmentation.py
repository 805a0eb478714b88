"""Dice and Hausdorff distance of masks, by MONAI."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from sdcxr.runtime.errors import UserError


def dice(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Dice of each mask: twice the common pixels over the sum of both (Dice 1945); NaN where the truth is empty.

    Args:
        predicted: bool, (images, H, W), or (volumes, X, Y, Z).
        truth: bool, of the same shape.
    """
    from torch import from_numpy

    with _monai():
        from monai.metrics import compute_dice

        values = compute_dice(*(from_numpy(masks[:, None].astype(np.float32)) for masks in (predicted, truth)))
    return np.where(truth.any(axis=_space(truth)), values.numpy()[:, 0], np.nan)


def hausdorff95(predicted: np.ndarray, truth: np.ndarray, spacing: Sequence[float] | None = None) -> np.ndarray:
    """95th percentile of the distances between both borders, the larger of the two directions.

    NaN where the truth is empty. Where nothing is predicted of a structure that is there, the diagonal of the image: no
    distance is larger.

    Args:
        predicted: bool, (images, H, W), or (volumes, X, Y, Z).
        truth: bool, of the same shape.
        spacing: size of a pixel or voxel along each axis, in the unit of the result. Default: 1.
    """
    from torch import from_numpy

    sides = np.array(truth.shape[1:]) * (1.0 if spacing is None else np.array(spacing))
    both = predicted.any(axis=_space(truth)) & truth.any(axis=_space(truth))
    values = np.where(truth.any(axis=_space(truth)), float(np.linalg.norm(sides)), np.nan)
    if both.any():
        with _monai():
            from monai.metrics import compute_hausdorff_distance

            masks = (from_numpy(masks[both, None].astype(np.float32)) for masks in (predicted, truth))
            options = {"include_background": True, "percentile": 95, "spacing": spacing and list(spacing)}
            values[both] = compute_hausdorff_distance(*masks, **options).numpy()[:, 0]
    return values


def _space(masks: np.ndarray) -> tuple[int, ...]:
    """The axes of an image or volume among those of a batch."""
    return tuple(range(1, masks.ndim))


@contextmanager
def _monai() -> Iterator[None]:
    """A context in which MONAI may be imported and used; its warnings of itself and of empty masks are not shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except ImportError:
            raise UserError("eval.segmentation needs pip install sdcxr[segmentation]") from None
