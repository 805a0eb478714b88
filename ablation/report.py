"""Write report.html of a grid, in the manner of the evaluation's: tables, plots and pictures in one file."""

from collections.abc import Sequence
from pathlib import Path

from ablation.cells import Plan, task_folder, task_output, with_folders
from ablation.grid import SEED
from ablation.launcher import LOG
from ablation.results import Arms, Difference, Key, Measured
from ablation.runner import DONE, FAILED, read_state
from ablation.tables import column_name, differences_table, notes, values_table
from eval.inputs.folders import is_phantom, read_folder
from eval.summary.blocks import Card, Section, Table
from eval.summary.html import page_template
from eval.summary.measures import reads
from eval.summary.models import Model
from eval.summary.pictures import pictures
from eval.summary.plots import SYNTHETIC, Line, Mark, Point
from eval.summary.provenance import today
from sdcxr.io.files import write_text

MOST_PICTURED = 12  # arms: more would be small, and a page of many megabytes
PHANTOMS = "The real images are phantoms, drawn by a program: no number here is about radiographs of patients."
METHODS = (
    "A value is the mean over the seeds of a cell. Its interval has two sources of variance: the prompts "
    "(patients), from the draws that the evaluation keeps, averaged over seeds, which preserves what seeds have in "
    "common; and the seeds, by Student's t. The squares of both halves add up. "
    "Differences are paired: the same seeds, prompts and draws on both sides.",
    "p-values are corrected by Holm's method over all cells and metrics of the table against the baseline.",
)


def write_report(
    path: Path, plan: Plan, arms: Arms, differences: Sequence[Difference], measured: Sequence[Measured], prompts: bool
) -> None:
    """Write the page atomically; `prompts`: also texts that can be those of patients."""
    root = path.parent
    real = _real_folder(root, plan, measured)
    phantom = PHANTOMS if real is not None and is_phantom(real) else ""
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
        sections=_sections(root, plan, arms, differences, real, prompts),
    )
    write_text(path, page)


def _real_folder(root: Path, plan: Plan, measured: Sequence[Measured]) -> Path | None:
    """The real images of the measuring stage, where all cells have the same."""
    found = set()
    for one in measured:
        flags = plan.tasks[one.cell.tasks[plan.grid.measure]].flags
        found.add(with_folders(flags, lambda key: task_output(root, plan.tasks[key])).get("real"))
    real = found.pop() if len(found) == 1 else None
    return Path(real) if isinstance(real, str) else None


def _sections(
    root: Path, plan: Plan, arms: Arms, differences: Sequence[Difference], real: Path | None, prompts: bool
) -> list[Section]:
    values, best = values_table(arms)
    shown = [
        [f"{cell} (best)" if (i, j) in best else cell for j, cell in enumerate(row)]
        for i, row in enumerate(values.rows)
    ]
    table = values._replace(rows=shown, title="", footnotes=notes(arms, differences))
    sections = [Section("values", tables=[table])]
    if differences:
        sections.append(Section("differences", tables=[differences_table(arms, differences)._replace(title="")]))
    cards = [trade_off(arms), *(metric_card(arms, key) for key in arms.columns)]
    sections.append(Section("plots", cards=[card for card in cards if card is not None]))
    if real is not None:
        sections += _pictures(arms, real, prompts)
    return [*sections, _cells(root, plan), Section("methods", list(METHODS))]


def metric_card(arms: Arms, key: Key) -> Card | None:
    """A metric by arm; None where no arm has it."""
    found = {arm: one for arm in arms.cells if (one := arms.estimate(arm, key)) is not None}
    ends = [end for one in found.values() for end in (one.value, one.low, one.high) if end is not None]
    if not ends:
        return None
    margin = (max(ends) - min(ends)) * 0.05 or 0.5
    marks = {arm: Mark(one.value, SYNTHETIC, one.low, one.high) for arm, one in found.items()}
    base = found.get(arms.baseline or "")
    lines = [Line(arm, (mark,), at=None if base is None else base.value) for arm, mark in marks.items()]
    about = [reads(arms.columns[key])] + ([f"dashed: {arms.baseline}"] if base is not None else [])
    return Card(column_name(key), lines, (min(ends) - margin, max(ends) + margin), notes=[n for n in about if n])


def trade_off(arms: Arms) -> Card | None:
    """The first two metrics of the table against each other; None where no two cells have both."""
    keys = list(arms.columns)[:2]
    found = {arm: [arms.estimate(arm, key) for key in keys] for arm in arms.cells}
    points = [
        Point(arm, *(Mark(one.value, SYNTHETIC, one.low, one.high) for one in both if one is not None))
        for arm, both in found.items()
        if len(both) == 2 and None not in both
    ]
    if len(points) < 2:
        return None
    names = column_name(keys[0]), column_name(keys[1])
    return Card("Two measures against each other", (), points=points, axes=names)


def _pictures(arms: Arms, real: Path, prompts: bool) -> list[Section]:
    """The same prompts down the cells: of each arm those of its first seed."""
    models = []
    for arm, seeds in list(arms.cells.items())[:MOST_PICTURED]:
        images = next(iter(seeds.values())).images
        if images is not None:
            models.append(Model(arm, images))
    return [pictures(read_folder(str(real), "real"), models, prompts)] if models else []


def _cells(root: Path, plan: Plan) -> Section:
    """What became of each cell, with the source of its values."""
    rows = []
    for cell in plan.cells:
        states = {stage: read_state(root, plan.tasks[key]).get("state") for stage, key in cell.tasks.items()}
        failed = next((stage for stage, state in states.items() if state == FAILED), None)
        about = "done" if set(states.values()) == {DONE} else "not finished"
        if failed is not None:
            log = task_folder(root, plan.tasks[cell.tasks[failed]]) / LOG
            about = f"{failed} failed: {log.relative_to(root)}"
        choices = [plan.grid.axes[axis].choices[label] for axis, label in cell.assignment.items() if axis != SEED]
        sources = "; ".join(dict.fromkeys(choice.source for choice in choices if choice.source))
        rows.append([cell.name, about, sources])
    return Section("cells", tables=[Table(["cell", "state", "source"], rows)])
