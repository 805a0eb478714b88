"""Small plots as inline SVG, for a page without scripts: values with intervals, and bars.

Made for columns of 320 to 560 pixels, side by side on a wide screen, one below the other on a narrow one. Labels are
above their marks. Colours are from Okabe and Ito's palette for colour-blind readers; every kind of mark also has its
own shape or lightness, for print.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 424  # of the drawing, in its own units, about a pixel each
MARGIN = 8  # left and right of the axis
NUMBERS = 200  # width of the column with the values in digits, right of the axis
LONGEST = 52  # letters of a label that fit
NAME, LANE, GAP, FOOT = 17, 15, 8, 26  # heights: a label, a mark's lane, below a line, the axis

SYNTHETIC, REAL, FLOOR, THINNED = "synthetic", "real", "floor", "thinned"
COLOURS = {SYNTHETIC: "#0072b2", REAL: "#e69f00", FLOOR: "#444444", THINNED: "#56b4e9"}


@dataclass(frozen=True)
class Mark:
    """A value on a line of a plot."""

    value: float
    """NaN is written as "not defined"."""
    kind: str
    """SYNTHETIC, REAL, FLOOR (what a value is compared with) or THINNED (synthetic, of as few images as the floor)."""
    low: float | None = None
    """The interval; None or NaN where there is none."""
    high: float | None = None
    text: str = ""
    """Instead of the value in digits."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval where it is known."""
        if self.low is None or self.high is None or not (math.isfinite(self.low) and math.isfinite(self.high)):
            return None
        return self.low, self.high


@dataclass(frozen=True)
class Line:
    """A label with its values."""

    label: str
    marks: tuple[Mark, ...]
    at: float | None = None
    """Where a dashed line crosses its marks, such as the value of chance."""


def number(value: float | None) -> str:
    """Three digits, without an exponent where that can be read; "–" for none."""
    if value is None or not math.isfinite(value):
        return "–"
    if value and (abs(value) < 1e-4 or abs(value) >= 1e6):
        return f"{value:.2e}".replace("e-0", "e-").replace("e+0", "e+").replace("-", "−")
    return _fixed(value, decimals(value))


def decimals(value: float) -> int:
    """Digits after the decimal point that show two to four significant ones."""
    steps = ((1000, 0), (100, 1), (10, 2), (0.01, 3), (0.001, 4))
    return next((digits for least, digits in steps if abs(value) >= least), 3 if value == 0 else 5)


