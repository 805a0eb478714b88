"""The verdict on several models: what differs, by kinds of measure, and whether a model is as good as real images."""

from collections.abc import Sequence

from eval.scores import Row, Rows
from eval.summary.blocks import Card, Section
from eval.summary.comparison import TOO_FEW, row_key, side_key
from eval.summary.comparison_sections import HEADLINES, OF_ALL, in_a_word, metric_table
from eval.summary.measures import aim_of, better, has_aim, metric_name, short, with_arrow
from eval.summary.plots import SYNTHETIC, Line, Mark, interval_text, number
from eval.summary.sections import paired
from eval.summary.tables import groups, reaches, value_cell

WORDS = {
    "better": "Better",
    "worse": "Worse",
    "mixed": "Better by one network and worse by another",
    "higher": "{model} higher",
    "lower": "{model} lower",
    "few": "Too few images, positives or searches to judge",
    "none": "No difference shown, which does not mean that there is none",
}
TOPICS = {"fidelity": "fidelity", "classifier": "the findings", "alignment": "alignment", "retrieval": "retrieval"}
HOW_SURE = (
    "How sure: each of the {n} intervals misses its true value in 5 % of cases; if the models were equal, about "
    "{chance} would exclude 0 by chance. They are not corrected for this. They cover the choice of patients and "
    "prompts, not another training run: these samples differ, not necessarily the ways of training. Measures are not "
    "independent, and which of them matters is for the reader to say."
)
REACHED = (
    "Reaches real images: at the floor's N a distance or share lies within the range of real against real, or is "
    "better; of other measures the interval overlaps that of the real images, or is better."
)


def verdict(rows: Rows, differences: Rows, models: Sequence[str]) -> Section:
    """Which model is better, and whether either is as good as real images, in words, as a plot and as a table."""
    chosen = [row for row in differences if row["metric"] in HEADLINES and row["label"] in OF_ALL]
    keys = {row_key(row) for row in chosen}
    shown = [row for row in rows if row_key(row) in keys and row["model"] is not None]
    real = {side_key(row): row for row in rows if row["images"] == "real" and row["metric"] in HEADLINES}
    section = Section("verdict")
    for model in models[1:]:
        own = [row for row in chosen if row["model"] == model]
        section.points += _in_words([row for row in own if not has_aim(row["metric"])], shown, model, models[0])
    section.points += against_real(shown, real, models)
    for model in models[1:]:
        own = [row for row in chosen if row["model"] == model]
        section.points += [_aimed(row, shown, models) for row in own if has_aim(row["metric"])]
        if lines := _lines(own):
            title = f"{model} minus {models[0]}: {model} is better right of the dashed line, {models[0]} left of it"
            reach = max(1.0, *(abs(end) for line in lines for end in line.marks[0].interval or ()))
            note = (
                "Differences in units of half their interval's width, so that measures with different scales share an "
                "axis, and turned so that right is better: bars that cross the dashed line include 0. In digits: the "
                "difference in the measure's own scale; of measures with ↓ one above 0 is on the left."
            )
            section.cards += paired([Card(title, lines, (-reach, reach), notes=[note])])
    known = sum(row["ci_low"] is not None for row in chosen)
    if known:
        section.points.append(HOW_SURE.format(n=known, chance=max(1, round(known / 20))))
    if shown:
        table = metric_table([*shown, *real.values()], chosen, models, "The main measures", by_metric=True)
        section.tables = [table._replace(text=REACHED)]
    return section


