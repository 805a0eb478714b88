"""Classifier AUROC and average precision of each finding on synthetic and real images, and their agreement.

    python -m eval.classifier --classifier RUN --real DATASET/test --synthetic SAMPLES --output scores.json
    python -m eval.classifier --classifier xrv-all --weights_dir DIR --real DATASET/test --synthetic SAMPLES

Do the synthetic radiographs show what their prompts say? The classifier is a run of `train.py --tune classifier`, or
one of torchxrayvision. The truth of a synthetic image is the labels of its prompt; the same classifier on the real
images is the most to expect. Where every prompt has its real image in --real, only these real images are used. A
finding has a value where both classes occur; the column `chance` is what guessing gives.

Where real images belong to the prompts, two measures that need no labels are added. Agreement: the classifier's answer
on the real image (at least 0.5, which is torchxrayvision's operating point) is the truth of the synthetic one, as in
LLM-CXR (Lee et al. 2024, arXiv 2305.11490), as F1 and as AUROC: by finding with their mean, micro (all answers in one
ranking) and weighted (findings by their positives). And Pearson's r between both probabilities, as in ChexGen (arXiv
2509.03903).

A classifier that was trained on the test images favours the real side: xrv-all knows MIMIC-CXR, NIH and Open-i.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from eval.command import Comparison, weights_folder
from eval.extractors.classifiers import EvalClassifier, find_classifier
from eval.inputs.folders import ImageFolder, pair_prompts
from eval.inputs.labels import choose_findings, left_out, truth_of
from eval.inputs.pairing import Pairing
from eval.metrics.bootstrap import FEWEST_GROUPS, mean, no_interval, percentiles, rare_findings, resampled
from eval.metrics.classification import Ranking, Statistic, f1, pearson
from eval.scores import Result, Rows, score_row, value_text, with_note
from sdcxr.io.labels import UncertainPolicy
from sdcxr.runtime.cli import run

VERSION = 2  # of the rows: raise it when a value changes for the same images
MIN_PAIRS = 3  # fewest pairs for Pearson's r


@dataclass
class ClassifierConfig(Comparison):
    """What to compare."""

    classifier: str
    """Run folder of `train.py --tune classifier`, or a network of torchxrayvision such as xrv-all."""
    labels: str | None = None
    """CSV with a dicom_id column and columns of 1, 0, -1 and empty. Default: the labels in metadata.csv."""
    findings: str | None = None
    """Names separated by commas. Default: all that the classifier and the labels have in common."""
    uncertain: UncertainPolicy = "ignore"
    """What the label -1 counts as: nothing, negative (zeros) or positive (ones). Empty never counts."""


def main(config: ClassifierConfig) -> int:
    def measure(real: ImageFolder, synthetic: ImageFolder) -> Result:
        network = find_classifier(config.classifier, weights_folder(config.weights_dir))
        options: dict[str, Any] = {name: getattr(config, name) for name in ("labels", "findings", "uncertain", "seed")}
        return evaluate(real, synthetic, network, **options)

    return config.run(measure, table)


def evaluate(
    real: ImageFolder,
    synthetic: ImageFolder,
    classifier: EvalClassifier,
    *,
    labels: str | None = None,
    findings: str | None = None,
    uncertain: UncertainPolicy = "ignore",
    seed: int = 0,
) -> Result:
    """Score rows of a classifier on both sides and of its agreement.

    Labels (a CSV, or those in the tables) and findings (separated by commas; None: all that are known on all sides) are
    checked before the first image is read.

    Raises:
        UserError: labels or findings do not fit; images are unreadable.
    """
    task = prepare(real, synthetic, classifier, labels=labels, findings=findings, uncertain=uncertain)
    real, pairing = task.real, task.pairing
    sides = {"real": real, "synthetic": synthetic}
    omitted = left_out(task.absent, "not in")
    paired = np.flatnonzero(pairing.rows >= 0)
    if len(paired) < MIN_PAIRS:
        omitted.append("agreement with the real image of the same prompt (--real does not hold the prompts' images)")
    seen = {side: classifier.probabilities(images)[task.findings] for side, images in sides.items()}
    groups = {"real": np.array(real.groups), "synthetic": prompt_groups(real, synthetic, pairing)}
    rows = score_labels({side: (task.truth[side][task.findings], seen[side], groups[side]) for side in sides}, seed)
    if len(paired) >= MIN_PAIRS:
        of_real = seen["real"].iloc[pairing.rows[paired]].reset_index(drop=True)
        of_synthetic = seen["synthetic"].iloc[paired].reset_index(drop=True)
        n_real = len(np.unique(pairing.rows[paired]))
        agreement = score_agreement(of_real, of_synthetic, groups["synthetic"][paired], n_real, seed)
        rows += with_note(agreement, pairing.note)
    return Result([row | {"extractor": classifier.name, "uncertain": uncertain} for row in rows], omitted)


class ClassifierTask(NamedTuple):
    """What a classifier is scored on."""

    real: ImageFolder
    """The real images; only those of the prompts, where --real has them all."""
    pairing: Pairing
    truth: dict[str, pd.DataFrame]
    """By side."""
    findings: list[str]
    absent: dict[str, str]
    """Where findings that are left out are absent."""


def prepare(
    real: ImageFolder,
    synthetic: ImageFolder,
    classifier: EvalClassifier,
    *,
    labels: str | None = None,
    findings: str | None = None,
    uncertain: UncertainPolicy = "ignore",
) -> ClassifierTask:
    """Check labels and findings, before any image is read; arguments as in `evaluate`.

    Raises:
        UserError: labels or findings do not fit.
    """
    pairing = pair_prompts(real, synthetic)
    if (pairing.rows >= 0).all():
        real = real.take(np.unique(pairing.rows))
        pairing = pair_prompts(real, synthetic)
    sides = {"real": real, "synthetic": synthetic}
    truth = {side: truth_of(images, labels, uncertain, f"--{side}") for side, images in sides.items()}
    sources: dict[str, Iterable[str]] = {"the classifier": classifier.findings}
    sources |= {f"--{side}": frame.columns for side, frame in truth.items()}
    return ClassifierTask(real, pairing, truth, *choose_findings(findings, sources))


def prompt_groups(real: ImageFolder, synthetic: ImageFolder, pairing: Pairing) -> np.ndarray:
    """What is resampled together of the synthetic images: those for one patient's prompts where that is known."""
    own, patients = np.array(synthetic.groups, dtype=object), np.array(real.groups, dtype=object)
    known = (pairing.rows >= 0) & (pairing.by == "id")
    return np.where(known, patients[pairing.rows], own).astype(str)


