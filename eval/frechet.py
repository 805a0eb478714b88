"""Fréchet distance between Gaussians fitted to two sets of features (FID, FD-x), and its limit for many images."""

from collections.abc import Sequence

import numpy as np

from eval.arrays import checked
from sdcxr.errors import UserError


def frechet_distance(real: np.ndarray, synthetic: np.ndarray) -> float:
    """|μx − μy|² + tr(Σx + Σy − 2 (Σx Σy)^½), covariances with N − 1 (Heusel et al. 2017, arXiv 1706.08500).

    Biased upward: for equal isotropic distributions of dimension d and N images a side by about 2d/N + d(d + 1)/(2N)
    times the variance. So compare only at equal N, beside a real-against-real floor.

    Args:
        real: features, shape (n_real, dimension), n_real at least 2.
        synthetic: features, shape (n_synthetic, dimension).

    Returns:
        0 or more, in squared units of the features; 0 for equal arrays.

    Raises:
        UserError: too few rows, dimensions that differ, values that are not finite.
    """
    real, synthetic = checked(real, synthetic)
    return frechet_of_moments(*moments(real), *moments(synthetic))


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (dimension,) and unbiased covariance (dimension, dimension), in float64, of features (n, dimension)."""
    mean = features.mean(axis=0, dtype=np.float64)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def frechet_of_moments(
    mean_x: np.ndarray, covariance_x: np.ndarray, mean_y: np.ndarray, covariance_y: np.ndarray
) -> float:
    """The distance from the moments themselves; formula and range as in `frechet_distance`."""
    return _distance(mean_x, _root(covariance_x), mean_y, covariance_y)


def frechet_infinity(
    real: np.ndarray,
    synthetic: np.ndarray,
    sizes: Sequence[int] | None = None,
    points: int = 15,
    seed: int = 0,
) -> float:
    """The distance for endlessly many synthetic images: a line fitted to it over 1/N, read at 0.

    After Chong & Forsyth 2020 (arXiv 1911.07023); as there and in dgm-eval only the synthetic side is thinned, so what
    the finite real side adds stays. The smallest subset has as many images as dimensions, or half of all if
    that is less: below that the distance is no longer linear in 1/N.

    Args:
        real: features, shape (n_real, dimension).
        synthetic: features, shape (n_synthetic, dimension).
        sizes: numbers of synthetic images to measure at; default: `points` of them, evenly up to all.
        points: how many, where `sizes` is not given.
        seed: of the subsets, drawn without replacement.

    Returns:
        The intercept. May be slightly negative for equal distributions.

    Raises:
        UserError: see `frechet_distance`; or a size is below 2 or above the number of synthetic images.
    """
    real, synthetic = checked(real, synthetic)
    n, dimension = synthetic.shape
    if sizes is None:
        sizes = np.linspace(max(n // 10, min(dimension, n // 2), 2), n, points).astype(int).tolist()
    if len(set(sizes)) < 2 or min(sizes) < 2 or max(sizes) > n:
        raise UserError(f"FD∞ needs two different subset sizes of 2 to {n} synthetic images, got {sorted(set(sizes))}")
    generator = np.random.default_rng(seed)
    mean, covariance = moments(real)
    root = _root(covariance)
    distances = [_distance(mean, root, *moments(synthetic[generator.choice(n, size, replace=False)])) for size in sizes]
    return float(np.polyfit(1 / np.asarray(sizes, float), distances, 1)[1])


def _root(covariance: np.ndarray) -> np.ndarray:
    """R (rank, dimension) with RᵀR = covariance; directions of no variance beyond rounding are left out."""
    variances, axes = np.linalg.eigh(covariance)
    kept = variances > len(variances) * np.finfo(float).eps * max(variances[-1], 0)
    return (axes[:, kept] * np.sqrt(variances[kept])).T


def _distance(mean_x: np.ndarray, root_x: np.ndarray, mean_y: np.ndarray, covariance_y: np.ndarray) -> float:
    """Σx Σy has the eigenvalues of Rx Σy Rxᵀ, which is symmetric: real, not complex, eigenvalues, ten times as fast."""
    shift = mean_x - mean_y
    product = np.linalg.eigvalsh(root_x @ covariance_y @ root_x.T)
    if len(product):  # rounding of the largest would enter as its square root
        product[product < len(product) * np.finfo(float).eps * product[-1]] = 0
    distance = shift @ shift + (root_x**2).sum() + np.trace(covariance_y) - 2 * np.sqrt(product).sum()
    return float(max(distance, 0.0))
