"""Write report.html of a grid, in the manner of the evaluation's: tables, plots and pictures in one file."""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from ablation.cells import Plan, task_folder, task_output, with_folders
from ablation.estimates import Estimate
from ablation.grid import SEED
from ablation.launcher import LOG
from ablation.plots import MOST_SERIES, numbers_of, profile
from ablation.progress import DONE, FAILED
from ablation.results import Arms, Difference, Key, Measured
from ablation.runner import KILLED, read_state
from ablation.tables import column_name, differences_table, notes, ranks_table, values_table
from eval.inputs.folders import is_phantom, read_folder, read_samples, same_prompts, spread_out
from eval.summary.blocks import Card, Matrix, Section, Table
from eval.summary.html import page_template
from eval.summary.measures import better, reads
from eval.summary.pictures import picture
from eval.summary.plots import SYNTHETIC, Line, Mark, Point
from eval.summary.provenance import today
from sdcxr.io.files import write_text
from sdcxr.runtime.errors import UserError

REPORT = "report.html"
MOST_PICTURED = 20  # cells in the sample matrix
MOST_PROMPTS = 8  # columns of it
THUMBNAIL = 128  # pixels
MOST_LINES = 16  # cells in a plot by cell: the best of more, and the baseline
LEADING = "the best by the first measure, and the baseline"
LONGEST_TABLE = 40  # rows; of more the best ones, and all on demand
MOST_NUMBERED = 12  # points of a plot that all have a number; of more those that are not surpassed in both
MOST_CARDS = 40  # plots against an axis
PHANTOMS = "The real images are phantoms, drawn by a program: no number here is about radiographs of patients."
METHODS = (
    "A value is the mean over the seeds of a cell. Its interval has two sources of variance: the prompts "
    "(patients), from the draws that the evaluation keeps, averaged over seeds, which preserves what seeds have in "
    "common; and the seeds, by Student's t. The squares of both halves add up. "
    "Differences are paired: the same seeds, prompts and draws on both sides.",
    "p-values are corrected by Holm's method over all cells and metrics of the table against the baseline.",
    "The interval of a rank goes from one behind all cells that are significantly better to one before all that are "
    "significantly worse, by Holm's method over the differences of a cell to the others. Equal values share a rank.",
)


def write_report(
    path: Path, plan: Plan, arms: Arms, differences: Sequence[Difference], measured: Sequence[Measured], prompts: bool
) -> None:
    """Write the page atomically; `prompts`: also texts that can be those of patients."""
    root = path.parent
    reals = {real for one in measured if (real := real_of(root, plan, one)) is not None}
    phantom = PHANTOMS if any(map(is_phantom, reals)) else ""
    page = page_template(Path(__file__).with_name("report.html.j2")).render(
        title=plan.grid.title or "Ablation",
        source=plan.grid.source,
        counts=f"{len(measured)} of {len(plan.cells)} cells are measured.",
        date=today(),
        phantom=phantom,
        warnings=[],
        tiles=[],
        models=[],
        command="",
        sections=_sections(root, plan, arms, differences, prompts),
    )
    write_text(path, page)


def real_of(root: Path, plan: Plan, one: Measured) -> Path | None:
    """The real images that a cell was measured with."""
    flags = plan.tasks[one.cell.tasks[plan.grid.measure]].flags
    real = with_folders(flags, lambda key: task_output(root, plan.tasks[key])).get("real")
    return Path(real) if isinstance(real, str) else None


def _sections(root: Path, plan: Plan, arms: Arms, differences: Sequence[Difference], prompts: bool) -> list[Section]:
    values, best = values_table(arms)
    shown = [
        [f"{cell} (best)" if (i, j) in best else cell for j, cell in enumerate(row)]
        for i, row in enumerate(values.rows)
    ]
    remarks = [note.replace("bold:", "(best):") for note in notes(arms, differences)]
    tables = {"values": values._replace(rows=shown, footnotes=remarks)}
    tables |= {"ranks": ranks_table(arms)} if arms.ranks else {}
    tables |= {"differences": differences_table(arms, differences)} if differences else {}
    first = {*_leading(arms, next(iter(arms.columns), None)), arms.baseline}
    sections = [_section(anchor, table._replace(title=""), first) for anchor, table in tables.items()]
    if cards := profiles(plan, arms):
        sections.append(Section("axes", cards=cards))
    cards = [card for card in (trade_off(arms), *(metric_card(arms, key) for key in arms.columns)) if card is not None]
    sections += [Section("plots", cards=cards)] if cards else []
    return [*sections, *sample_matrix(root, plan, arms, prompts), _cells(root, plan), Section("methods", list(METHODS))]


