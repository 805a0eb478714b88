"""Scores of a classifier on validation images: F1, AUROC and average precision of each label, and thresholds for F1."""

from collections.abc import Sequence

import numpy as np

from sdcxr.backbones.image_classifier import Problem


def classification_scores(
    truth: np.ndarray, probabilities: np.ndarray, labels: Sequence[str], problem: Problem
) -> dict[str, float]:
    """Scores by name: `f1`, `auroc` and `average_precision` of each label (`f1/Edema`), and their means over labels.

    Of several labels each has a threshold (`threshold/Edema`), that of the highest F1 on these images, which flatters
    them. Of several classes the most probable one is predicted. A label that all images have, or
    none, has no score.

    Args:
        truth: 1, 0 or NaN (unknown), shape (images, labels).
        probabilities: of the labels, shape (images, labels).
        labels: their names.
        problem: one sigmoid per label, or one class of several.
    """
    from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

    chosen = np.eye(len(labels), dtype=bool)[probabilities.argmax(axis=1)]  # one class, of equals the first
    scores: dict[str, float] = {}
    for i, label in enumerate(labels):
        known = np.isfinite(truth[:, i])
        real, said = truth[known, i] == 1, probabilities[known, i]
        if real.all() or not real.any():
            continue
        if problem == "multi_class":
            predicted = chosen[known, i]
        else:
            threshold = best_threshold(real, said)
            scores[f"threshold/{label}"] = threshold
            predicted = said >= threshold
        scores[f"f1/{label}"] = float(f1_score(real, predicted, zero_division=0.0))
        scores[f"auroc/{label}"] = float(roc_auc_score(real, said))
        scores[f"average_precision/{label}"] = float(average_precision_score(real, said))
    means = {}
    for metric in ("f1", "auroc", "average_precision"):
        values = [value for name, value in scores.items() if name.startswith(f"{metric}/")]
        if values:
            means[metric] = float(np.mean(values))
    return means | scores


def best_threshold(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """The threshold with the highest F1 (a positive has at least it), halfway to the next lower probability.

    Args:
        truth: bool, with both values, shape (n,).
        probabilities: shape (n,).
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(truth, probabilities)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(np.argmax(f1[:-1]))  # the last point has no threshold
    below = probabilities[probabilities < thresholds[best]]
    lower = below.max() if len(below) else 0.0
    return float((thresholds[best] + lower) / 2)
