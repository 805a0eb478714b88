"""Sections of report.html for several models: a verdict, and a table for each metric with a column for each model."""

from collections.abc import Sequence

from eval.scores import Row, Rows
from eval.summary.blocks import Section, Table
from eval.summary.comparison import KEY
from eval.summary.measures import label_name, reads, short, with_arrow
from eval.summary.sections import SECTIONS
from eval.summary.tables import basis, groups, reference_cell, value_cell
from eval.summary.verdicts import copy_search

HEADLINES = (
    *("fd", "cmmd", "precision", "recall", "auroc", "average_precision", "alignment_over_shuffled"),
    *("text_to_image_recall@10", "ms_ssim_within_prompts", "copy_share", "utility_gain"),
)
OPEN = (*HEADLINES, "kid")  # metrics whose tables are not folded
DIVERSE = "more diverse"


def compared_sections(rows: Rows, differences: Rows, models: Sequence[str]) -> list[Section]:
    """The sections of all steps that have rows; those without a model of their own (utility) as for one model."""
    found = []
    steps = groups(rows, "step")
    for step in [*(step for step in SECTIONS if step in steps), *(step for step in steps if step not in SECTIONS)]:
        own = steps[step]
        if all(row["model"] is None for row in own) and step in SECTIONS:
            found.append(SECTIONS[step](own))
            continue
        section = Section(step.replace(" ", "-"))
        for metric, of_metric in groups(own, "metric").items():
            table = metric_table(of_metric, [row for row in differences if row["step"] == step], models)
            (section.tables if metric in OPEN or step not in SECTIONS else section.folded).append(table)
        if not section.tables:
            section.tables, section.folded = section.folded, []
        if step == "privacy":
            for model in models:
                section.points += [f"{model}: {line}" for line in copy_search([r for r in own if r["model"] == model])]
        found.append(section)
    return found


def verdict(rows: Rows, differences: Rows, models: Sequence[str]) -> Section:
    """Which model is better, in words and as a table of the headline measures."""
    chosen = [row for row in differences if row["metric"] in HEADLINES and row["label"] in (None, "macro")]
    section = Section("verdict")
    for model in models[1:]:
        own = [row for row in chosen if row["model"] == model]
        section.points += _in_words(own, model, models[0])
    known = [row for row in chosen if row["ci_low"] is not None]
    if known:
        by_chance = max(1, round(len(known) / 20))
        section.points.append(
            f"How sure: each interval by itself misses its true value in 5 % of cases; of the {len(known)} intervals in "
            f"this table about {by_chance} would exclude 0 by chance alone if the models were equal. They are not corrected "
            f"for this. They cover the choice of patients and prompts, not another training run: what differs are these "
            f"samples, not necessarily the training methods."
        )
    keys = {_key(row) for row in chosen}
    own = [row for row in rows if _key(row) in keys and row["model"] is not None]
    if own:
        section.tables = [metric_table(own, chosen, models, "The main measures", by_metric=True)]
    return section


def _in_words(rows: Rows, model: str, baseline: str) -> list[str]:
    """A sentence each: where a model is better, where worse, and where no difference is shown."""
    lines = []
    for result, words in (("better", "better"), ("worse", "worse")):
        found = [f"{_name(row)}: {value_cell(row)}" for row in rows if row["result"] == result]
        if found:
            lines.append(
                f"{model} is {words} than {baseline} in {len(found)} of {len(rows)} measures ({model} minus {baseline}, 95 % interval in brackets). {'; '.join(found)}."
            )
    none = [_name(row) for row in rows if row["result"] is None and row["ci_low"] is not None]
    if none:
        lines.append(
            f"No difference between {model} and {baseline} is shown in {len(none)} of {len(rows)} measures, which does not mean that there is none: {'; '.join(none)}."
        )
    unknown = [_name(row) for row in rows if row["ci_low"] is None]
    if unknown:
        lines.append(f"Without an interval, so not to be judged: {'; '.join(unknown)}.")
    if not rows:
        lines.append(f"{model} and {baseline} have no main measure in common.")
    return lines