def _section(anchor: str, table: Table, first: Set[str | None], which: str = LEADING) -> Section:
    """The table; of a long one the rows of `first`, and all rows on demand."""
    if len(table.rows) <= LONGEST_TABLE:
        return Section(anchor, tables=[table])
    rows = [row for row in table.rows if row[0] in first]
    about = [f"{len(rows)} of {len(table.rows)} rows: {which}."] if rows else []
    return Section(
        anchor, about, tables=[table._replace(rows=rows)] if rows else [], folded=[table._replace(footnotes=())]
    )


def _leading(arms: Arms, key: Key | None) -> list[str]:
    """The best arms in a metric, as many as a plot holds; without ranks the first ones."""
    ranked = arms.ranks.get(key, {}) if key is not None else {}
    found = sorted(ranked, key=lambda arm: ranked[arm].value) if ranked else list(arms.cells)
    return found[:MOST_LINES]


def profiles(plan: Plan, arms: Arms) -> list[Card]:
    """Each metric against each axis that varies, a line for each combination of the other axes' values.

    None of a single axis whose values are words: the plot by cell has the same.
    """
    found = []
    points = {arm: dict(next(iter(cells.values())).cell.arm) for arm, cells in arms.cells.items()}
    for axis in plan.varying:
        labels = [
            label for label in plan.grid.axes[axis].choices if any(one.get(axis) == label for one in points.values())
        ]
        others = [other for other in plan.varying if other != axis]
        if len(labels) < 2 or (not others and numbers_of(labels) is None):
            continue
        series: dict[str, dict[str, str]] = {}
        for arm, one in points.items():
            if axis in one:
                name = ", ".join(f"{plan.short[other]} {one[other]}" for other in others if other in one) or "all"
                series.setdefault(name, {})[one[axis]] = arm
        lines = {name: arms_at for name, arms_at in series.items() if len(arms_at) > 1}
        names = spread_out(list(lines), MOST_SERIES)
        more = [f"{len(names)} of {len(lines)} combinations of the other axes, evenly chosen"] * (
            len(names) < len(lines)
        )
        for key in arms.columns if names else ():
            marks = {name: [_mark_at(arms, key, lines[name].get(label)) for label in labels] for name in names}
            if any(mark is not None for values in marks.values() for mark in values):
                drawing = profile(labels, marks, plan.short[axis], column_name(key))
                found.append(Card(f"{column_name(key)} by {plan.short[axis]}", (), svg=drawing, notes=more))
    return found[:MOST_CARDS]


def _mark_at(arms: Arms, key: Key, arm: str | None) -> Mark | None:
    found = arms.estimate(arm, key) if arm is not None else None
    return None if found is None else _mark(found)


def _mark(one: Estimate) -> Mark:
    return Mark(one.value, SYNTHETIC, one.low, one.high)


def metric_card(arms: Arms, key: Key) -> Card | None:
    """A metric by arm, of many the best and the baseline; None where no arm has it."""
    everything = {arm: one for arm in arms.cells if (one := arms.estimate(arm, key)) is not None}
    shown = {*_leading(arms, key), arms.baseline} if len(everything) > MOST_LINES else everything.keys()
    found = {arm: one for arm, one in everything.items() if arm in shown}
    ends = [end for one in found.values() for end in (one.value, one.low, one.high) if end is not None]
    if not ends:
        return None
    margin = (max(ends) - min(ends)) * 0.05 or 0.5
    marks = {arm: _mark(one) for arm, one in found.items()}
    base = found.get(arms.baseline or "")
    lines = [Line(arm, (mark,), at=None if base is None else base.value) for arm, mark in marks.items()]
    about = [reads(arms.columns[key])] + ([f"dashed: {arms.baseline}"] if base is not None else [])
    if len(found) < len(everything):
        about.append(f"{len(found)} of {len(everything)} cells: the best, and the baseline")
    return Card(column_name(key), lines, (min(ends) - margin, max(ends) + margin), notes=[n for n in about if n])