Side = tuple[pd.DataFrame, pd.DataFrame, np.ndarray]
"""Truth (1, 0, NaN) and probabilities, columns by the names of findings, and the groups of the images."""


def score_labels(sides: dict[str, Side], seed: int = 0, decided: pd.DataFrame | None = None) -> Rows:
    """AUROC and average precision, of one side with decisions F1 too: a row per finding and side, and the macro mean.

    The macro mean is over the findings that have both classes on all sides, so that the sides compare.
    """
    findings = list(next(iter(sides.values()))[0].columns)
    tables = [truth for truth, _, _ in sides.values()]
    defined = [name for name in findings if all(truth[name].nunique() == 2 for truth in tables)]
    rows: Rows = []
    for side, (truth, seen, groups) in sides.items():
        rankings = [Ranking(truth[name].to_numpy(float), seen[name].to_numpy(float)) for name in findings]
        share = truth.mean()
        rare = rare_findings({name: [values == 1, values == 0] for name, values in truth.items()}, groups)
        columns = {name: truth[name] for name in findings} | {"macro": truth}
        counts = {
            name: {"n_positive": int((values == 1).to_numpy().sum()), "n_negative": int((values == 0).to_numpy().sum())}
            for name, values in columns.items()
        }
        metrics: dict[str, tuple[Sequence[Statistic], pd.Series]] = {
            "auroc": ([each.auroc for each in rankings], pd.Series(0.5, findings)),
            "average_precision": ([each.average_precision for each in rankings], share),
        }
        if decided is not None:
            of_decisions = [f1_of(truth[name].to_numpy(float), decided[name].to_numpy(bool)) for name in findings]
            metrics["f1"] = (of_decisions, 2 * share / (1 + share))  # as if all had it
        size = {"n_real": 0, "n_synthetic": 0} | {f"n_{side}": len(truth)}
        for metric, (statistics, chance) in metrics.items():
            for row in with_macro(metric, statistics, findings, defined, groups, seed, rare):
                label = row["label"]
                at = mean(chance[defined].to_numpy(float)) if label == "macro" else float(chance[label])
                if label != "macro" and share[label] in (0, 1):
                    row["notes"].append("one class only")
                rows.append(row | {"images": side, "chance": at} | size | counts[label])
    return rows