def _name(row: Row) -> str:
    name = with_arrow(row["metric"])
    name += f" (mean of the findings; {row['n_positive']:,} positives)" if row.get("n_positive") else ""
    return name + (f" by {short(row['variant'])}" if row["variant"] else "")


def metric_table(
    rows: Rows, differences: Rows, models: Sequence[str], title: str = "", by_metric: bool = False
) -> Table:
    """A line for each label and network of a metric (or for each metric), a column for each model and difference."""
    metric = rows[0]["metric"]
    own = [row for row in rows if row["model"] in models and row["images"] != "real"]
    cells: dict[tuple[object, ...], dict[str, Row]] = {}
    for row in own or rows:
        cells.setdefault(_key(row), {})[row["model"] or models[0]] = row
    changes = {(_key(row), row["model"]): row for row in differences}
    reals = {(row["metric"], row["label"], row["preset"]): row for row in rows if row["images"] == "real"}
    footnotes: dict[str, int] = {}

    def mark(texts: Sequence[str | None]) -> str:
        return ", ".join(str(footnotes.setdefault(text, len(footnotes) + 1)) for text in texts if text)

    body = []
    for key, by_model in cells.items():
        first = next(iter(by_model.values()))
        changed = [changes.get((key, model)) for model in models[1:]]
        line = [_line_name(first, by_metric), _basis(by_model, models)]
        line += [value_cell(by_model[model]) if model in by_model else "" for model in models]
        for model, row in zip(models[1:], changed, strict=True):
            line += [value_cell(row) if row and row["value"] is not None else "–", _in_a_word(row, model, models[0])]
        line += [
            value_cell(reals.get((first["metric"], first["label"], first["preset"]))),
            _references(by_model, models),
        ]
        line += [mark([text for row in changed if row for text in (row["paired"], *row["notes"])])]
        body.append(line)
    header = ["measure" if by_metric else "finding or network", "based on", *models]
    for model in models[1:]:
        header += [f"{model} minus {models[0]} (95 % interval)", "so"]
    header += ["real images", "floor or chance", "interval of the difference"]
    used = [j for j in range(len(header)) if j < 2 + len(models) or any(line[j] not in ("", "–") for line in body)]
    numbers = [place for place, j in enumerate(used) if 2 <= j < len(header) - 1 and header[j] != "so"]
    heading = title or with_arrow(metric)
    text = "" if by_metric else reads(metric)
    text = f"{text[:1].upper()}{text[1:]}." if text else ""
    return Table(
        [header[j] for j in used], [[line[j] for j in used] for line in body], numbers, heading, text, list(footnotes)
    )


def _line_name(row: Row, by_metric: bool) -> str:
    by = [short(row["variant"])] if row["variant"] else []
    label = [label_name(row["label"])] if row["label"] else []
    if by_metric:
        return ", ".join([with_arrow(row["metric"]), *label, *(f"by {name}" for name in by)])
    return (
        ", ".join([*label, *by, *([row["preset"]] if row["preset"] and row["preset"] not in by else [])])
        or "all images"
    )


def _basis(by_model: dict[str, Row], models: Sequence[str]) -> str:
    """What the values rest on, once where it is the same for all models."""
    texts = {model: basis(by_model[model]) for model in models if model in by_model}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{model}: {text}" for model, text in texts.items())


def _references(by_model: dict[str, Row], models: Sequence[str]) -> str:
    texts = {model: reference_cell(by_model[model]) for model in models if model in by_model}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{model}: {text}" for model, text in texts.items())


def _in_a_word(row: Row | None, model: str, baseline: str) -> str:
    """What a difference says."""
    if row is None or row["value"] is None:
        return "not compared"
    if row["ci_low"] is None:
        return "no interval"
    if row["result"] is None:
        return "no difference shown"
    if row["result"] in ("higher", "lower"):
        return f"{model} {row['result']}"
    winner = model if row["result"] == "better" else baseline
    return f"{winner} {DIVERSE if DIVERSE in reads(row['metric']) else 'better'}"


def _key(row: Row) -> tuple[object, ...]:
    return tuple(row.get(name) for name in KEY)
