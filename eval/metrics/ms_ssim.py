"""Multi-scale structural similarity (MS-SSIM) of grey images."""

import numpy as np

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales from fine to coarse (Wang et al. 2003)
WINDOW, SIGMA = 11, 1.5  # of the Gaussian window, in pixels
C1, C2 = 0.01**2, 0.03**2  # for values in [0, 1]


def n_scales(size: int) -> int:
    """Number of scales, up to five, at which the window fits into an image (all five from 176 pixels on).

    Args:
        size: the shorter side in pixels.
    """
    return sum(size // 2**scale >= WINDOW for scale in range(len(WEIGHTS)))


def ms_ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """MS-SSIM of pairs of images (Wang, Simoncelli, Bovik 2003) for the data range 1.

    Images too small for five scales use fewer, with weights scaled to the same sum; values of different numbers of
    scales are not comparable.

    Args:
        first: float in [0, 1], shape (pairs, height, width); uint8 raises a TypeError.
        second: the same.

    Returns:
        float64 of shape (pairs,): 1 for equal images, NaN for images below 11 pixels.
    """
    import torch

    if not (np.issubdtype(first.dtype, np.floating) and np.issubdtype(second.dtype, np.floating)):
        raise TypeError("ms_ssim takes floats in [0, 1]")
    scales = n_scales(min(first.shape[1:]))
    if not scales:
        return np.full(len(first), np.nan)
    offsets = torch.arange(WINDOW) - WINDOW // 2
    kernel = torch.exp(-(offsets.double() ** 2) / (2 * SIGMA**2))
    kernel /= kernel.sum()

    def blur(images: torch.Tensor) -> torch.Tensor:
        rows = torch.nn.functional.conv2d(images, kernel.to(images)[None, None, None])
        return torch.nn.functional.conv2d(rows, kernel.to(images)[None, None, :, None])

    x, y = (torch.from_numpy(np.ascontiguousarray(images))[:, None] for images in (first, second))
    weights = torch.tensor(WEIGHTS[:scales]) * (sum(WEIGHTS) / sum(WEIGHTS[:scales]))
    value = torch.ones(len(first), dtype=torch.float64)
    for scale in range(scales):
        mean_x, mean_y = blur(x), blur(y)
        variance = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
        covariance = blur(x * y) - mean_x * mean_y
        structure = (2 * covariance + C2) / (variance + C2)
        if scale == scales - 1:
            structure = structure * (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
        # Negative means have no real power; like other implementations take zero.
        value *= structure.mean(dim=(1, 2, 3)).clamp(min=0).double() ** weights[scale]
        x, y = torch.nn.functional.avg_pool2d(x, 2), torch.nn.functional.avg_pool2d(y, 2)
    return value.numpy()
