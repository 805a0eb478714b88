"""Text metrics of reports: BLEU, ROUGE and F1 of findings, as functions of sums over pairs that can be bootstrapped.

Each metric is a table of statistics, a row per pair of texts, and a function of their sums. A corpus score, its
interval and its shuffled baseline come from the same table without processing the texts again.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from sdcxr.io.labels import UncertainPolicy, fill_labels

Tokenise = Callable[[str], list[str]]

# The five findings that papers on report generation average over (F1-CheXbert-5).
TOP5 = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")


def words(text: str) -> list[str]:
    """Lower-case runs of letters and digits: the tokens of ROUGE's reference implementation without stemming."""
    return re.findall(r"[a-z0-9]+", text.lower())


def pieces(text: str) -> list[str]:
    """Tokens between white space, with case and punctuation: RadEval's tokens for BLEU."""
    return text.split()


def bleu_statistics(
    references: Sequence[str], hypotheses: Sequence[str], tokenise: Tokenise = words, order: int = 4
) -> np.ndarray:
    """The counts of BLEU for each pair of texts.

    Args:
        references: reference texts.
        hypotheses: generated texts, as many.
        tokenise: function from text to tokens.
        order: longest n-gram.

    Returns:
        Shape (pairs, 2 · order + 2): matching n-grams, n-grams of the hypothesis, and both lengths in tokens.
    """
    rows = []
    for reference, hypothesis in _pairs(references, hypotheses):
        wanted, said = tokenise(reference), tokenise(hypothesis)
        matches, totals = [], []
        for n in range(1, order + 1):
            there = _ngrams(said, n)
            matches.append((there & _ngrams(wanted, n)).total())  # clipped to the count in the reference
            totals.append(there.total())
        rows.append([*matches, *totals, len(said), len(wanted)])
    return np.array(rows, dtype=float).reshape(-1, 2 * order + 2)


def bleu(sums: np.ndarray) -> np.ndarray:
    """BLEU of a corpus (Papineni et al. 2002): geometric mean of the n-gram precisions times the brevity penalty.

    Args:
        sums: of `bleu_statistics` over pairs, shape (…, 2 · order + 2).

    Returns:
        Values in [0, 1] of shape (…); 0 if an order has no match (no smoothing).
    """
    order = sums.shape[-1] // 2 - 1
    matches, totals, lengths = np.split(sums, [order, 2 * order], axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.exp(np.log(matches / totals.clip(min=1)).mean(axis=-1))
        penalty = np.exp(np.minimum(0, 1 - lengths[..., 1] / lengths[..., 0]))
    return np.where(matches.min(axis=-1) > 0, precision * np.nan_to_num(penalty), 0.0)


def rouge(reference: str, hypothesis: str, n: int | None) -> float:
    """F1 of ROUGE-n (Lin 2004); `n` None: of ROUGE-L, the longest common subsequence of words."""
    wanted, said = words(reference), words(hypothesis)
    if n is None:
        common, sizes = _longest_common(wanted, said), len(wanted) + len(said)
    else:
        here, there = _ngrams(wanted, n), _ngrams(said, n)
        common, sizes = (here & there).total(), here.total() + there.total()
    return 2 * common / sizes if sizes else 0.0


def rouge_statistics(references: Sequence[str], hypotheses: Sequence[str], n: int | None) -> np.ndarray:
    """`rouge` of each pair and a column of ones, for `mean_of`; shape (pairs, 2)."""
    return pair_statistics([rouge(*pair, n) for pair in _pairs(references, hypotheses)])


def pair_statistics(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """A value of each pair and a column of ones, for `mean_of`; shape (pairs, 2)."""
    column = np.asarray(values, dtype=float)
    return np.column_stack([column, np.ones_like(column)])


def mean_of(sums: np.ndarray) -> np.ndarray:
    """The mean over pairs, from sums of shape (…, 2)."""
    return np.asarray(sums[..., 0] / sums[..., 1])


def label_statistics(
    reference: pd.DataFrame, hypothesis: pd.DataFrame, findings: Sequence[str], uncertain: UncertainPolicy = "ones"
) -> np.ndarray:
    """True positives, false positives and false negatives of every finding, for each pair of texts.

    Columns are matched by name. A finding that is not mentioned counts as negative.

    Args:
        reference: labels (1, 0, -1, NaN) of the texts (rows) for the findings (columns, in any order).
        hypothesis: the same of the generated texts.
        findings: names of the columns to use.
        uncertain: what -1 counts as: "ones" (as in f1chexbert), "zeros", or "ignore": then a pair does not count for a
            finding that is uncertain in either text.

    Returns:
        Shape (pairs, 3, findings): true positives, false positives, false negatives.
    """
    wanted, said = (
        fill_labels(table[list(findings)], uncertain, blanks="zeros").to_numpy(float)
        for table in (reference, hypothesis)
    )
    known = np.isfinite(wanted) & np.isfinite(said)
    hits, alarms, misses = (wanted == 1) & (said == 1), (wanted == 0) & (said == 1), (wanted == 1) & (said == 0)
    return np.stack([hits & known, alarms & known, misses & known], axis=1).astype(float)


def label_f1(sums: np.ndarray) -> np.ndarray:
    """F1 of each finding from sums of shape (…, 3, findings); NaN if neither side ever has the finding."""
    hits, alarms, misses = np.moveaxis(sums, -2, 0)
    total = 2 * hits + alarms + misses
    return np.where(total > 0, 2 * hits / np.where(total > 0, total, 1), np.nan)


def micro_f1(sums: np.ndarray) -> np.ndarray:
    """F1 of the summed counts of all findings, from sums of shape (…, 3, findings)."""
    return label_f1(sums.sum(axis=-1, keepdims=True))[..., 0]


def macro_f1(sums: np.ndarray, absent_as: float = math.nan, counted: np.ndarray | None = None) -> np.ndarray:
    """Mean F1 over findings, from sums of shape (…, 3, findings).

    Args:
        sums: of `label_statistics`.
        absent_as: F1 of a finding that neither side ever has: NaN leaves it out, 0 as in scikit-learn's report and
            f1chexbert.
        counted: which findings the mean is over, bool of shape (findings,); NaN where one of them has no F1. Default:
            those that have one.
    """
    scores = label_f1(sums)
    scores = np.where(np.isnan(scores), absent_as, scores)
    if counted is not None:
        return scores[..., counted].mean(axis=-1) if counted.any() else np.full(scores.shape[:-1], np.nan)
    known = np.isfinite(scores)
    n = known.sum(axis=-1)
    mean = np.where(known, scores, 0).sum(axis=-1) / np.maximum(n, 1)
    return np.where(n > 0, mean, np.nan)


def _pairs(references: Sequence[str], hypotheses: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(references, hypotheses, strict=True))


def _ngrams(tokens: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def _longest_common(one: list[str], other: list[str]) -> int:
    """Length of the longest common subsequence."""
    previous = [0] * (len(other) + 1)
    for word in one:
        row = [0]
        for j, candidate in enumerate(other):
            row.append(previous[j] + 1 if word == candidate else max(previous[j + 1], row[j]))
        previous = row
    return previous[-1]
