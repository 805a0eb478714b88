"""Sections of report.html for several models: a verdict, and a table for each metric with a column for each model."""

from collections.abc import Callable, Sequence

from eval.scores import Row, Rows
from eval.summary.blocks import Section, Table
from eval.summary.comparison import KEY, row_key
from eval.summary.measures import capital, label_name, reads, short, with_arrow
from eval.summary.plots import number
from eval.summary.sections import SECTIONS
from eval.summary.tables import basis, groups, reference_cell, value_cell
from eval.summary.verdicts import copy_search

HEADLINES = (
    *("fd", "cmmd", "precision", "recall", "auroc", "average_precision", "alignment_over_shuffled"),
    *("text_to_image_recall@10", "ms_ssim_within_prompts", "copy_share", "utility_gain"),
)
OPEN = (*HEADLINES, "kid")  # metrics whose tables are not folded
DIVERSE, AT_FLOOR, WAY = "more diverse", "models at the floor's N", "interval made by"
WORDS = {
    "better": "Better",
    "worse": "Worse",
    "higher": "{model} higher",
    "lower": "{model} lower",
    "none": "No difference shown, which does not mean that there is none",
    "unknown": "Without an interval, so not to be judged",
}
HOW_SURE = (
    "How sure: each of the {n} intervals misses its true value in 5 % of cases; if the models were equal, about "
    "{chance} would exclude 0 by chance. They are not corrected for this. They cover the choice of patients and "
    "prompts, not another training run: these samples differ, not necessarily the ways of training. Measures are not "
    "independent, and which of them matters is for the reader to say."
)


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
        section.points += _in_words([row for row in chosen if row["model"] == model], model, models[0])
    known = sum(row["ci_low"] is not None for row in chosen)
    if known:
        section.points.append(HOW_SURE.format(n=known, chance=max(1, round(known / 20))))
    keys = {row_key(row) for row in chosen}
    own = [row for row in rows if row_key(row) in keys and row["model"] is not None]
    if own:
        section.tables = [metric_table(own, chosen, models, "The main measures", by_metric=True)]
    return section


def _in_words(rows: Rows, model: str, baseline: str) -> list[str]:
    """The result in one sentence, and which measures are behind it."""
    names: dict[str, dict[str, list[str]]] = {}
    results = [row["result"] or ("none" if row["ci_low"] is not None else "unknown") for row in rows]
    for row, result in zip(rows, results, strict=True):
        by = [short(row["variant"])] if row["variant"] else []
        positives = [f"{row['n_positive']:,} positives"] if row.get("n_positive") else []
        names.setdefault(result, {}).setdefault(with_arrow(row["metric"]), []).extend(by + positives)
    better, worse = results.count("better"), results.count("worse")
    if not rows:
        return [f"{model} and {baseline} have no main measure in common."]
    if better and worse:
        lines = [f"{model} is better than {baseline} in {better} and worse in {worse} of {len(rows)} main measures."]
    elif better:
        lines = [f"{model} is better than {baseline} in {better} of {len(rows)} main measures, and worse in none."]
    elif worse:
        lines = [f"{model} is worse than {baseline} in {worse} of {len(rows)} main measures, and better in none."]
    else:
        lines = [f"No difference between {model} and {baseline} is shown in any of {len(rows)} main measures."]
    for result, words in WORDS.items():
        if result in names:
            listed = [f"{name} ({', '.join(by)})" if by else name for name, by in names[result].items()]
            lines.append(f"{words}: {', '.join(listed)}.".format(model=model, baseline=baseline))
    return lines


def metric_table(
    rows: Rows, differences: Rows, models: Sequence[str], title: str = "", by_metric: bool = False
) -> Table:
    """A line for each label and network of a metric (or for each metric), a column for each model and difference."""
    own = [row for row in rows if row["model"] in models and row["images"] != "real"]
    cells: dict[tuple[object, ...], dict[str, Row]] = {}
    for row in own or rows:
        cells.setdefault(row_key(row), {})[row["model"] or models[0]] = row
    changes = {(row_key(row), row["model"]): row for row in differences}
    reals = {_side_key(row): row for row in rows if row["images"] == "real"}
    footnotes: dict[str, int] = {}
    body = []
    for key, by_model in cells.items():
        first = next(iter(by_model.values()))
        changed = [changes.get((key, model)) for model in models[1:]]
        line = [_line_name(first, by_metric)]
        line += [value_cell(by_model[model]) if model in by_model else "" for model in models]
        for model, change in zip(models[1:], changed, strict=True):
            line += [value_cell(change), _in_a_word(change, model, models[0])]
        said = [f"Interval of the difference: {change['paired']}" for change in changed if change and change["paired"]]
        said += [note for change in changed if change for note in change["notes"]]
        line += [
            _once(by_model, models, basis),
            value_cell(reals.get(_side_key(first))),
            _once(by_model, models, reference_cell),
            _at_floor(by_model, models),
            ", ".join(str(footnotes.setdefault(text, len(footnotes) + 1)) for text in dict.fromkeys(said)),
        ]
        body.append(line)
    header = ["measure" if by_metric else "finding or network", *models]
    for model in models[1:]:
        header += [f"{model} minus {models[0]}", "result"]
    header += ["based on", "real images", "floor or chance", AT_FLOOR, WAY]
    used = [j for j in range(len(header)) if j <= len(models) or any(line[j] not in ("", "–") for line in body)]
    ways = list(footnotes)
    if len(ways) == 1 and all(line[-1] for line in body):
        used.remove(len(header) - 1)
    words = ("result", "based on", WAY)
    numbers = [place for place, j in enumerate(used) if j and header[j] not in words]
    text = "" if by_metric else reads(rows[0]["metric"])
    text = f"{capital(text)}." if text else ""
    body = [[line[j] for j in used] for line in body]
    return Table([header[j] for j in used], body, numbers, title or with_arrow(rows[0]["metric"]), text, ways)


def _line_name(row: Row, by_metric: bool) -> str:
    by = [short(row["variant"])] if row["variant"] else []
    label = [label_name(row["label"])] if row["label"] else []
    if by_metric:
        return ", ".join([with_arrow(row["metric"]), *label, *(f"by {name}" for name in by)])
    preset = [row["preset"]] if row["preset"] and row["preset"] not in by else []
    return ", ".join([*label, *by, *preset]) or "all images"


def _once(by_model: dict[str, Row], models: Sequence[str], cell: Callable[[Row], str]) -> str:
    """A cell of all models: once where it is the same for all, else after their names."""
    texts = {model: cell(by_model[model]) for model in models if model in by_model}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{model}: {text}" for model, text in texts.items())


def _at_floor(by_model: dict[str, Row], models: Sequence[str]) -> str:
    """The values between as many images as the floor has, to compare with it."""
    known = {model: row for model, row in by_model.items() if row.get("value_at_floor_n") is not None}
    if not known:
        return ""
    values = [number(known[model]["value_at_floor_n"]) if model in known else "–" for model in models]
    counts = sorted({row["floor_n"] for row in known.values()})
    return f"{' and '.join(values)} (N = {' and '.join(f'{n:,}' for n in counts)})"


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


def _side_key(row: Row) -> tuple[object, ...]:
    return tuple(row.get(name) for name in KEY if name != "images")
