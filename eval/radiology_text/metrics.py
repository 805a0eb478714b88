"""Report metrics by name (BLEU, ROUGE, F1 of findings, BERTScore, RadGraph) as functions of sums over pairs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eval.metrics import text as text_scores
from eval.metrics.text import TOP5
from eval.radiology_text import networks
from eval.radiology_text.labeller import label_table
from sdcxr.io.labels import UncertainPolicy
from sdcxr.io.manifest import LABELS
from sdcxr.runtime.errors import UserError

METRICS = ("bleu", "rouge", "labels", "bertscore", "chexbert", "radgraph")
WITHOUT_WEIGHTS = METRICS[:3]

Score = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Metric:
    """A metric of pairs of texts as sums of statistics (see `eval.metrics.text`)."""

    name: str
    statistics: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """(row numbers of prompts, of reports) to statistics, a row for each pair."""
    scores: dict[str | None, Score]
    """Functions of the sums of statistics, by label of the score row."""
    shuffles: int = 5
    """Shuffles of the prompts for the baseline; one for networks, which are slow."""
    preset: str | None = None
    note: str | None = None
    notes: dict[str | None, str] = field(default_factory=dict)
    """Further notes by label of the score row."""


def check_metrics(names: Sequence[str], weights_dir: Path | None) -> None:
    """Check that all metrics can be computed, before a report model runs for hours.

    Raises:
        UserError: a name is unknown, none is given, or a package or weights are absent.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        raise UserError(f"--metrics: {', '.join(unknown) or 'none'} is not among: {', '.join(METRICS)}")
    for name in names:
        if name not in WITHOUT_WEIGHTS:
            networks.locate_metric_weights(name, weights_dir)


def metrics_of(
    prompts: list[str], reports: list[str], names: Sequence[str], weights_dir: Path | None, uncertain: UncertainPolicy
) -> list[Metric]:
    """The metrics of reports against prompts.

    Args:
        prompts: reference texts.
        reports: generated texts, as many.
        names: names in `METRICS`.
        weights_dir: folder of the weights of bertscore, chexbert and radgraph.
        uncertain: what an uncertain finding of the labeller counts as.

    Raises:
        UserError: weights are absent.
    """
    pair = partial(_of_texts, prompts, reports)
    found: list[Metric] = []
    if "bleu" in names:
        for tokenise, preset in ((text_scores.words, None), (text_scores.pieces, "radeval")):
            statistics = pair(partial(text_scores.bleu_statistics, tokenise=tokenise))
            found.append(Metric("bleu", statistics, {None: text_scores.bleu}, preset=preset))
    if "rouge" in names:
        for name, n in (("rouge1", 1), ("rouge2", 2), ("rougeL", None)):
            found.append(Metric(name, pair(partial(text_scores.rouge_statistics, n=n)), {None: text_scores.mean_of}))
    if "labels" in names:
        tables = label_table(prompts), label_table(reports)
        found.append(_finding_f1("labeller_f1", *tables, uncertain, f"uncertain-{uncertain}"))
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
    """Statistics as a function of row numbers, from statistics as a function of texts."""
    return lambda wanted, said: statistics([prompts[i] for i in wanted], [reports[i] for i in said])


def _finding_f1(
    name: str,
    wanted: pd.DataFrame,
    said: pd.DataFrame,
    uncertain: UncertainPolicy,
    preset: str,
    absent_as: float = np.nan,
    note: str | None = None,
) -> Metric:
    """F1 per finding, and micro and macro F1 over 5 and 14 findings, from two tables of labels."""
    scores: dict[str | None, Score] = {}
    notes: dict[str | None, str] = {}
    occurs = np.isfinite(
        text_scores.label_f1(text_scores.label_statistics(wanted, said, LABELS, uncertain).sum(axis=0))
    )
    for findings in (TOP5, LABELS):
        places = [LABELS.index(finding) for finding in findings]
        # Bootstrap samples that lack a finding would be means over fewer.
        counted = occurs[places] if np.isnan(absent_as) else np.ones(len(places), bool)
        macro_f1 = partial(text_scores.macro_f1, absent_as=absent_as, counted=counted)
        scores[f"micro-{len(findings)}"] = partial(_at, places, text_scores.micro_f1)
        scores[f"macro-{len(findings)}"] = partial(_at, places, macro_f1)
        n, others = occurs[places].sum(), "are left out" if np.isnan(absent_as) else "count as 0"
        notes[f"macro-{len(findings)}"] = f"{n} of {len(findings)} findings occur; the others {others}"
    for place, finding in enumerate(LABELS):
        scores[finding] = partial(_at, [place], text_scores.micro_f1)
    return Metric(
        name,
        lambda prompts, reports: text_scores.label_statistics(
            wanted.iloc[prompts], said.iloc[reports], LABELS, uncertain
        ),
        scores,
        preset=preset,
        note=note,
        notes=notes,
    )


def _at(places: list[int], score: Score, sums: np.ndarray) -> np.ndarray:
    """A score of the columns `places` of the sums."""
    return score(sums[..., places])


def _network(name: str, statistics: Any, labels: Sequence[str | None] = (None,)) -> Metric:
    """A metric that is the mean over pairs of a network's score: a column of statistics for each label."""
    scores: dict[str | None, Score] = {
        label: partial(_at, [i, -1], text_scores.mean_of) for i, label in enumerate(labels)
    }
    return Metric(name, statistics, scores, shuffles=1, note=networks.EXPERIMENTAL)


def _bertscore(weights_dir: Path | None, prompts: list[str], reports: list[str]) -> np.ndarray:
    return text_scores.pair_statistics(networks.bertscore(prompts, reports, weights_dir))


def _chexbert(prompts: list[str], reports: list[str], weights_dir: Path | None) -> Metric:
    """F1-CheXbert as in the package f1chexbert: uncertain is present, a finding absent on both sides scores 0."""
    both = networks.chexbert_labels([*prompts, *reports], weights_dir)
    wanted, said = both.iloc[: len(prompts)], both.iloc[len(prompts) :]
    return _finding_f1("chexbert_f1", wanted, said, "ones", "f1chexbert", absent_as=0.0, note=networks.EXPERIMENTAL)


def _radgraph(prompts: list[str], reports: list[str], weights_dir: Path | None) -> Metric:
    def statistics(wanted: np.ndarray, said: np.ndarray) -> np.ndarray:
        values = networks.radgraph_f1([prompts[i] for i in wanted], [reports[i] for i in said], weights_dir)
        return np.column_stack([*values, np.ones(len(wanted))])

    return _network("radgraph_f1", statistics, networks.RADGRAPH_LEVELS)