def interval_text(value: float | None, low: float | None, high: float | None, digits: int | None = None) -> str:
    """Both ends, by default with the decimals that the largest of them and of the value between them has."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    if digits is None:
        digits = decimals(max(map(abs, (value or 0.0, low, high))))
    return " to ".join(_with_sign(end, digits) for end in (low, high))


def _with_sign(end: float, digits: int) -> str:
    """With more decimals where an end that is not 0 would be written as 0: its sign decides what is concluded."""
    enough = next((n for n in range(digits, digits + 5) if round(end, n)), digits)
    return _fixed(end, enough)


def value_text(value: float, low: float | None, high: float | None, digits: int | None = None) -> str:
    """A value with its interval in brackets, all with the same decimals: by default those of the largest of them."""
    known = [end for end in (low, high) if end is not None and math.isfinite(end)]
    if digits is None and not known:
        return number(value)
    digits = decimals(max(map(abs, (value, *known)))) if digits is None else digits
    interval = interval_text(value, low, high, digits)
    shown = _with_sign(value, digits)
    return f"{shown} ({interval})" if interval else shown


def _fixed(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}".replace("-", "−")


def forest(lines: Sequence[Line], title: str, bounds: tuple[float, float] | None = None) -> str:
    """Values as dots with their intervals: circles synthetic, squares real, diamonds for references.

    Args:
        lines: one below the other; their finite values decide the axis.
        title: for screen readers.
        bounds: ends of the one axis of all lines. None: every line has an axis of its own from 0, because the numbers
            are not comparable.

    Returns:
        An SVG element; an empty string without lines.
    """
    drawn, y = [], 0.0
    for line in lines:
        ends = bounds or own_bounds(line)
        drawn.append(_heading(line, y))
        top = y = y + NAME
        for mark in line.marks:
            drawn.append(_dot(mark, ends, y))
            y += LANE
        drawn.append(_at(line, ends, top, y))
        if bounds is None:
            drawn.append(_axis(ends, y, (ends[0], ends[1])))
            y += FOOT - 6
        y += GAP
    if bounds is not None and lines:
        drawn.append(_axis(bounds, y, ticks(*bounds)))
        y += FOOT
    return svg(drawn, y, title) if lines else ""


def bars(lines: Sequence[Line], title: str, bounds: tuple[float, float] = (0.0, 1.0)) -> str:
    """Values as bars from the left end of the axis, with their intervals; arguments as in `forest`."""
    drawn, y = [], 0.0
    for line in lines:
        drawn.append(_heading(line, y))
        top = y = y + NAME
        for mark in line.marks:
            drawn.append(_bar(mark, bounds, y))
            y += LANE
        drawn.append(_at(line, bounds, top, y))
        y += GAP
    drawn.append(_axis(bounds, y, ticks(*bounds)))
    return svg(drawn, y + FOOT, title) if lines else ""


@dataclass(frozen=True)
class Point:
    """A thing with two values."""

    name: str
    """Empty: it has no number."""
    x: Mark
    y: Mark


def scatter(points: Sequence[Point], title: str, names: tuple[str, str]) -> str:
    """Points with their intervals in both directions, numbered; their names are below.

    Args:
        points: in the order of their numbers.
        title: for screen readers.
        names: of the two axes.

    Returns:
        An SVG element; an empty string without points.
    """
    if not points:
        return ""
    left, top, side, base = 58.0, 22.0, WIDTH - 58.0 - MARGIN, 300.0
    x_ends, y_ends = (with_room([getattr(one, axis) for one in points]) for axis in "xy")

    def place(value: float, ends: tuple[float, float], start: float, length: float) -> float:
        return start + min(max((value - ends[0]) / (ends[1] - ends[0]), 0.0), 1.0) * length

    drawn = [f'<text class="name" x="{MARGIN}" y="13">{escape(names[1])}</text>']
    drawn.append(f'<path class="axis" d="M{left} {top}V{base}H{left + side}" fill="none"/>')
    for value in ticks(*x_ends):
        x = place(value, x_ends, left, side)
        anchor = "end" if x > left + side - 15 else "middle"
        drawn.append(f'<text class="tick" x="{x:.1f}" y="{base + 15}" text-anchor="{anchor}">{number(value)}</text>')
    for value in ticks(*y_ends):
        y = place(value, y_ends, base, top - base)
        drawn.append(f'<text class="tick" x="{left - 5}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>')
    drawn.append(f'<text class="name" x="{left + side}" y="{base + 32}" text-anchor="end">{escape(names[0])}</text>')
    height = base + 44
    numbered = [one for one in points if one.name]
    for one in [one for one in points if not one.name] + numbered:
        x, y = place(one.x.value, x_ends, left, side), place(one.y.value, y_ends, base, top - base)
        lines = ""
        if one.x.interval is not None:
            ends = [place(end, x_ends, left, side) for end in one.x.interval]
            lines += f"M{ends[0]:.1f} {y:.1f}H{ends[1]:.1f}"
        if one.y.interval is not None:
            ends = [place(end, y_ends, base, top - base) for end in one.y.interval]
            lines += f"M{x:.1f} {ends[0]:.1f}V{ends[1]:.1f}"
        drawn.append(f'<path d="{lines or "M0 0"}" stroke="{COLOURS[one.x.kind]}" stroke-opacity=".45" fill="none"/>')
        drawn.append(_shape(one.x.kind, x, y))
        if not one.name:
            continue
        i = numbered.index(one) + 1
        drawn.append(f'<text class="tick" x="{x + 7:.1f}" y="{y - 5:.1f}">{i}</text>')
        name = escape(f"{i}  {one.name}"[: LONGEST + 12])
        drawn.append(f'<text class="tick" x="{MARGIN}" y="{height + 11:.1f}">{name}</text>')
        height += LANE
    return svg(drawn, height + GAP, title)


def with_room(marks: Sequence[Mark]) -> tuple[float, float]:
    """The ends of an axis that holds all values and intervals."""
    values = [end for mark in marks for end in (mark.value, *(mark.interval or ()))]
    room = (max(values) - min(values)) * 0.06 or 0.5
    return min(values) - room, max(values) + room


def legend(names: dict[str, str], shape: str = "dots") -> str:
    """What the marks mean: HTML with a small drawing of each kind in `names`, in the shape of "dots" or "bars"."""
    entries = []
    for kind, name in names.items():
        drawing = (
            f'<rect x="1" y="2" width="14" height="10" fill="{COLOURS[kind]}"/>'
            if shape == "bars"
            else _shape(kind, 8, 7)
        )
        entries.append(f'<span><svg width="16" height="14" aria-hidden="true">{drawing}</svg> {escape(name)}</span>')
    return f'<p class="legend">{"".join(entries)}</p>'


def own_bounds(line: Line) -> tuple[float, float]:
    """From 0 (or the lowest value below it) to the highest value of a line or of its intervals."""
    values = [0.0]
    for mark in line.marks:
        values += [mark.value] if math.isfinite(mark.value) else []
        values += mark.interval or ()
    low, high = min(values), max(values)
    return (low, high) if high > low else (low, low + 1.0)


def ticks(low: float, high: float) -> tuple[float, ...]:
    """Four to seven round numbers from low to high."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return tuple((first + i) * step for i in range(int((high - first * step) / step + 1e-9) + 1))


