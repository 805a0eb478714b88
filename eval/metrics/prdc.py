"""Precision, recall, density and coverage (PRDC) of two sets of features, of all images or many subsets in one pass."""

import numpy as np

from eval.metrics.bootstrap import validate_features
from sdcxr.runtime.errors import UserError

ROWS = 512  # of a distance matrix held at once
NAMES = ("precision", "recall", "density", "coverage")


def prdc(real: np.ndarray, synthetic: np.ndarray, k: int = 5) -> dict[str, float]:
    """Precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991), density and coverage (Naeem et al. 2020).

    Density and coverage: arXiv 2002.09797. The ball of an image extends to the k-th nearest other image of its own side
    and excludes its boundary, as in the code of Naeem et al.

    * precision: share of synthetic images in at least one real ball;
    * recall: share of real images in at least one synthetic ball;
    * density: number of real balls around a synthetic image over k; may exceed 1;
    * coverage: share of real images whose ball contains a synthetic image.

    All four depend on the numbers of images: use equal numbers. The sides are not interchangeable.

    Args:
        real: features, shape (n_real, dimension).
        synthetic: features, shape (n_synthetic, dimension).
        k: number of the neighbour; 5 in the density and coverage paper, 3 in the precision and recall paper.

    Returns:
        The four by name. The first two and the last lie in [0, 1].

    Raises:
        UserError: a side has fewer than k + 2 rows, or all its rows are equal (balls of size 0); dimensions differ;
            values are not finite.
    """
    return {name: float(values[0]) for name, values in prdc_of_subsets(real, synthetic, k).items()}


def prdc_of_subsets(
    real: np.ndarray,
    synthetic: np.ndarray,
    k: int = 5,
    members_real: np.ndarray | None = None,
    members_synthetic: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """`prdc` of many pairs of subsets in one pass over the distances: arrays of shape (subsets,) by name.

    Members are boolean, shapes (n_real, subsets) and (n_synthetic, subsets): the rows of each subset; by default all.

    Raises:
        UserError: as in `prdc`, for the smallest subset.
    """
    real, synthetic = validate_features(real, synthetic)
    members_real = np.ones((len(real), 1), bool) if members_real is None else members_real
    members_synthetic = np.ones((len(synthetic), 1), bool) if members_synthetic is None else members_synthetic
    for side, features, members in (("real", real, members_real), ("synthetic", synthetic, members_synthetic)):
        fewest = int(members.sum(axis=0).min())
        if k < 1 or fewest < k + 2:
            raise UserError(
                f"neighbourhoods of k = {k} need k + 2 images a side (k at least 1), got {fewest} {side} ones"
            )
        if (features == features[0]).all():
            raise UserError(
                f"all {len(features)} {side} feature rows are equal: there are no neighbourhoods to compare"
            )
    centre = np.median(real, axis=0)  # |x|² + |y|² − 2 x·y loses less precision near the origin
    real, synthetic = real - centre, synthetic - centre
    radii_real, radii_synthetic = _radii(real, k, members_real), _radii(synthetic, k, members_synthetic)
    return _count(real, synthetic, k, members_real, members_synthetic, radii_real, radii_synthetic)


def _count(
    real: np.ndarray,
    synthetic: np.ndarray,
    k: int,
    members_real: np.ndarray,
    members_synthetic: np.ndarray,
    radii_real: np.ndarray,
    radii_synthetic: np.ndarray,
) -> dict[str, np.ndarray]:
    """The four metrics of every pair of subsets, from counts of images in balls."""
    subsets = members_real.shape[1]
    in_real_ball = np.zeros((len(synthetic), subsets), bool)
    recalled, pairs, covered = np.zeros(subsets), np.zeros(subsets), np.zeros(subsets)
    columns_of = [np.flatnonzero(members_synthetic[:, subset]) for subset in range(subsets)]
    for start in range(0, len(real), ROWS):
        squared = _squared_distances(real[start : start + ROWS], synthetic)
        for subset, columns in enumerate(columns_of):
            rows = np.flatnonzero(members_real[start : start + ROWS, subset])
            chosen = squared[np.ix_(rows, columns)]
            inside = chosen < radii_real[start + rows, subset][:, None]
            in_real_ball[columns, subset] |= inside.any(axis=0)
            pairs[subset] += np.count_nonzero(inside)
            covered[subset] += np.count_nonzero(inside.any(axis=1))
            recalled[subset] += np.count_nonzero((chosen < radii_synthetic[columns, subset]).any(axis=1))
    n_real, n_synthetic = members_real.sum(axis=0), members_synthetic.sum(axis=0)
    values = (in_real_ball.sum(axis=0) / n_synthetic, recalled / n_real, pairs / (k * n_synthetic), covered / n_real)
    return dict(zip(NAMES, values, strict=True))


def _radii(x: np.ndarray, k: int, members: np.ndarray) -> np.ndarray:
    """Squared distance of every row to its k-th nearest other row in each subset, minus rounding, shape (n, subsets).

    The nearest neighbours of a row are listed once; the k-th in a subset is the k-th of the list that is a member.
    """
    n, subsets = members.shape
    listed = min(n - 1, k if members.all() else 6 * k + 30)  # enough for half-samples; the loop below handles the rest
    radii = np.empty((n, subsets))
    for start in range(0, n, ROWS):
        squared = _squared_distances(x[start : start + ROWS], x)
        own = np.arange(len(squared))
        squared[own, start + own] = np.inf
        nearest = np.argpartition(squared, listed - 1, axis=1)[:, :listed]
        nearest = np.take_along_axis(nearest, np.take_along_axis(squared, nearest, axis=1).argsort(axis=1), axis=1)
        distances = np.take_along_axis(squared, nearest, axis=1)
        for subset in range(subsets):
            found = members[nearest, subset].cumsum(axis=1)
            radii[start + own, subset] = distances[own, (found >= k).argmax(axis=1)]
            for row in np.flatnonzero(found[:, -1] < k):  # rows with fewer than k members in the list
                radii[start + row, subset] = np.partition(squared[row, members[:, subset]], k - 1)[k - 1]
    # Distances that differ by rounding only are equal, and the boundary is outside.
    return radii - 1e-13 * (radii + (x**2).sum(axis=1)[:, None])


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    squared = x @ y.T
    squared *= -2
    squared += (x**2).sum(axis=1)[:, None]
    squared += (y**2).sum(axis=1)
    return np.maximum(squared, 0, out=squared)