def f1_of(truth: np.ndarray, decided: np.ndarray) -> Statistic:
    """F1 over the images with a known label, of truth (1, 0 or NaN) and decisions (bool); NaN where one class is known.

    Both have shape (n,).
    """
    known = np.isfinite(truth)
    if not 0 < truth[known].sum() < known.sum():
        return lambda _: float("nan")
    return partial(f1, truth == 1, decided & known)


def score_agreement(
    of_real: pd.DataFrame, of_synthetic: pd.DataFrame, groups: np.ndarray, n_real: int, seed: int = 0
) -> Rows:
    """Rows of AUROC, F1 and Pearson's r between what is seen in a synthetic image and in the real one of its prompt.

    Both tables have probabilities, a row per pair and a column per finding; `n_real` of the real images are different.
    """
    findings = list(of_real.columns)
    rows: Rows = []
    pairs = [(of_real[name].to_numpy(float), of_synthetic[name].to_numpy(float)) for name in findings]
    present = {name: x >= 0.5 for name, (x, _) in zip(findings, pairs, strict=True)}
    metrics: dict[str, Sequence[Statistic]] = {
        "agreement_auroc": [Ranking((x >= 0.5).astype(float), y).auroc for x, y in pairs],
        "agreement_f1": [partial(f1, x >= 0.5, y >= 0.5) for x, y in pairs],
        "pearson_r": [partial(pearson, x, y) for x, y in pairs],
    }
    positive = {name: int(seen.sum()) for name, seen in present.items()}
    positive["macro"] = sum(positive.values())
    negative = {name: len(of_real) - n for name, n in positive.items()}
    negative["macro"] = len(findings) * len(of_real) - positive["macro"]
    size = {"images": "synthetic", "n_real": n_real, "n_synthetic": len(of_real)}
    rare = {
        "agreement_auroc": rare_findings({name: [seen, ~seen] for name, seen in present.items()}, groups),
        "agreement_f1": rare_findings({name: [seen] for name, seen in present.items()}, groups),
    }
    for metric, statistics in metrics.items():
        defined = [name for name, each in zip(findings, statistics, strict=True) if np.isfinite(each(None))]
        for row in with_macro(metric, statistics, findings, defined, groups, seed, rare.get(metric, {})):
            label = row["label"]
            rows.append(row | size | {"n_positive": positive[label], "n_negative": negative[label]})
    size |= {"n_positive": positive["macro"], "n_negative": negative["macro"], "n_labels": len(findings)}
    return rows + [row | size for row in pooled_agreement(pairs, groups, seed)]


