"""Scores of a classifier against labels, as pure functions of arrays."""

from collections.abc import Callable

import numpy as np


class Ranking:
    """Labels in the order of their scores, sorted once for as many weighted scores as a bootstrap asks for.

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
        """The last row of each distinct score: equal scores are passed together."""

    def auroc(self, weights: np.ndarray | None = None) -> float:
        """Area under the ROC curve, which is the share of pairs in order, ties counting one half; NaN for one class.

        Args:
            weights: how often each row counts, shape (n,); once by default.
        """
        hits, alarms = self._counts(weights)
        if not len(hits) or not hits[-1] or not alarms[-1]:
            return float("nan")
        before = np.concatenate([[0.0], hits[:-1]])
        area = np.sum(np.diff(alarms, prepend=0.0) * (hits + before)) / 2
        return float(area / (hits[-1] * alarms[-1]))

    def average_precision(self, weights: np.ndarray | None = None) -> float:
        """Mean precision at the positives: the sum of precision × gain in recall, without interpolation.

        NaN for one class. Unlike the AUROC it grows with the share of positives, which is its chance level.

        Args:
            weights: as above.
        """
        hits, alarms = self._counts(weights)
        if not len(hits) or not hits[-1] or not alarms[-1]:
            return float("nan")
        precision = hits / np.maximum(hits + alarms, 1e-300)  # rows that no draw took come to 0 / 0
        return float(np.sum(np.diff(hits, prepend=0.0) * precision) / hits[-1])

    def _counts(self, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Positives and negatives with at least each distinct score, from the highest score on."""
        times = np.ones(len(self.rows)) if weights is None else weights[self.rows].astype(np.float64)
        hits = np.cumsum(times * self.positive)[self.ends]
        return hits, np.cumsum(times)[self.ends] - hits


Statistic = Callable[[np.ndarray | None], float]
"""A score as a function of how often each row counts, shape (n,); None: once."""


def auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve as the Mann-Whitney statistic, ties counting one half.

    Args:
        labels: 1 and 0, NaN where unknown (left out), shape (n,).
        scores: any monotone score, shape (n,).

    Returns:
        The area in [0, 1]; NaN where only one class is known.
    """
    return Ranking(labels, scores).auroc()


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Average precision; arguments and NaN as for `auroc`."""
    return Ranking(labels, scores).average_precision()


def f1(truth: np.ndarray, said: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Harmonic mean of precision and recall of yes/no answers; NaN where neither side ever says yes.

    Args:
        truth: bool, shape (n,).
        said: bool, shape (n,).
        weights: how often each row counts, shape (n,); once by default.
    """
    times = np.ones(len(truth)) if weights is None else weights
    both, either = times[truth & said].sum(), times[truth].sum() + times[said].sum()
    return float(2 * both / either) if either else float("nan")


def pearson(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Pearson's correlation coefficient; NaN where one of the two is constant.

    Args:
        x: shape (n,).
        y: shape (n,).
        weights: how often each row counts, shape (n,); once by default.
    """
    times = np.ones(len(x)) if weights is None else weights.astype(np.float64)
    counted = times > 0
    if not counted.any() or np.ptp(x[counted]) == 0 or np.ptp(y[counted]) == 0:
        return float("nan")
    x, y = x - np.average(x, weights=times), y - np.average(y, weights=times)
    return float((times * x * y).sum() / np.sqrt((times * x * x).sum() * (times * y * y).sum()))