def _in_words(rows: Rows, measured: Rows, model: str, baseline: str) -> list[str]:
    """The result in one sentence, which measures are behind it, and topics in which nothing differs."""
    if not rows:
        return [f"{model} and {baseline} have no main measure in common."]
    kinds = {metric: _of_kind(own) for metric, own in groups(rows, "metric").items()}
    outcomes = list(kinds.values())
    counts = {word: outcomes.count(word) for word in ("better", "worse")}
    of = f"of {len(kinds)} {'kind' if len(kinds) == 1 else 'kinds'} of measure"
    several = "".join(_of_networks(rows, kinds, word) for word in counts)
    if "better" not in outcomes and "worse" not in outcomes:
        lines = [f"No difference between {model} and {baseline} is shown in any {of}."]
    elif "better" not in outcomes:
        lines = [f"{model} is worse than {baseline} in {counts['worse']} {of}{several}, and better in none."]
    elif "worse" not in outcomes:
        lines = [f"{model} is better than {baseline} in {counts['better']} {of}{several}, and worse in none."]
    else:
        lines = [
            f"{model} is better than {baseline} in {counts['better']} and worse in {counts['worse']} {of}{several}."
        ]
    known = groups([row for row in rows if row["ci_low"] is not None], "step")
    equal = [TOPICS[step] for step, own in known.items() if step in TOPICS and {*map(_outcome, own)} == {"none"}]
    if equal:
        lines.append(f"No measure of {' or of '.join(equal)} differs.")
    for outcome, words in WORDS.items():
        named = [_named(metric, rows) for metric, found in kinds.items() if found == outcome]
        if named:
            lines.append(f"{words}: {', '.join(named)}.".format(model=model, baseline=baseline))
    lines += [_unknown(row, measured, (baseline, model)) for row in rows if row["ci_low"] is None]
    return lines


def _of_kind(rows: Rows) -> str:
    """The outcome of a measure by all its networks."""
    results = {_outcome(row) for row in rows if row["ci_low"] is not None}
    if not results:
        return "unknown"
    if {"better", "worse"} <= results:
        return "mixed"
    return next(iter([*(results - {"few", "none"}), *(results & {"none"}), "few"]))


def _outcome(row: Row) -> str:
    return str(row["result"] or ("few" if TOO_FEW in row["notes"] else "none"))


def _of_networks(rows: Rows, kinds: dict[str, str], outcome: str) -> str:
    """How many kinds of measure have an outcome with all of several networks, in brackets."""
    own = [found for metric, found in groups(rows, "metric").items() if kinds[metric] == outcome and len(found) > 1]
    if not own:
        return ""
    agreed = sum(all(row["result"] == outcome for row in found) for found in own)
    n = max(map(len, own))
    return f" ({outcome} with {'both' if n == 2 else f'all {n}'} networks: {agreed})"


def _named(metric: str, rows: Rows) -> str:
    own = [row for row in rows if row["metric"] == metric]
    by = [short(row["variant"]) for row in own if row["variant"]]
    by += [f"{row['n_positive']:,} positives" for row in own if row.get("n_positive")]
    return f"{with_arrow(metric)} ({', '.join(by)})" if by else with_arrow(metric)


def _unknown(change: Row, rows: Rows, models: Sequence[str]) -> str:
    """A measure of which no interval of the difference is known, with the values of both."""
    values = _values(change, rows)
    name = metric_name(change["metric"]) + (f" by {short(change['variant'])}" if change["variant"] else "")
    both = [values[model] for model in models if model in values]
    if change["metric"] == "copy_share" and len(both) == 2 and all("n_copies" in row for row in both):
        cells = []
        for row in both:
            ends = interval_text(row["value"], row["ci_low"], row["ci_high"])
            cells.append((f"{row['n_copies']:,} of {row['n_synthetic']:,}", ends))
        if cells[0] == cells[1]:
            each = f" (each {cells[0][1]})" if cells[0][1] else ""
            return f"{name[:1].upper()}{name[1:]}: {cells[0][0]} in both{each}; their difference has no interval."
    each = ", ".join(f"{model} {value_cell(values[model])}" for model in models if model in values)
    return f"{name[:1].upper()}{name[1:]}: {each}; their difference has no interval."