def _place(value: float, bounds: tuple[float, float]) -> float:
    share = (value - bounds[0]) / (bounds[1] - bounds[0])
    return MARGIN + min(max(share, 0.0), 1.0) * (WIDTH - 2 * MARGIN - NUMBERS)


def _heading(line: Line, y: float) -> str:
    label = line.label if len(line.label) <= LONGEST else line.label[: LONGEST - 1] + "…"
    return f'<text class="name" x="{MARGIN}" y="{y + 13:.1f}">{escape(label)}</text>'


def _at(line: Line, bounds: tuple[float, float], top: float, bottom: float) -> str:
    """The dashed line, over the marks and not through the names."""
    if line.at is None:
        return ""
    x = _place(line.at, bounds)
    return f'<line class="at" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 1:.1f}" y2="{bottom + 1:.1f}"/>'


def _value(mark: Mark, y: float) -> str:
    text = value_text(mark.value, mark.low, mark.high) if math.isfinite(mark.value) else "not defined"
    text = escape(mark.text) or text
    return f'<text class="value" x="{WIDTH - MARGIN}" y="{y + 11:.1f}" text-anchor="end">{text}</text>'


def _dot(mark: Mark, bounds: tuple[float, float], y: float) -> str:
    middle, left, right = y + LANE / 2, _place(bounds[0], bounds), _place(bounds[1], bounds)
    parts = [f'<line class="track" x1="{left:.1f}" x2="{right:.1f}" y1="{middle}" y2="{middle}"/>', _value(mark, y)]
    if math.isfinite(mark.value):
        parts += [_whisker(mark, bounds, middle, COLOURS[mark.kind])]
        parts += [_shape(mark.kind, _place(mark.value, bounds), middle)]
    return "".join(parts)


def _bar(mark: Mark, bounds: tuple[float, float], y: float) -> str:
    parts = [_value(mark, y)]
    if math.isfinite(mark.value):
        left, right = _place(bounds[0], bounds), _place(mark.value, bounds)
        size = f'width="{right - left:.1f}" height="{LANE - 4}"'
        parts += [f'<rect x="{left:.1f}" y="{y + 2:.1f}" {size} fill="{COLOURS[mark.kind]}"/>']
        parts += [_whisker(mark, bounds, y + LANE / 2, "#000")]
    return "".join(parts)


def _whisker(mark: Mark, bounds: tuple[float, float], y: float, colour: str) -> str:
    if mark.interval is None:
        return ""
    low, high = (_place(value, bounds) for value in mark.interval)
    ends = "".join(f"M{x:.1f} {y - 3:.1f}v6" for x in (low, high))
    return f'<path d="M{low:.1f} {y:.1f}H{high:.1f}{ends}" stroke="{colour}" stroke-width="1.6" fill="none"/>'


def _shape(kind: str, x: float, y: float) -> str:
    colour = COLOURS[kind]
    if kind == SYNTHETIC:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>'
    if kind == REAL:
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}" stroke="#6b4a00"/>'
    if kind == THINNED:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#fff" stroke="{colour}" stroke-width="2"/>'
    points = f"M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z"
    return f'<path d="{points}" fill="#fff" stroke="{colour}" stroke-width="1.6"/>'


def _axis(bounds: tuple[float, float], y: float, values: Sequence[float]) -> str:
    left, right = _place(bounds[0], bounds), _place(bounds[1], bounds)
    parts = [f'<line class="axis" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>']
    taken = 0.0  # where the label before ends, at 6.6 units a letter
    for value in values:
        x = _place(value, bounds)
        anchor = "start" if x < left + 12 else "end" if x > right - 12 else "middle"
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{y:.1f}" y2="{y + 4:.1f}"/>')
        shown = number(value)
        shown = shown.rstrip("0").rstrip(".") if "." in shown and "e" not in shown else shown
        width = 6.6 * len(shown)
        starts = x - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
        if starts < taken:
            continue
        taken = starts + width
        parts.append(f'<text class="tick" x="{x:.1f}" y="{y + 15:.1f}" text-anchor="{anchor}">{shown}</text>')
    return "".join(parts)


def svg(parts: Sequence[str], height: float, title: str) -> str:
    """The element of a drawing of `WIDTH`."""
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
