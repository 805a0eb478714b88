"""Kernel inception distance (KID) and CMMD: maximum mean discrepancies, of all images or many subsets in one pass."""

from collections.abc import Callable

import numpy as np

from eval.metrics.bootstrap import random_subsets, validate_features
from sdcxr.runtime.errors import UserError

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]

ROWS = 512  # of a kernel matrix held at once


def polynomial(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """KID's kernel (x·y / dimension + 1)³, shape (len(x), len(y)) (Bińkowski et al. 2018, arXiv 1801.01401)."""
    base = x @ y.T
    base /= x.shape[1]
    base += 1
    return base * base * base


def gaussian(x: np.ndarray, y: np.ndarray, sigma: float = 10.0) -> np.ndarray:
    """CMMD's kernel exp(−|x − y|² / 2σ²), shape (len(x), len(y)) (Jayasumana et al. 2024, arXiv 2401.09603)."""
    squared = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * (x @ y.T)
    return np.exp(np.maximum(squared, 0) / (-2 * sigma**2))


def mmd2(
    x: np.ndarray,
    y: np.ndarray,
    kernel: Kernel,
    members_x: np.ndarray | None = None,
    members_y: np.ndarray | None = None,
    unbiased: bool = True,
) -> np.ndarray:
    """Squared maximum mean discrepancy (Gretton et al. 2012, JMLR 13) of one or many pairs of subsets.

    Unbiased: mean k(x, x') over pairs of different rows, likewise for y, minus twice the mean of all k(x, y); it may be
    negative, and for x = y it is 0 or less. Biased: pairs of a row with itself count too; 0 or more.

    Args:
        x: float64, shape (n, dimension).
        y: float64, shape (m, dimension).
        kernel: function of two sets of rows that returns their kernel matrix.
        members_x: boolean, shape (n, subsets): the rows of each subset, 2 or more; default: one subset of all.
        members_y: boolean, shape (m, subsets).
        unbiased: which estimator.

    Returns:
        Shape (subsets,). The kernel matrices are computed once for all subsets, in blocks of rows.
    """
    weights_x, weights_y = _weights(x, members_x), _weights(y, members_y)
    n, m = weights_x.sum(axis=0), weights_y.sum(axis=0)
    within_x, within_y = _within(x, weights_x, kernel), _within(y, weights_y, kernel)
    across = np.zeros(weights_x.shape[1])
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        across += (weights_x[rows] * (kernel(x[rows], y) @ weights_y)).sum(axis=0)
    if unbiased:
        within_x -= _diagonal(x, kernel) @ weights_x
        within_y -= _diagonal(y, kernel) @ weights_y
        return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * across / (n * m)
    return within_x / n**2 + within_y / m**2 - 2 * across / (n * m)


def kid(real: np.ndarray, synthetic: np.ndarray) -> float:
    """Kernel inception distance (KID) of all images: unbiased `mmd2` with the `polynomial` kernel.

    The mean over random subsets estimates the same with more noise. Unbiased at every N, so comparable across N. Of
    features (n_real, dimension) and (n_synthetic, dimension); about 0 for equal distributions, also negative.

    Raises:
        UserError: fewer than two rows, dimensions that differ, values that are not finite.
    """
    real, synthetic = validate_features(real, synthetic)
    return float(mmd2(real, synthetic, polynomial)[0])


def kid_subsets(
    real: np.ndarray, synthetic: np.ndarray, size: int = 1000, count: int = 100, seed: int = 0
) -> tuple[float, float]:
    """KID as usually reported: mean and standard deviation (divisor `count`) over random subsets of both sides.

    Features are those of `kid`; a subset has `size` images of each side, drawn without replacement.

    Raises:
        UserError: see `kid`; or a side has no more than `size` images: all subsets would be the same, and the standard
            deviation 0.
    """
    real, synthetic = validate_features(real, synthetic)
    members = subsets_for_kid(len(real), len(synthetic), size, count, seed)
    values = mmd2(real, synthetic, polynomial, *members)
    return float(values.mean()), float(values.std())


def subsets_for_kid(n_real: int, n_synthetic: int, size: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The subsets of `kid_subsets`, as boolean arrays (n_real, count) and (n_synthetic, count)."""
    if size < 2 or size >= min(n_real, n_synthetic):
        raise UserError(
            f"KID subsets of {size} images need more images on both sides, and 2 or more in a subset; there are "
            f"{n_real} real and {n_synthetic} synthetic images: use smaller subsets, or KID of all images"
        )
    generator = np.random.default_rng(seed)
    return random_subsets(n_real, size, count, generator), random_subsets(n_synthetic, size, count, generator)


def cmmd(real: np.ndarray, synthetic: np.ndarray) -> float:
    """CMMD: 1000 × biased `mmd2` of rows scaled to length 1, `gaussian` kernel with σ = 10 (arXiv 2401.09603).

    Biased upward by about 1000 · 2 (1 − mean k) / N, at most 19.9 / N: compare at equal N. Of features
    (n_real, dimension) and (n_synthetic, dimension), in the paper those of CLIP ViT-L/14-336; from 0 (equal sets) to
    1000 · (2 − 2 e^(−1/50)) = 39.6.

    Raises:
        UserError: see `kid`; or a row is all zeros and has no direction.
    """
    real, synthetic = validate_features(real, synthetic)
    return float(1000 * mmd2(unit_rows(real), unit_rows(synthetic), gaussian, unbiased=False)[0])


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Rows of shape (n, dimension) scaled to Euclidean length 1.

    Raises:
        UserError: a row is all zeros.
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    if not lengths.all():
        raise UserError(f"{(lengths == 0).sum()} of {len(features)} feature rows are all zeros: they have no direction")
    return features / lengths


def _weights(x: np.ndarray, members: np.ndarray | None) -> np.ndarray:
    return np.ones((len(x), 1)) if members is None else members.astype(np.float64)


def _within(x: np.ndarray, weights: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Σᵢⱼ wᵢ wⱼ k(xᵢ, xⱼ) for each column of weights; entries right of a diagonal block count twice."""
    total = np.zeros(weights.shape[1])
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        counted = 2 * weights[start:]
        counted[:ROWS] = weights[rows]
        total += (weights[rows] * (kernel(x[rows], x[start:]) @ counted)).sum(axis=0)
    return total


def _diagonal(x: np.ndarray, kernel: Kernel) -> np.ndarray:
    """k(xᵢ, xᵢ) of every row, from small blocks on the diagonal."""
    blocks = [np.diagonal(kernel(x[start : start + 64], x[start : start + 64])) for start in range(0, len(x), 64)]
    return np.concatenate(blocks)