def _aimed(change: Row, rows: Rows, models: Sequence[str]) -> str:
    """A measure that is not counted, because values on either side of its aim are worse."""
    values = _values(change, rows)
    aim = next((aim for row in values.values() if (aim := aim_of(row)) is not None), None)
    name = metric_name(change["metric"])
    each = ", ".join(f"{model} {value_cell(values[model])}" for model in models if model in values)
    if aim is None:
        return f"Not counted, because it has an aim: {name}, whose real value is not known here: {each}."
    result = in_a_word(change, change["model"], change["baseline"])
    return f"Not counted, because it has an aim, the real value {number(aim)}: {name}; {each}. The difference {result}."


def against_real(rows: Rows, real: dict[tuple[object, ...], Row], models: Sequence[str]) -> list[str]:
    """Whether the models are as good as real images, by the floor and by the values of real images."""
    fidelity = [row for row in rows if row["step"] == "fidelity" and reaches(row)]
    others = [
        row
        for row in rows
        if row["step"] != "fidelity" and better(row["metric"]) and reaches(row, real.get(side_key(row)))
    ]
    lines = []
    if fidelity:
        n = " and ".join(f"{n:,}" for n in sorted({row["floor_n"] for row in fidelity}))
        reached = {m: [row for row in fidelity if row["model"] == m and reaches(row) == "yes"] for m in models}
        counts = {m: sum(row["model"] == m for row in fidelity) for m in models}
        if not any(reached.values()):
            who = "Neither model reaches" if len(models) == 2 else "No model reaches"
            each = max(counts.values())
            lines.append(
                f"{who} the floor in any of the {each} main values of fidelity: at N = {n} they lie outside the range "
                "of real against real."
            )
        else:
            each = [
                f"{m} in {len(found)} of {counts[m]}" + (f" ({', '.join(map(_of_network, found))})" if found else "")
                for m, found in reached.items()
            ]
            lines.append(
                f"The floor (real against real, at N = {n}) is reached by {'; '.join(each)} values of fidelity."
            )
    missed: list[str] = []
    met: list[str] = []
    for _, own in _by_key(others).items():
        of_real = real[side_key(own[0])]
        values = " and ".join(number(row["value"]) for row in own)
        text = f"{metric_name(own[0]['metric'])} ({values} against {number(of_real['value'])})"
        answers = {reaches(row, of_real) for row in own}
        (missed if answers == {"no"} else met).append(text)
    if missed:
        who = "Neither model reaches" if len(models) == 2 else "No model reaches"
        lines.append(f"{who} the real images in {', '.join(missed)}.")
    if met:
        lines.append(f"At least one model is not told apart from the real images in {', '.join(met)}.")
    return lines


def _of_network(row: Row) -> str:
    return f"{metric_name(row['metric'])} by {short(row['variant'])}"


def _lines(rows: Rows) -> list[Line]:
    """Differences over half the width of their interval, turned so that more is better."""
    lines = []
    for row in rows:
        if row["ci_low"] is None or better(row["metric"]) is None:
            continue
        half = (row["ci_high"] - row["ci_low"]) / 2
        sign = 1 if better(row["metric"]) == "higher" else -1
        low, high = sorted((sign * row["ci_low"] / half, sign * row["ci_high"] / half))
        name = with_arrow(row["metric"]) + (f", {short(row['variant'])}" if row["variant"] else "")
        mark = Mark(sign * row["value"] / half, SYNTHETIC, low, high, value_cell(row))
        lines.append(Line(name, (mark,), at=0.0))
    return lines


def _values(change: Row, rows: Rows) -> dict[str, Row]:
    return {row["model"]: row for row in rows if row_key(row) == row_key(change)}


def _by_key(rows: Rows) -> dict[tuple[object, ...], Rows]:
    found: dict[tuple[object, ...], Rows] = {}
    for row in rows:
        found.setdefault(row_key(row), []).append(row)
    return found
