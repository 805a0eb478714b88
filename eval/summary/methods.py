"""The methods of report.html: definition, parameters, interval and source of every measure on the page."""

import json
from importlib.resources import files
from typing import Any

from eval.scores import Rows
from eval.summary.blocks import Section, Table

METHODS: list[dict[str, Any]] = json.loads(files("eval.summary").joinpath("methods.json").read_text(encoding="utf-8"))
INTERVALS = {
    "halves": "Half-samples (see above).",
    "patients": "Bootstrap of patients or prompts (see above).",
    "pairs": "Bootstrap of patients or prompts; a pair occurs as often as the product of its two counts.",
}
PARAMETERS = {
    "k": "k",
    "subset_size": "subset size",
    "subsets": "subsets",
    "dimension": "dimension",
    "floor_splits": "splits of the floor",
    "preset": "preset",
    "uncertain": "uncertain labels",
}
DRAWS = {"bootstrap": "bootstrap samples", "half": "half-samples", "jackknife": "blocks"}
HALVES = (
    "Half-samples: random halves of the patients (real) and of the prompts (synthetic) are drawn without replacement,"
    " and the standard deviation of the value between such halves is the standard error of the value of all (Shao and"
    " Wu 1989, Ann. Statist. 17:1176; Politis and Romano 1994, ibid. 22:2031). The interval is the value ± 1.96 of "
    "them; of precision, recall and coverage Wilson's interval (1927). A bootstrap would draw images twice, which are"
    " then their own nearest neighbours. The bias of a distance at this number of images stays in the value and its "
    "interval."
)
BOOTSTRAP = (
    "Bootstrap: patients (of synthetic images their prompts, together with the patient where he or she is known) are "
    "drawn with replacement with all their images; the interval is from the 2.5th to the 97.5th percentile (Efron and"
    " Tibshirani 1993). Images without a patient or prompt are drawn one by one; texts are drawn where a measure is of "
    "texts (Provenance has the numbers of rows, texts, prompts and patients). Of 0 detected copies the upper end is "
    "3/n, n being the prompts (ids) of all samples; of 0 prompts that repeat an image, n is the texts with several "
    "samples. Where all resamples are equal there is no interval: nothing varied, which does not show how sure a value "
    "is."
)
FLOOR = (
    "Floor: the same measure between two random halves of the real images; no patient is in both halves if patients "
    "are known (column subject_id). It is the mean over several splits, with the lowest and highest in square "
    "brackets. It has fewer images than the value, so compare it with the value at the floor's N."
)
DIFFERENCES = (
    "Difference of two models: both are measured on the same real images. Their draws have the same seed, so that "
    "each draw takes the same real patients and, where both models have samples of the same prompts, the same "
    "prompts; the interval is that of the difference within each draw. It is given beside each table where draws are "
    "not the same for both. An interval without 0 is written as a difference, any other as not shown. Fewer than 20 "
    "images, positives, negatives or searches give no verdict. A measure with an aim has no better side: it is said "
    "which model is nearer, if both are on the same side of the aim."
)
COVERS = (
    "What no interval on this page covers: another training run of the same model, another choice of sampling steps "
    "or guidance, another hospital."
)


def methods(rows: Rows, several: bool) -> Section:
    """How the values of `rows` were made; `several` models have differences."""
    shown = {row["metric"] for row in rows}
    body: list[list[str | dict[str, str]]] = []
    for one in METHODS:
        own = [row for row in rows if row["metric"] in one["metrics"]]
        if own:
            interval = INTERVALS.get(one["interval"], one["interval"])
            body.append([one["measure"], one["how"], _parameters(own), interval, one["source"]])
    known = {metric for one in METHODS for metric in one["metrics"]}
    body += [[metric, "Not described here.", {}, "", ""] for metric in sorted(shown - known)]
    points = [FLOOR, HALVES, BOOTSTRAP, *([DIFFERENCES] if several else []), COVERS] if rows else []
    header = ["measure", "definition", "parameters", "95 % interval", "source"]
    return Section("methods", points=points, tables=[Table(header, body)] if body else [])


def _parameters(rows: Rows) -> dict[str, str]:
    """Values of the parameter columns, each once, and how many draws the intervals have."""
    found = {}
    for column, name in PARAMETERS.items():
        values = dict.fromkeys(str(row[column]) for row in rows if row.get(column) not in (None, 0))
        if values:
            found[name] = ", ".join(values)
    for kind, name in DRAWS.items():
        counts = sorted({len(row["draws"]) for row in rows if row.get("draws_kind") == kind})
        if counts:
            found[name] = ", ".join(f"{n:,}" for n in counts)
    return found
