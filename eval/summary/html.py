"""Write report.html: scores, plots and pictures in one file that a browser opens from disk, without a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from eval.inputs.folders import PHANTOM, ImageFolder, is_phantom
from eval.scores import Rows
from eval.summary.blocks import Card, Section, Table
from eval.summary.comparison import shared_rows
from eval.summary.comparison_sections import compared_sections, verdict
from eval.summary.methods import methods
from eval.summary.models import Model
from eval.summary.pictures import nearest_images, pictures
from eval.summary.plots import bars, forest, legend
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
    sides = [report.real, *(model.images for model in report.models)]
    several = len(report.models) > 1
    return _template().render(
        n_real=len(report.real),
        models=[(model.name, len(model.images)) for model in report.models],
        date=today(),
        phantom=PHANTOM if any(is_phantom(side.folder) for side in sides) else "",
        warnings=report.outcome.warnings,
        tiles=[] if several else tiles(report.outcome.rows),
        command=report.command,
        sections=_sections(report),
    )


@cache
def _template() -> "Template":
    """The page without its content; compiling it takes longer than filling it in."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.globals |= {"plot": _plot, "legend": _legend}
    return pages.get_template("report.html.j2")


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
                table = next((path for (_, of), path in report.outcome.tables.items() if of == model.name), None)
                if table is not None and table.is_file():
                    found.append(nearest_images(table, model, report.train, len(report.models) > 1))
    return found


def _plot(card: Card, section: str) -> str:
    """SVG of a card; its accessible name is the card's title, or that of the section."""
    title = card.title or section
    return bars(card.lines, title, card.bounds or (0.0, 1.0)) if card.bars else forest(card.lines, title, card.bounds)


def _legend(card: Card) -> str:
    """HTML of the legend of a card."""
    return legend(card.legend, "bars" if card.bars else "dots") if card.legend else ""


def _left_out(report: Report) -> list[Section]:
    lines = [[one.name, one.reason] for one in report.outcome.skipped]
    return [Section("left-out", tables=[Table(["evaluation", "why, and how to get it"], lines)])] if lines else []
