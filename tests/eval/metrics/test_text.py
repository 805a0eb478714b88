"""BLEU, ROUGE and F1 of findings: published values, values by hand, findings matched by name."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.known_answers import TEXTS
from eval.metrics.text import (
    TOP5,
    bleu,
    bleu_statistics,
    label_f1,
    label_statistics,
    macro_f1,
    mean_of,
    micro_f1,
    pieces,
    rouge,
    rouge_statistics,
    words,
)
from sdcxr.io.manifest import LABELS

# Further pairs of RadEval's tests, with every word replaced as in `TEXTS`.
BASICS = [
    ("A b c d.", "A b c d."),
    ("A e f g h i.", "A e f g h i."),
    (
        "1.J k l m n O p q r s t u v w x y p z.Aa ba ca da p a ea fa ga ha.Ia v w ja ka p la ma na oa, pa a qa ja oa."
        "A ra sa ta ua.",
        "J k l m n O p q r s t u v w x y p z.",
    ),
    (
        "1. Va WA xa ya g za ab w bb va cb db.2. Eb ja fb gb.3. Hb ib ab jb v w ca kb p lb mb nb ob pb v qb.Hb rb v w "
        "va ra sb.",
        "Aa ba ca da p a ea fa ga ha.",
    ),
    ("A tb b c d.Ub r vb wb xb yb zb ac'bc cc.", "Ia v w ja ka p la ma na oa, pa a qa ja oa."),
    ("Dc eb ja oa t va ec qb.", "A ra sa ta ua."),
]


def corpus_bleu(pairs, tokenise=words, order=4):
    return float(bleu(bleu_statistics(*zip(*pairs, strict=True), tokenise, order).sum(axis=0)))


def mean_rouge(pairs, n):
    return float(mean_of(rouge_statistics(*zip(*pairs, strict=True), n).sum(axis=0)))


def test_bleu_and_rouge_of_radevals_regression_pairs():
    assert [round(corpus_bleu(TEXTS, pieces, n), 4) for n in (1, 2, 3)] == [0.1867, 0.1532, 0.1189]
    each = rouge_statistics(*zip(*TEXTS, strict=True), 1)[:, 0]
    assert each == pytest.approx([1, 0.5454545, 0, 0.0666667, 0], abs=1e-6)


def test_bleu_and_rouge_of_radevals_basic_pairs():
    assert corpus_bleu(BASICS, pieces) == pytest.approx(0.16681006823938177, rel=1e-8)
    assert mean_rouge(BASICS, 1) == pytest.approx(0.44681719607092746)
    assert mean_rouge(BASICS, 2) == pytest.approx(0.4205128205128205)
    assert mean_rouge(BASICS, None) == pytest.approx(0.44681719607092746)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "order", "value"),
    [
        ("the cat is on the mat", "the the the the the the the", 1, 2 / 7),  # Papineni's clipped count
        ("a b c d", "a b c d", 4, 1.0),
        ("a b c d e f g h", "a b c d", 4, math.exp(1 - 8 / 4)),  # precise, but half as long
        ("a b", "a b", 4, 0.0),  # no 4-gram to match
        ("a b c d", "", 4, 0.0),
        ("", "", 4, 0.0),
        ("A, b. C d!", "a b c D", 4, 1.0),  # words do not care for case and punctuation
    ],
)
def test_bleu_of_one_pair(reference, hypothesis, order, value):
    assert corpus_bleu([(reference, hypothesis)], order=order) == pytest.approx(value)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "n", "value"),
    [
        ("a b c d", "a c d", None, 2 * 3 / 7),  # in order, not in a row
        ("a b c d", "d c b a", None, 2 * 1 / 8),
        ("a b c d", "d c b a", 1, 1.0),
        ("a b c", "a b", 2, 2 * 1 / 3),
        ("", "a", 1, 0.0),
        ("", "", None, 0.0),
    ],
)
def test_rouge_of_one_pair(reference, hypothesis, n, value):
    assert rouge(reference, hypothesis, n) == pytest.approx(value)


ANY_TEXT = st.lists(st.sampled_from(["no", "effusion", "left", "X.", ","]), max_size=12).map(" ".join)


@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1, max_size=5))
def test_scores_lie_between_zero_and_one(pairs):
    values = [corpus_bleu(pairs), *(mean_rouge(pairs, n) for n in (1, 2, None))]
    assert all(0 <= value <= 1 + 1e-12 for value in values)
    assert rouge(*pairs[0], None) <= rouge(*pairs[0], 1) + 1e-12


def table(**columns):
    """Labels of every finding, NaN where not given; the columns in an order of their own."""
    rows = len(next(iter(columns.values())))
    named = {name.replace("_", " "): values for name, values in columns.items()}
    return pd.DataFrame({name: named.get(name, [np.nan] * rows) for name in reversed(LABELS)})


def test_findings_are_compared_by_name_not_by_place():
    wanted = table(Edema=[1, 1, 0, np.nan], Pneumonia=[0, 0, 1, 1])
    said = table(Edema=[1, 0, 0, 1], Pneumonia=[0, 1, 1, 1])[list(LABELS)]
    sums = label_statistics(wanted, said, LABELS).sum(axis=0)
    scores = dict(zip(LABELS, label_f1(sums), strict=True))
    assert scores["Edema"] == 2 * 1 / (2 * 1 + 1 + 1)
    assert scores["Pneumonia"] == 2 * 2 / (2 * 2 + 1)
    assert math.isnan(scores["Fracture"])
    assert micro_f1(sums) == 2 * 3 / (2 * 3 + 2 + 1)
    assert macro_f1(sums) == pytest.approx((0.5 + 0.8) / 2)
    assert macro_f1(sums, absent_as=0.0) == pytest.approx((0.5 + 0.8) / 14)


@pytest.mark.parametrize(
    ("uncertain", "counts"),  # hits, false alarms, misses
    [("ones", [2, 1, 1]), ("zeros", [0, 1, 1]), ("ignore", [0, 0, 0])],
)
def test_uncertain_findings_count_by_the_policy(uncertain, counts):
    """-1 silently taken for 0 would give the second row whatever was asked for."""
    wanted, said = table(Edema=[-1, 1, -1, 0]), table(Edema=[1, -1, np.nan, -1])
    assert label_statistics(wanted, said, ["Edema"], uncertain).sum(axis=0)[:, 0].tolist() == counts


def test_the_five_findings_are_those_of_f1_chexbert_5():
    assert set(TOP5) == {"Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion"}
    assert set(TOP5) < set(LABELS)
