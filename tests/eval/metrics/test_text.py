"""Tests of eval.text_scores: published values, hand-made vectors, and what the statistics must never confuse."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics import text as text_scores
from eval.metrics.text import (
    TOP5,
    bleu,
    bleu_statistics,
    drawn_sums,
    interval,
    label_f1,
    label_statistics,
    macro_f1,
    mean_of,
    micro_f1,
    pieces,
    rouge,
    rouge_statistics,
)
from sdcxr.io.manifest import LABELS

# The pairs (reference, hypothesis) of RadEval's tests (jbdel/RadEval@e0a3909), every word replaced by a letter or two:
# BLEU and ROUGE see only which words are equal. Punctuation, capitals and missing spaces stand as there.
REGRESSION = [
    ("A b c d.", "A b c d."),
    ("E f g h i j k l m n.", "Qa da ea fa g h j k l ra sa n."),
    ("1. O P q r s t u v w o x y.2. E z aa ba.", "Ta ua va wa g a xa ya za ab."),
    ("A ca b c d. Da ea fa ga ha ia ja ka'la ma.", "Bb cb v z db g eb fb gb oa, hb a ib z oa."),
    ("Na e z oa l o pa n.", "A j k jb kb."),
]
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


def corpus_bleu(pairs, tokenise=text_scores.words, order=4):
    return float(bleu(bleu_statistics(*zip(*pairs, strict=True), tokenise, order).sum(axis=0)))


def mean_rouge(pairs, n):
    return float(mean_of(rouge_statistics(*zip(*pairs, strict=True), n).sum(axis=0)))


def test_bleu_and_rouge_of_radevals_regression_pairs():
    assert [round(corpus_bleu(REGRESSION, pieces, n), 4) for n in (1, 2, 3, 4)] == [0.1867, 0.1532, 0.1189, 0.0826]
    assert [round(mean_rouge(REGRESSION, n), 4) for n in (1, 2, None)] == [0.3224, 0.26, 0.3224]
    each = rouge_statistics(*zip(*REGRESSION, strict=True), 1)[:, 0]
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


TEXTS = st.lists(st.sampled_from(["no", "effusion", "left", "X.", ","]), max_size=12).map(" ".join)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
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


def test_intervals_draw_whole_groups():
    """Ten copies of two patients' values know no more than two values; ten patients do."""
    values = text_scores.pair_statistics([0.0, 1.0] * 10)
    grouped = mean_of(drawn_sums(values, ["a", "b"] * 10, seed=1))
    single = mean_of(drawn_sums(values, [str(i) for i in range(20)], seed=1))
    assert interval(grouped) == (0.0, 1.0)
    low, high = interval(single)
    assert 0.2 < low < 0.5 < high < 0.8
    assert set(np.unique(grouped)) == {0.0, 0.5, 1.0}


def test_intervals_of_undefined_values_are_undefined():
    assert all(math.isnan(end) for end in interval(np.array([np.nan, np.nan])))
