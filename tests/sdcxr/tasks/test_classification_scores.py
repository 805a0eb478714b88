"""F1, AUROC and average precision of validation images, by hand and by scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from sdcxr.tasks.classification_scores import best_threshold, classification_scores

NAN = float("nan")


@pytest.mark.parametrize(
    ("truth", "probabilities", "threshold"),
    [
        ([0, 0, 1, 1], [0.1, 0.3, 0.7, 0.9], 0.5),  # halfway between the classes
        ([1, 1, 1, 0], [0.2, 0.4, 0.6, 0.1], 0.15),
        ([1, 0, 0, 0], [0.9, 0.8, 0.2, 0.1], 0.85),
        ([0, 1], [0.9, 0.2], 0.1),  # all positive: F1 of 2/3 beats 0
    ],
)
def test_the_threshold_of_the_highest_f1(truth, probabilities, threshold):
    assert best_threshold(np.array(truth, bool), np.array(probabilities)) == pytest.approx(threshold)


def test_no_other_threshold_is_better():
    draws = np.random.default_rng(0)
    truth = draws.random(200) < 0.2
    said = np.clip(truth * 0.2 + draws.random(200), 0, 1)
    chosen = f1_score(truth, said >= best_threshold(truth, said))
    assert chosen == max(f1_score(truth, said >= t) for t in said)


def test_unknown_labels_do_not_count_and_labels_of_one_class_have_no_score():
    truth = np.array([[1, 0, NAN], [0, 0, 1], [1, NAN, 0], [NAN, 0, 1]])
    said = np.array([[0.9, 0.1, 0.5], [0.2, 0.1, 0.3], [0.8, 0.1, 0.6], [0.1, 0.1, 0.9]])
    scores = classification_scores(truth, said, ["a", "b", "c"], "multi_label")
    assert (scores["auroc/a"], scores["auroc/c"], scores["f1/a"]) == (1.0, 0.5, 1.0)
    assert not any(name.endswith("/b") for name in scores)
    assert scores["auroc"] == 0.75


def test_of_classes_the_most_probable_is_predicted():
    truth = np.eye(3)[[0, 1, 2, 0]]
    said = np.array([[0.4, 0.3, 0.3], [0.1, 0.8, 0.1], [0.5, 0.1, 0.4], [0.9, 0.1, 0.0]])
    scores = classification_scores(truth, said, ["a", "b", "c"], "multi_class")
    predicted = said.argmax(axis=1)
    assert scores["f1"] == pytest.approx(f1_score([0, 1, 2, 0], predicted, average="macro"))
    assert not any(name.startswith("threshold") for name in scores)


def test_of_equally_probable_classes_one_is_predicted():
    truth, said = np.eye(2)[[0, 1, 0, 1]], np.full((4, 2), 0.5)
    scores = classification_scores(truth, said, ["a", "b"], "multi_class")
    assert (scores["f1/a"], scores["f1/b"]) == (pytest.approx(2 / 3), 0.0)  # both would be 2/3 of two predictions