def pooled_agreement(pairs: Sequence[tuple[np.ndarray, np.ndarray]], groups: np.ndarray, seed: int = 0) -> Rows:
    """The other two means of LLM-CXR's agreement: all answers in one ranking, and findings by their positives."""
    truth = [(x >= 0.5).astype(float) for x, _ in pairs]
    together = Ranking(np.concatenate(truth), np.concatenate([y for _, y in pairs]))
    each = [Ranking(said, y) for said, (_, y) in zip(truth, pairs, strict=True)]

    def micro(times: np.ndarray | None) -> float:
        return together.auroc(None if times is None else np.tile(times, len(pairs)))

    def weighted(times: np.ndarray | None) -> float:
        areas = np.array([ranking.auroc(times) for ranking in each])
        known = np.isfinite(areas)
        positives = np.array([said.sum() if times is None else said @ times for said in truth])[known]
        return float(np.average(areas[known], weights=positives)) if known.any() else float("nan")

    statistics = {"agreement_auroc_micro": micro, "agreement_auroc_weighted": weighted}
    drawn = resampled(list(statistics.values()), groups, seed=seed)
    return [
        score_row(metric, statistic(None), percentiles(values))
        for (metric, statistic), values in zip(statistics.items(), drawn.T, strict=True)
    ]


def with_macro(
    metric: str,
    statistics: Sequence[Statistic],
    findings: list[str],
    defined: list[str],
    groups: np.ndarray,
    seed: int,
    rare: Mapping[str, int],
) -> Rows:
    """A row per finding, and their mean over the defined ones with an interval from the same bootstrap samples.

    Rare findings have no interval. The mean is over the same findings in every sample: samples that lack one do not
    count, and if more than half do, the mean has no interval.
    """
    values = np.array([each(None) for each in statistics])
    drawn = resampled(statistics, groups, seed=seed)
    counted = [findings.index(name) for name in defined]
    rows = []
    for j, name in enumerate(findings):
        note = None
        if np.isfinite(values[j]) and name in rare:
            note = no_interval(rare[name])
        interval = percentiles(drawn[:, j]) if np.isfinite(values[j]) and note is None else (np.nan, np.nan)
        rows.append(score_row(metric, float(values[j]), interval, label=name, note=note))
    notes = [f"mean of {len(defined)} of {len(findings)} findings"]
    if few := [name for name in defined if name in rare]:
        notes.append(f"{len(few)} of them ({', '.join(few)}) in fewer than {FEWEST_GROUPS} patients or prompts")
    interval = percentiles(drawn[:, counted].mean(axis=1)) if counted else (np.nan, np.nan)
    if counted and np.isnan(interval[0]):
        notes.append("no interval: most bootstrap samples lack one of the findings")
    macro = score_row(metric, mean(values[counted]), interval, label="macro", n_labels=len(defined))
    return [*rows, macro | {"notes": notes}]


TITLES = {"auroc": "AUROC", "average_precision": "average precision"}
AGREEMENT = {"agreement_auroc": "AUROC", "agreement_f1": "F1", "pearson_r": "Pearson's r"}
POOLED = ("micro", "weighted")


def table(rows: Rows) -> str:
    """The scores as text: a row per finding, real and synthetic side by side, then the agreement."""
    cells = {(row["metric"], row["label"], row["images"]): row for row in rows}
    labels = list(dict.fromkeys(row["label"] for row in rows if row["label"]))
    lines = []
    for metric, title in TITLES.items():
        lines.append(f"{title:24}  {'real':>22}  {'synthetic':>22}")
        for label in labels:
            pair = [value_text(cells.get((metric, label, side))) for side in ("real", "synthetic")]
            lines.append(f"{label:24}  {pair[0]:>22}  {pair[1]:>22}")
    if any(row["metric"] in AGREEMENT for row in rows):
        lines.append(f"{'real image of the prompt':24}" + "".join(f"  {title:>22}" for title in AGREEMENT.values()))
        for label in labels:
            shown = [value_text(cells.get((metric, label, "synthetic"))) for metric in AGREEMENT]
            lines.append(f"{label:24}" + "".join(f"  {value:>22}" for value in shown))
        lines += [
            f"{name:24}  {value_text(cells[f'agreement_auroc_{name}', None, 'synthetic']):>22}" for name in POOLED
        ]
    n_real = cells["auroc", "macro", "real"]["n_real"]
    n_synthetic = cells["auroc", "macro", "synthetic"]["n_synthetic"]
    lines.append(f"{n_real} real and {n_synthetic} synthetic images; 95 % bootstrap intervals")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
