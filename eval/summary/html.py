"""Write report.html: scores, plots and pictures in one file that a browser opens from disk, without a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from eval.inputs.folders import ImageFolder, is_phantom
from eval.privacy import NEAREST
from eval.scores import Rows
from eval.summary.blocks import Card, Section, Table
from eval.summary.comparison import shared_rows
from eval.summary.comparison_sections import compared_sections
from eval.summary.comparison_verdict import verdict
from eval.summary.measures import capital
from eval.summary.methods import methods
from eval.summary.models import Model
from eval.summary.networks import measured_with
from eval.summary.output import own_table
from eval.summary.pictures import nearest_images, pictures
from eval.summary.plots import bars, forest, legend, scatter
from eval.summary.provenance import provenance, today
from eval.summary.sections import sections_of
from eval.summary.steps import Outcome
from eval.summary.verdicts import summary, tiles
from sdcxr.io.files import write_text

if TYPE_CHECKING:
    from jinja2 import Template


@dataclass(frozen=True)
class Report:
    """What the page is made from."""

    real: ImageFolder
    models: Sequence[Model]
    train: ImageFolder | None
    outcome: Outcome
    differences: Rows
    """Of each model to the first (`eval.summary.comparison.compare_models`)."""
    command: str
    show_prompts: bool = False


def write_report(path: Path, report: Report) -> None:
    """Write the page atomically."""
    write_text(path, render(report))


def render(report: Report) -> str:
    """The page: everything in it is escaped but the SVG and the legends of `eval.summary.plots`."""
    splits = sorted({row["floor_splits"] for row in report.outcome.rows if (row.get("floor_splits") or 0) > 1})
    several = len(report.models) > 1
    return page_template(Path(__file__).with_name("report.html.j2")).render(
        n_real=len(report.real),
        real=str(report.real.folder),
        models=[(model.name, len(model.images), str(model.images.folder)) for model in report.models],
        date=today(),
        splits=" or ".join(map(str, splits)),
        phantom=phantom_sides(report),
        warnings=report.outcome.warnings,
        tiles=[] if several else tiles(report.outcome.rows),
        command=report.command,
        sections=_sections(report),
    )


@cache
def page_template(path: Path) -> "Template":
    """A template that extends page.html.j2, without its content; compiling it takes longer than filling it in."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(
        loader=FileSystemLoader([path.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.globals |= {"plot": _plot, "legend": _legend}
    return pages.get_template(path.name)


def phantom_sides(report: Report) -> str:
    """Which sides are phantoms; empty where none is."""
    sides = {"the real images (--real)": report.real, "the training images (--train)": report.train}
    sides |= {f"the samples of {model.name}": model.images for model in report.models}
    found = [name for name, side in sides.items() if side is not None and is_phantom(side.folder)]
    if not found:
        return ""
    return (
        f"{capital(' and '.join(found))} are phantoms, drawn by a program: no number here is a statement about "
        "radiographs of patients."
    )


def _sections(report: Report) -> list[Section]:
    """All sections in the order of the page."""
    rows = report.outcome.rows
    names = [model.name for model in report.models]
    several = len(names) > 1
    if several:
        first = [verdict(rows, report.differences, names)]
        measured = compared_sections(shared_rows(rows), report.differences, names)
    else:
        first = [Section("summary", points=lines)] if (lines := summary(rows)) else []
        measured = sections_of(rows)
    if lines := measured_with(rows):
        first = first or [Section("summary")]
        first[0].points += lines
    measured = _with_nearest(measured, report)
    shown = pictures(report.real, report.models, report.show_prompts)
    origin = provenance(report.real, report.models, report.train, report.outcome.provenance)
    return [*first, shown, *measured, methods(rows, several), *_left_out(report), origin]


def _with_nearest(sections: list[Section], report: Report) -> list[Section]:
    """The sections, with the nearest training images of each model after privacy."""
    found = []
    for section in sections:
        found.append(section)
        if section.anchor == "privacy" and report.train is not None:
            for model in report.models:
                table = report.outcome.tables.get((NEAREST, model.name))
                if table is not None and table.is_file():
                    several = len(report.models) > 1
                    nearest = nearest_images(table, model, report.train, several)
                    nearest.links.append(own_table(NEAREST, model.name if several else None))
                    found.append(nearest)
    return found


def _plot(card: Card, section: str) -> str:
    """SVG of a card; its accessible name is the card's title, or that of the section."""
    title = card.title or section
    if card.svg:
        return card.svg
    if card.points:
        return scatter(card.points, title, card.axes)
    return bars(card.lines, title, card.bounds or (0.0, 1.0)) if card.bars else forest(card.lines, title, card.bounds)


def _legend(card: Card) -> str:
    """HTML of the legend of a card."""
    return legend(card.legend, "bars" if card.bars else "dots") if card.legend else ""


def _left_out(report: Report) -> list[Section]:
    lines = [[one.name, one.reason] for one in report.outcome.skipped]
    return [Section("left-out", tables=[Table(["evaluation", "why, and how to get it"], lines)])] if lines else []
