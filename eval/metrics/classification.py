"""AUROC, average precision, F1 and Pearson correlation of classifier scores, weighted for bootstraps."""

from collections.abc import Callable

import numpy as np


class Ranking:
    """AUROC and average precision with sample weights, as scikit-learn computes them, but sorted only once.

    `roc_auc_score(labels, scores, sample_weight=weights)` sorts in every call; a bootstrap of a thousand weightings of
    the same scores needs one sort.

    Args:
        labels: 1 and 0, NaN where unknown (left out), shape (n,).
        scores: any monotone score, shape (n,).
    """

    def __init__(self, labels: np.ndarray, scores: np.ndarray):
        known = np.flatnonzero(np.isfinite(labels))
        self.rows = known[np.argsort(-scores[known], kind="stable")]
        self.positive = (labels[self.rows] == 1).astype(np.float64)
        ordered = scores[self.rows]
        self.ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) if len(ordered) else self.rows
        """The last row of each distinct score: a threshold passes equal scores together."""

    def auroc(self, weights: np.ndarray | None = None) -> float:
        """Area under the ROC curve: the share of correctly ordered pairs, ties counting one half; NaN for one class.

        Args:
            weights: how often each row counts, shape (n,); default: once.
        """
        hits, alarms = self._counts(weights)
        if not len(hits) or not hits[-1] or not alarms[-1]:
            return float("nan")
        before = np.concatenate([[0.0], hits[:-1]])
        area = np.sum(np.diff(alarms, prepend=0.0) * (hits + before)) / 2
        return float(area / (hits[-1] * alarms[-1]))

    def average_precision(self, weights: np.ndarray | None = None) -> float:
        """Average precision: the sum of precision × gain in recall, without interpolation; NaN for one class.

        Its chance level is the share of positives.

        Args:
            weights: as in `auroc`.
        """
        hits, alarms = self._counts(weights)
        if not len(hits) or not hits[-1] or not alarms[-1]:
            return float("nan")
        precision = hits / np.maximum(hits + alarms, 1e-300)  # 0 / 0 for rows of weight 0
        return float(np.sum(np.diff(hits, prepend=0.0) * precision) / hits[-1])

    def _counts(self, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Cumulative counts of positives and negatives at each distinct score, from the highest on."""
        times = np.ones(len(self.rows)) if weights is None else weights[self.rows].astype(np.float64)
        hits = np.cumsum(times * self.positive)[self.ends]
        return hits, np.cumsum(times)[self.ends] - hits


Statistic = Callable[[np.ndarray | None], float]
"""A statistic as a function of how often each row counts, shape (n,); None: once."""


def auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve as the Mann-Whitney statistic; see `Ranking`, also for the arguments."""
    return Ranking(labels, scores).auroc()


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Average precision; arguments and NaN as for `auroc`."""
    return Ranking(labels, scores).average_precision()


def f1(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None = None) -> float:
    """F1 of binary predictions: harmonic mean of precision and recall; NaN if both are always negative.

    Args:
        truth: bool, shape (n,).
        predicted: bool, shape (n,).
        weights: how often each row counts, shape (n,); default: once.
    """
    times = np.ones(len(truth)) if weights is None else weights
    both, either = times[truth & predicted].sum(), times[truth].sum() + times[predicted].sum()
    return float(2 * both / either) if either else float("nan")


def pearson(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Pearson's correlation coefficient; NaN if one side is constant.

    Args:
        x: shape (n,).
        y: shape (n,).
        weights: how often each row counts, shape (n,); default: once.
    """
    times = np.ones(len(x)) if weights is None else weights.astype(np.float64)
    counted = times > 0
    if not counted.any() or np.ptp(x[counted]) == 0 or np.ptp(y[counted]) == 0:
        return float("nan")
    x, y = x - np.average(x, weights=times), y - np.average(y, weights=times)
    return float((times * x * y).sum() / np.sqrt((times * x * x).sum() * (times * y * y).sum()))
