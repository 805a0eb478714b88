"""Sections of report.html for several models: a table for each metric with a column for each model and difference."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from eval.scores import ALL_EQUAL, Row, Rows
from eval.summary.blocks import Section, Table
from eval.summary.comparison import TOO_FEW, row_key, side_key
from eval.summary.measures import capital, caveats, label_name, reads, short, with_arrow
from eval.summary.plots import number
from eval.summary.sections import SECTIONS
from eval.summary.tables import REACHES, basis, digits_of, groups, reaches, references, value_cell
from eval.summary.verdicts import copy_search, repeated_prompts

HEADLINES = (
    *("fd", "cmmd", "precision", "recall", "auroc", "average_precision", "alignment_over_shuffled"),
    *("text_to_image_recall@10", "ms_ssim_within_prompts", "copy_share"),
)
OPEN = (*HEADLINES, "kid", "repeated_prompt_share")  # metrics whose tables are not folded
OF_ALL = (None, "macro")  # labels of a value of all images, or of the mean of the findings
EXPLORATORY = (
    "Exploratory: {m:,} comparisons of single findings below, of which about {chance} would exclude 0 by chance if the "
    "models were equal."
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
        changed = [row for row in differences if row["step"] == step]
        for metric, of_metric in groups(own, "metric").items():
            table = metric_table(of_metric, changed, models)
            (section.tables if metric in OPEN or step not in SECTIONS else section.folded).append(table)
        if not section.tables:
            section.tables, section.folded = section.folded, []
        if known := sum(row["ci_low"] is not None and row["label"] not in OF_ALL for row in changed):
            section.texts.append(EXPLORATORY.format(m=known, chance=max(1, round(known / 20))))
        if step == "privacy":
            for model in models:
                of_model = [row for row in own if row["model"] == model]
                section.points += [f"{model}: {line}" for line in repeated_prompts(of_model) + copy_search(of_model)]
        found.append(section)
    return found


def metric_table(
    rows: Rows, differences: Rows, models: Sequence[str], title: str = "", by_metric: bool = False
) -> Table:
    """A line for each label and network of a metric (or for each metric), a column for each model and difference.

    All numbers of a network (or of a line, `by_metric`) have the same number of decimals.
    """
    own = [row for row in rows if row["model"] in models and row["images"] != "real"]
    cells: dict[tuple[object, ...], dict[str, Row]] = {}
    for row in own or rows:
        cells.setdefault(row_key(row), {})[row["model"] or models[0]] = row
    changes = {(row_key(row), row["model"]): row for row in differences}
    reals = {side_key(row): row for row in rows if row["images"] == "real"}
    footnotes: dict[str, int] = {}
    body = []
    for key, by_model in cells.items():
        first = next(iter(by_model.values()))
        shown = list(by_model.values()) if by_metric else [r for r in own or rows if r["variant"] == first["variant"]]
        digits = digits_of(shown)
        real = reals.get(side_key(first))
        changed = [changes.get((key, model)) for model in models[1:]]
        based = _once(by_model, models, basis)
        about = [capital(reads(first["metric"]))] if by_metric else []
        line = ["\n".join([_line_name(first, by_metric), *about, *([f"Based on {based}"] if based else [])])]
        line += [_model_cell(by_model.get(model), digits) for model in models]
        for model, change in zip(models[1:], changed, strict=True):
            line += [value_cell(change, digits), in_a_word(change, model, models[0])]
        said = _remarks(by_model.values(), changed)
        line += [
            _once(by_model, models, partial(references, real=real), "\n"),
            _once(by_model, models, partial(reaches, real=real), "\n"),
            ", ".join(str(footnotes.setdefault(text, len(footnotes) + 1)) for text in said),
        ]
        body.append(line)
    header = ["measure" if by_metric else "finding or network", *models]
    for model in models[1:]:
        header += [f"{model} minus {models[0]}", "result"]
    header += ["reference", REACHES, "notes"]
    used = [j for j in range(len(header)) if j <= len(models) or any(line[j] not in ("", "–") for line in body)]
    notes = list(footnotes)
    if len(notes) == 1 and all(line[-1] for line in body):
        used.remove(len(header) - 1)
    words = ("result", "reference", REACHES, "notes")
    numbers = [place for place, j in enumerate(used) if j and header[j] not in words]
    text = "" if by_metric else reads(rows[0]["metric"])
    text = f"{capital(text)}." if text else ""
    body = [[line[j] for j in used] for line in body]
    return Table([header[j] for j in used], body, numbers, title or with_arrow(rows[0]["metric"]), text, notes)


def _remarks(rows: Iterable[Row], changed: Sequence[Row | None]) -> list[str]:
    """Footnotes of a line: how the interval of the difference was made, and why something has none."""
    found = [f"Interval of the difference: {change['paired']}" for change in changed if change and change["paired"]]
    found += [note for change in changed if change for note in change["notes"]]
    found += [capital(note) for row in rows for note in caveats(row) if note.startswith(ALL_EQUAL)]
    return list(dict.fromkeys(found))


def _line_name(row: Row, by_metric: bool) -> str:
    by = [short(row["variant"])] if row["variant"] else []
    label = [label_name(row["label"])] if row["label"] else []
    if by_metric:
        return ", ".join([with_arrow(row["metric"]), *label, *(f"by {name}" for name in by)])
    preset = [row["preset"]] if row["preset"] and row["preset"] not in by else []
    return ", ".join([*label, *by, *preset]) or "all images"


def _once(by_model: dict[str, Row], models: Sequence[str], cell: Callable[[Row], str], between: str = "; ") -> str:
    """A cell of all models: once where it is the same for all, else after their names."""
    texts = {model: cell(by_model[model]) for model in models if model in by_model}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return between.join(f"{model}: {text}" for model, text in texts.items())


def _model_cell(row: Row | None, digits: int) -> str:
    """The value with its interval, and below it that between as many images as the floor has, to compare with it."""
    if row is None:
        return ""
    at = row.get("value_at_floor_n")
    return value_cell(row, digits) + ("" if at is None else f"\n{number(at)} at N = {row['floor_n']:,}")


def in_a_word(row: Row | None, model: str, baseline: str) -> str:
    """What a difference says."""
    if row is None or row["value"] is None:
        return "not compared"
    if row["ci_low"] is None:
        return "no interval"
    if TOO_FEW in row["notes"]:
        return "too few images to judge"
    if row["result"] is None:
        return "includes 0: no difference shown"
    if row["result"] in ("nearer", "farther"):
        return f"excludes 0: {model} {row['result']} {'to' if row['result'] == 'nearer' else 'from'} the aim"
    if row["result"] in ("higher", "lower"):
        return f"excludes 0: {model} {row['result']}"
    return f"excludes 0: {model if row['result'] == 'better' else baseline} better"
