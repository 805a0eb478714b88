"""Building blocks of report.html: what the template shows as a section, plot, table, picture or headline number."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from eval.summary.plots import Line, Point


class Tile(NamedTuple):
    """A headline number, and what to compare it with."""

    title: str
    value: str
    reference: str


@dataclass
class Card:
    """A framed plot of `eval.summary.plots`: bars, or dots with their intervals."""

    title: str
    lines: Sequence[Line]
    bounds: tuple[float, float] | None = None
    """Ends of the axis; None: every line has an axis of its own."""
    legend: dict[str, str] = field(default_factory=dict)
    """Kinds of marks and what they mean."""
    notes: Sequence[str] = ()
    bars: bool = False
    points: Sequence[Point] = ()
    """Instead of the lines: values of two measures, whose names are `axes`."""
    axes: tuple[str, str] = ("", "")
    svg: str = ""
    """A finished drawing instead."""


class Table(NamedTuple):
    """A table of texts; a dict is shown as lines of "name: value".

    A cell may have several lines; in the first column those after the first are in small print.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str | dict[str, str]]]
    numbers: Sequence[int] = ()
    """Columns that are aligned to the right."""
    title: str = ""
    text: str = ""
    """Above the table."""
    footnotes: Sequence[str] = ()
    """Below it, numbered from 1."""


class Picture(NamedTuple):
    """A thumbnail as a data address, or why it cannot be shown."""

    name: str
    data: str = ""
    problem: str = ""


class Matrix(NamedTuple):
    """Rows of pictures: the same column, such as a prompt, down all of them."""

    header: Sequence[str]
    """Of each column."""
    rows: Sequence[tuple[str, Sequence[Picture]]]
    """Name and pictures."""


class Group(NamedTuple):
    """Pictures side by side."""

    pictures: Sequence[Picture]
    caption: str


@dataclass
class Section:
    """A part of the page; the template has its title and text by its anchor."""

    anchor: str
    texts: list[str] = field(default_factory=list)
    hint: str = ""
    """Text in small print."""
    points: list[str] = field(default_factory=list)
    """A list of sentences."""
    cards: list[Card] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    matrix: Matrix | None = None
    tables: list[Table] = field(default_factory=list)
    folded: list[Table] = field(default_factory=list)
    """Tables to open on demand."""
    title: str = ""
    """Instead of that of the template."""
    links: list[str] = field(default_factory=list)
    """Files beside the page."""
