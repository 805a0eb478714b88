"""Nearest neighbours among training and held-out images; AuthPct. Exhaustive search in chunks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.metrics.bootstrap import group_rows

DRAWS = 20  # of training images, as many as are held out
CELLS = 20_000_000  # of a distance matrix held at once: 160 MB


@dataclass(frozen=True)
class Nearness:
    """Whether training images are nearer to each query than held-out ones."""

    log_ratio: np.ndarray
    """log(distance to the nearest training image / distance to the nearest held-out image), shape (n,)."""
    nearer_train: np.ndarray
    """Share of draws in which the training image is nearer; ties count one half."""
    n_each: int
    """Training images in a draw, and held-out images."""


def nearness(
    queries: np.ndarray, train: np.ndarray, held_out: np.ndarray, train_groups: Sequence[str], seed: int = 0
) -> Nearness:
    """Distances to equally many training and held-out images; with more of one kind these would be nearer by chance.

    Training images are drawn DRAWS times, whole patients together, as in the held-out set.

    Args:
        queries: features, shape (n, dimension).
        train: shape (n_train, dimension).
        held_out: shape (n_held_out, dimension).
        train_groups: the patient of each training image.
        seed: of the draws.
    """
    generator = np.random.default_rng(seed)
    n_each = min(len(train), len(held_out))
    draws = [draw_patients(train_groups, n_each, generator) for _ in range(DRAWS)]
    to_train = nearest(queries, train, draws)[0]
    to_held_out = nearest(queries, held_out, [generator.permutation(len(held_out))[:n_each] for _ in range(DRAWS)])[0]
    scale = max(np.median(to_train), np.median(to_held_out))
    tiny = 1e-6 * scale + np.finfo(float).tiny  # rounding: smaller distances are those of equal images
    to_train, to_held_out = np.maximum(to_train, tiny), np.maximum(to_held_out, tiny)
    share = (to_train < to_held_out) + 0.5 * (to_train == to_held_out)
    return Nearness(np.log(to_train / to_held_out).mean(axis=1), share.mean(axis=1), n_each)


def draw_patients(groups: Sequence[str], n: int, generator: np.random.Generator) -> np.ndarray:
    """Row numbers of n images of random patients (groups), complete patients except for the last one."""
    members = group_rows(groups)
    return np.concatenate([members[i] for i in generator.permutation(len(members))])[:n]


def authentic(generated: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Which generated images are authentic (Alaa et al. 2022, arXiv 2102.08921); AuthPct is their share in per cent.

    An image is authentic if it is farther from its nearest training image than that one from its nearest neighbour.

    Args:
        generated: features, shape (n, dimension).
        train: shape (n_train, dimension), 2 or more.

    Returns:
        1 or 0 for each image, float, shape (n,).
    """
    everything = [np.arange(len(train))]
    distances, index = nearest(generated, train, everything)
    needed, place = np.unique(index[:, 0], return_inverse=True)
    to_other = nearest(train[needed], train, everything, itself=needed)[0][:, 0]
    return (distances[:, 0] > to_other[place]).astype(float)


def nearest(
    queries: np.ndarray, references: np.ndarray, subsets: Sequence[np.ndarray], itself: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distance to the nearest reference of each subset, and its row number.

    Args:
        queries: shape (n, dimension).
        references: shape (m, dimension).
        subsets: row numbers of references.
        itself: the reference that is the query itself and does not count, shape (n,).

    Returns:
        float64 distances and row numbers of references, both of shape (n, subsets).
    """
    centre = references.mean(axis=0, dtype=np.float64)  # |x|² + |y|² − 2 x·y loses less precision near the origin
    x, y = queries.astype(np.float64) - centre, references.astype(np.float64) - centre
    lengths = (y**2).sum(axis=1)
    distances, index = np.empty((len(x), len(subsets))), np.empty((len(x), len(subsets)), int)
    step = max(1, CELLS // len(y))
    for start in range(0, len(x), step):
        part = x[start : start + step]
        squared = (part**2).sum(axis=1)[:, None] + lengths - 2 * (part @ y.T)
        if itself is not None:
            squared[np.arange(len(part)), itself[start : start + step]] = np.inf
        for column, subset in enumerate(subsets):
            best = subset[squared[:, subset].argmin(axis=1)]
            index[start : start + step, column] = best
            distances[start : start + step, column] = np.linalg.norm(part - y[best], axis=1)  # exact even if small
    return distances, index
