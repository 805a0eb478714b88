"""AUROC, average precision, F1 and correlation: by hand, against scikit-learn, and weighted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from eval.metrics.classification import Ranking, auroc, average_precision, f1, pearson

NAN = float("nan")


@pytest.mark.parametrize(
    ("labels", "scores", "area"),
    [
        ([0, 1], [0.2, 0.9], 1.0),
        ([1, 0], [0.2, 0.9], 0.0),
        ([1, 0, 0], [0.5, 0.5, 0.1], 0.75),  # a tie counts one half
        ([1, 0, NAN], [0.9, 0.1, 0.0], 1.0),  # unknown ones are left out
    ],
)
def test_auroc_by_hand(labels, scores, area):
    assert auroc(np.array(labels, float), np.array(scores)) == area


@pytest.mark.parametrize("labels", [[0, 0], [NAN, 1], []])
def test_one_class_has_no_auroc(labels):
    assert np.isnan(auroc(np.array(labels, float), np.zeros(len(labels))))


@pytest.mark.parametrize(
    ("labels", "scores", "area"),
    [
        ([0, 1], [0.2, 0.9], 1.0),
        ([1, 0], [0.2, 0.9], 0.5),
        ([1, 0, 1, 0], [0.5, 0.5, 0.5, 0.5], 0.5),  # equal scores are passed together: the share of positives
        ([1, 0, NAN], [0.9, 0.1, 0.95], 1.0),
    ],
)
def test_average_precision_by_hand(labels, scores, area):
    assert average_precision(np.array(labels, float), np.array(scores)) == pytest.approx(area)


SCORED = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=30)


@given(SCORED)
def test_both_areas_are_scikit_learns(pairs):
    labels, scores = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs], float)
    if len(set(labels)) == 2:
        assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
        assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores))
    else:
        assert np.isnan(auroc(labels, scores)) and np.isnan(average_precision(labels, scores))


@given(SCORED, st.randoms(use_true_random=False))
def test_a_weight_is_a_row_that_often(pairs, draws):
    labels, scores = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs], float)
    times = np.array([draws.randrange(3) for _ in pairs])
    ranking, said = Ranking(labels, scores), scores > 2
    repeated = [np.repeat(values, times) for values in (labels, scores, said)]
    for own, plain in (
        (ranking.auroc(times), auroc(*repeated[:2])),
        (ranking.average_precision(times), average_precision(*repeated[:2])),
        (f1(labels == 1, said, times), f1(repeated[0] == 1, repeated[2])),
        (pearson(labels, scores, times), pearson(*repeated[:2])),
    ):
        np.testing.assert_allclose(own, plain, atol=1e-12)


def test_agreement_by_hand():
    truth, said = np.array([1, 1, 1, 0, 0], bool), np.array([1, 1, 0, 1, 0], bool)
    assert f1(truth, said) == pytest.approx(2 / 3)
    assert np.isnan(f1(truth & False, said & False))
    x = np.array([0.1, 0.5, 0.3, 0.9])
    y = np.array([0.2, 0.4, 0.5, 0.8])
    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert pearson(x, 3 - 2 * x) == pytest.approx(-1)
    assert np.isnan(pearson(x, np.full(4, 0.1)))
