"""Scores of a classifier against labels, as pure functions of arrays, with bootstrap intervals."""

import numpy as np


def auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve as the Mann-Whitney statistic, ties counting one half.

    Args:
        labels: 1 and 0, NaN where unknown (left out), shape (n,).
        scores: any monotone score, shape (n,).

    Returns:
        The area in [0, 1]; NaN where only one class is known.
    """
    known = np.isfinite(labels)
    labels, scores = labels[known] == 1, scores[known]
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2  # of each distinct score, from 1
    rank_sum = mean_rank[inverse][labels].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def macro(labels: np.ndarray, scores: np.ndarray) -> float:
    """Mean AUROC over the columns in which both classes occur; NaN where there is none.

    Args:
        labels: shape (n, findings).
        scores: shape (n, findings).
    """
    areas = np.array([auroc(labels[:, j], scores[:, j]) for j in range(labels.shape[1])])
    return float(np.nanmean(areas)) if np.isfinite(areas).any() else float("nan")


def interval(
    labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, resamples: int = 200, seed: int = 0
) -> tuple[float, float]:
    """The 95 % bootstrap interval of `macro`, drawing whole groups (patients, or the images of one prompt).

    Args:
        labels: shape (n, findings).
        scores: shape (n, findings).
        groups: the group of each row, shape (n,).
        resamples: bootstrap samples.
        seed: of the draws.
    """
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    values = []
    for _ in range(resamples):
        rows = np.concatenate([members[i] for i in generator.integers(len(members), size=len(members))])
        values.append(macro(labels[rows], scores[rows]))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)
