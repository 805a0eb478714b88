"""Fréchet distance (FID, FD) of two sets of features, and its extrapolation to infinitely many images (FID∞)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.metrics.bootstrap import validate_features
from sdcxr.runtime.errors import UserError


def frechet_distance(real: np.ndarray, synthetic: np.ndarray) -> float:
    """|μx − μy|² + tr(Σx + Σy − 2 (Σx Σy)^½), covariances with N − 1 (Heusel et al. 2017, arXiv 1706.08500).

    Biased upward: for equal isotropic distributions of dimension d with N images a side by about 2d/N + d(d + 1)/(2N)
    times the variance. Compare only at equal N, beside a real-against-real floor.

    Args:
        real: features, shape (n_real, dimension), n_real at least 2.
        synthetic: features, shape (n_synthetic, dimension).

    Returns:
        0 or more, in squared units of the features; 0 for equal arrays.

    Raises:
        UserError: there are too few rows, dimensions differ, values are not finite.
    """
    real, synthetic = validate_features(real, synthetic)
    return _distance(_fit(real), _fit(synthetic))


def frechet_of_moments(
    mean_x: np.ndarray, covariance_x: np.ndarray, mean_y: np.ndarray, covariance_y: np.ndarray
) -> float:
    """The distance from means (dimension,) and covariances (dimension, dimension), float64; see `frechet_distance`."""
    return _distance(_of_moments(mean_x, covariance_x), _of_moments(mean_y, covariance_y))


def frechet_infinity(
    real: np.ndarray,
    synthetic: np.ndarray,
    sizes: Sequence[int] | None = None,
    points: int = 15,
    seed: int = 0,
) -> float:
    """The distance for infinitely many synthetic images: intercept of a line fitted over 1/N.

    Chong & Forsyth 2020 (arXiv 1911.07023). As there and in dgm-eval only the synthetic side is subsampled, so the bias
    of the finite real side remains. The smallest subset has as many images as dimensions, or half of all if that is
    less: below, the distance is not linear in 1/N.

    Args:
        real: features, shape (n_real, dimension).
        synthetic: features, shape (n_synthetic, dimension).
        sizes: sizes of the synthetic subsets; default: `points` evenly spaced ones up to all.
        points: number of sizes if `sizes` is not given.
        seed: of the subsets, drawn without replacement.

    Returns:
        The intercept. May be slightly negative for equal distributions.

    Raises:
        UserError: see `frechet_distance`; or a size is below 2 or above the number of synthetic images.
    """
    real, synthetic = validate_features(real, synthetic)
    n, dimension = synthetic.shape
    if sizes is None:
        sizes = np.linspace(max(n // 10, min(dimension, n // 2), 2), n, points).astype(int).tolist()
    if len(set(sizes)) < 2 or min(sizes) < 2 or max(sizes) > n:
        raise UserError(f"FD∞ needs two different subset sizes of 2 to {n} synthetic images, got {sorted(set(sizes))}")
    generator = np.random.default_rng(seed)
    gaussian = _fit(real)
    distances = [_distance(gaussian, _fit(synthetic[generator.choice(n, size, replace=False)])) for size in sizes]
    return float(np.polyfit(1 / np.asarray(sizes, float), distances, 1)[1])


@dataclass(frozen=True)
class _Gaussian:
    """A normal distribution: mean (dimension,) and a root R (rows, dimension) with RᵀR = covariance."""

    mean: np.ndarray
    root: np.ndarray


def _fit(features: np.ndarray) -> _Gaussian:
    mean = features.mean(axis=0)
    rows = (features - mean) / np.sqrt(len(features) - 1)
    return _Gaussian(mean, np.asarray(np.linalg.qr(rows, "r")) if len(rows) > rows.shape[1] else rows)


def _of_moments(mean: np.ndarray, covariance: np.ndarray) -> _Gaussian:
    variances, axes = np.linalg.eigh(covariance)
    return _Gaussian(mean, (axes * np.sqrt(np.maximum(variances, 0))).T)


def _distance(x: _Gaussian, y: _Gaussian) -> float:
    """tr (Σx Σy)^½ is the sum of the singular values of Rx Ryᵀ, whose squares are the eigenvalues of Σx Σy.

    Square roots of these eigenvalues would lose all directions with a variance below 1e-7 of the largest.
    """
    shift = x.mean - y.mean
    common = np.linalg.svd(x.root @ y.root.T, compute_uv=False).sum()
    return float(max(shift @ shift + (x.root**2).sum() + (y.root**2).sum() - 2 * common, 0))