def trade_off(arms: Arms) -> Card | None:
    """The first two metrics of the table against each other; None where no two cells have both.

    Of many cells only those have a name and intervals that no other one surpasses in both.
    """
    keys = list(arms.columns)[:2]
    found = {arm: [one for key in keys if (one := arms.estimate(arm, key)) is not None] for arm in arms.cells}
    both = {arm: (first, second) for arm, (first, second) in ((a, e) for a, e in found.items() if len(e) == 2)}
    if len(both) < 2:
        return None
    named, about = set(both), []
    if len(both) > MOST_NUMBERED:
        named = unsurpassed(both, keys) | {arms.baseline or ""}
        about = [f"{len(both)} cells; numbered: those that no other one surpasses in both measures, and the baseline"]
    points = [
        Point(arm, _mark(x), _mark(y))
        if arm in named
        else Point("", Mark(x.value, SYNTHETIC), Mark(y.value, SYNTHETIC))
        for arm, (x, y) in both.items()
    ]
    names = column_name(keys[0]), column_name(keys[1])
    return Card("Two measures against each other", (), points=points, axes=names, notes=about)


def unsurpassed(both: Mapping[str, tuple[Estimate, Estimate]], keys: Sequence[Key]) -> set[str]:
    """The arms than which no other one is better in one measure and as good in the other, by their values."""
    signs = [-1.0 if better(key[2]) == "lower" else 1.0 for key in keys]
    values = {arm: tuple(sign * one.value for sign, one in zip(signs, pair, strict=True)) for arm, pair in both.items()}
    return {
        arm
        for arm, own in values.items()
        if not any(other != own and all(a >= b for a, b in zip(other, own, strict=True)) for other in values.values())
    }


def sample_matrix(root: Path, plan: Plan, arms: Arms, prompts: bool) -> list[Section]:
    """The same prompts and seeds down the cells: of each arm the first image of a prompt with its first seed."""
    chosen = spread_out([arm for arm in arms.cells if arm != arms.baseline], MOST_PICTURED - 1)
    rows: dict[str, dict[str, tuple[Path, Path, str]]] = {}
    reals, gone = set[Path](), []
    for arm in [arm for arm in arms.cells if arm in chosen or arm == arms.baseline]:
        one = next(iter(arms.cells[arm].values()))
        real = real_of(root, plan, one)
        if one.samples is None or real is None:
            continue
        try:
            sides = read_folder(str(real), "real"), read_samples(str(one.samples))
        except UserError:
            gone.append(arm)  # deleted since
            continue
        reals.add(real)
        rows[arm] = {key: (path, made, text) for path, made, key, text in same_prompts(*sides)}
    common = [key for key in next(iter(rows.values()), {}) if all(key in found for found in rows.values())]
    keys = spread_out(common, MOST_PROMPTS)
    if not keys:
        return []
    first = next(iter(rows.values()))
    shown = prompts or all(map(is_phantom, reals))
    header = [first[key][2] if shown and first[key][2] else key for key in keys]
    made = [(arm, [picture(found[key][1], f"{arm}, {key}", THUMBNAIL) for key in keys]) for arm, found in rows.items()]
    real_row = ("real image of the prompt", [picture(first[key][0], f"real, {key}", THUMBNAIL) for key in keys])
    about = [
        "A column has one prompt: its real image, then the image of each cell with the same seed. The prompts are "
        "chosen evenly from those that all cells have, not by how the images look."
    ]
    about += (
        [f"{len(rows)} of {len(arms.cells)} cells, evenly chosen."] if len(rows) + len(gone) < len(arms.cells) else []
    )
    about += [f"Without images, which are gone: {', '.join(gone)}."] if gone else []
    hint = (
        ""
        if shown
        else "Prompts are hidden, because they may be text of patients' reports (--show_prompts shows them)."
    )
    return [Section("pictures", about, hint, matrix=Matrix(header, [real_row, *made]))]


def _cells(root: Path, plan: Plan) -> Section:
    """What became of each cell, with the source of its values."""
    rows = []
    states = {key: read_state(root, task).get("state") for key, task in plan.tasks.items()}
    for cell in plan.cells:
        failed = next((stage for stage, key in cell.tasks.items() if states[key] in (FAILED, KILLED)), None)
        about = "done" if states[cell.tasks[plan.grid.measure]] == DONE else "not finished"
        if failed is not None:
            log = task_folder(root, plan.tasks[cell.tasks[failed]]) / LOG
            about = f"{failed} failed: {log.relative_to(root)}"
        choices = [plan.grid.axes[axis].choices[label] for axis, label in cell.assignment.items() if axis != SEED]
        sources = "; ".join(dict.fromkeys(choice.source for choice in choices if choice.source))
        rows.append([cell.name.replace(",", ", "), about, sources])
    columns = 3 if any(row[2] for row in rows) else 2
    table = Table(["cell", "state", "source"][:columns], [row[:columns] for row in rows])
    return _section("cells", table, {row[0] for row in rows if row[1] != "done"}, "what is not done")
