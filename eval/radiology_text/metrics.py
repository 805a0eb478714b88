"""The metrics of reports against prompts, by name: each is a table of statistics of pairs, and scores of their sums."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eval.metrics import text as text_scores
from eval.metrics.text import TOP5
from eval.radiology_text.labeller import label_table
from sdcxr.io.labels import UncertainPolicy
from sdcxr.io.manifest import LABELS
from sdcxr.runtime.errors import UserError

METRICS = ("bleu", "rouge", "labels", "bertscore", "chexbert", "radgraph")
WITHOUT_WEIGHTS = METRICS[:3]

Score = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Metric:
    """A score of pairs of texts (see `eval.text_scores`)."""

    name: str
    statistics: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """Of prompts and reports, both by number: a row of statistics for each pair."""
    scores: dict[str | None, Score]
    """From sums to values, by label of the row."""
    shuffles: int = 5
    """How often prompts are shuffled for the baseline; once where a network reads every pair."""
    preset: str | None = None
    note: str | None = None


def check(names: Sequence[str], weights_dir: Path | None) -> None:
    """Refuse metrics that cannot be had, before a generator has worked for hours.

    Raises:
        UserError: a name is unknown, there is none, or its package or weights are absent.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        raise UserError(f"--metrics: {', '.join(unknown) or 'none'} is not among: {', '.join(METRICS)}")
    for name in names:
        if name not in WITHOUT_WEIGHTS:
            from eval.radiology_text.networks import locate_metric_weights

            locate_metric_weights(name, weights_dir)


def metrics_of(
    prompts: list[str], reports: list[str], names: Sequence[str], weights_dir: Path | None, uncertain: UncertainPolicy
) -> list[Metric]:
    """Metrics over prompts and reports.

    Args:
        prompts: what should be said.
        reports: what is said, as many.
        names: of `METRICS`.
        weights_dir: where the weights of bertscore, chexbert and radgraph lie.
        uncertain: what an uncertain finding of the labeller counts as.

    Raises:
        UserError: weights are absent.
    """
    pair = partial(_of_texts, prompts, reports)
    found: list[Metric] = []
    if "bleu" in names:
        found += [
            Metric("bleu", pair(text_scores.bleu_statistics), {None: text_scores.bleu}),
            Metric(
                "bleu",
                pair(partial(text_scores.bleu_statistics, tokenise=text_scores.pieces)),
                {None: text_scores.bleu},
                preset="radeval",
            ),
        ]
    if "rouge" in names:
        for name, n in (("rouge1", 1), ("rouge2", 2), ("rougeL", None)):
            found.append(Metric(name, pair(partial(text_scores.rouge_statistics, n=n)), {None: text_scores.mean_of}))
    if "labels" in names:
        found.append(
            _finding_f1("labeller_f1", label_table(prompts), label_table(reports), uncertain, f"uncertain-{uncertain}")
        )
    if "bertscore" in names:
        found.append(_network("bertscore", pair(partial(_bertscore, weights_dir))))
    if "chexbert" in names:
        found.append(_chexbert(prompts, reports, weights_dir))
    if "radgraph" in names:
        found.append(_radgraph(prompts, reports, weights_dir))
    return found


def _of_texts(
    prompts: list[str], reports: list[str], statistics: Callable[[list[str], list[str]], np.ndarray]
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Statistics of pairs by number, from statistics of pairs of texts."""
    return lambda wanted, said: statistics([prompts[i] for i in wanted], [reports[i] for i in said])


def _finding_f1(
    name: str,
    wanted: pd.DataFrame,
    said: pd.DataFrame,
    uncertain: UncertainPolicy,
    preset: str,
    absent_as: float = np.nan,
) -> Metric:
    """F1 per finding, and micro and macro over 5 and 14 findings, from two tables of labels by name."""
    scores: dict[str | None, Score] = {}
    macro_f1 = partial(text_scores.macro_f1, absent_as=absent_as)
    for findings in (TOP5, LABELS):
        places = [LABELS.index(finding) for finding in findings]
        scores[f"micro-{len(findings)}"] = partial(_at, places, text_scores.micro_f1)
        scores[f"macro-{len(findings)}"] = partial(_at, places, macro_f1)
    for place, finding in enumerate(LABELS):
        scores[finding] = partial(_at, [place], text_scores.micro_f1)
    return Metric(
        name,
        lambda prompts, reports: text_scores.label_statistics(
            wanted.iloc[prompts], said.iloc[reports], LABELS, uncertain
        ),
        scores,
        preset=preset,
    )


def _at(places: list[int], score: Score, sums: np.ndarray) -> np.ndarray:
    """A score of some columns of sums, by number."""
    return score(sums[..., places])


def _network(name: str, statistics: Any, labels: Sequence[str | None] = (None,), **others: Any) -> Metric:
    """A metric that is a mean over pairs of what a network says of them: a column of statistics for each label."""
    scores: dict[str | None, Score] = {
        label: partial(_at, [i, -1], text_scores.mean_of) for i, label in enumerate(labels)
    }
    return Metric(name, statistics, scores, shuffles=1, **others)


def _bertscore(weights_dir: Path | None, prompts: list[str], reports: list[str]) -> np.ndarray:
    from eval.radiology_text.networks import bertscore

    return text_scores.pair_statistics(bertscore(prompts, reports, weights_dir))


def _chexbert(prompts: list[str], reports: list[str], weights_dir: Path | None) -> Metric:
    """F1-CheXbert as the package f1chexbert counts it: uncertain is present, a finding that nobody has scores 0."""
    from eval.radiology_text.networks import chexbert_labels

    both = chexbert_labels([*prompts, *reports], weights_dir)
    wanted, said = both.iloc[: len(prompts)], both.iloc[len(prompts) :]
    return _finding_f1("chexbert_f1", wanted, said, "ones", "f1chexbert", absent_as=0.0)


def _radgraph(prompts: list[str], reports: list[str], weights_dir: Path | None) -> Metric:
    from eval.radiology_text.networks import RADGRAPH_LEVELS, radgraph_f1

    def statistics(wanted: np.ndarray, said: np.ndarray) -> np.ndarray:
        values = radgraph_f1([prompts[i] for i in wanted], [reports[i] for i in said], weights_dir)
        return np.column_stack([*values, np.ones(len(wanted))])

    return _network("radgraph_f1", statistics, RADGRAPH_LEVELS)
