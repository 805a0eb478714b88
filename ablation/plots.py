"""A metric against an axis of the grid, as inline SVG in the manner of `eval.summary.plots`."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from eval.summary.plots import GAP, LANE, LONGEST, MARGIN, WIDTH, Mark, number, svg, ticks, with_room

# Okabe and Ito's palette for colour-blind readers, from dark to light; dashes tell the lines apart in print
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9")
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 2", "10 4", "4 2")
MOST_SERIES = len(COLOURS)
LEFT, TOP, BASE = 58.0, 24.0, 230.0
LETTER = 6.6  # width of a letter of a tick's label
WIDE = 10  # ratio of the largest to the smallest value from which an axis is logarithmic
DODGE = 7.0  # between the marks of two series at one place, so that their intervals can be told apart


def profile(labels: Sequence[str], series: Mapping[str, Sequence[Mark | None]], axis: str, metric: str) -> str:
    """Values with intervals over the values of an axis: a line for each series, or dots where the axis is of words.

    Args:
        labels: of the axis.
        series: of each series, at most `MOST_SERIES`, a value at each label, None where it has none.
        axis: its name.
        metric: its name.
    """
    marks = [mark for values in series.values() for mark in values if mark is not None]
    ends = with_room(marks)
    x_of, joined = positions(labels)
    dodge = min(DODGE, 0.5 * (WIDTH - LEFT) / max(len(labels) * len(series), 1))

    def y_of(value: float) -> float:
        return BASE - (value - ends[0]) / (ends[1] - ends[0]) * (BASE - TOP)

    drawn = [f'<text class="name" x="{MARGIN}" y="13">{escape(metric[:LONGEST])}</text>']
    drawn.append(f'<path class="axis" d="M{LEFT} {TOP}V{BASE}H{WIDTH - MARGIN}" fill="none"/>')
    for value in ticks(*ends):
        y = y_of(value)
        drawn.append(f'<path class="track" d="M{LEFT} {y:.1f}H{WIDTH - MARGIN}" fill="none"/>')
        drawn.append(f'<text class="tick" x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>')
    drawn += tick_labels(labels, x_of)
    for i, (name, values) in enumerate(series.items()):
        offset = (i - (len(series) - 1) / 2) * dodge
        at = [(x + offset, mark) for x, mark in zip(x_of, values, strict=True) if mark is not None]
        drawn.append(_series(at, y_of, COLOURS[i], DASHES[i], joined))
        y = BASE + 48 + LANE * i
        dash = DASHES[i] if joined else ""
        drawn.append(
            f'<path d="M{MARGIN} {y - 4}h24" stroke="{COLOURS[i]}" stroke-width="2" stroke-dasharray="{dash}"/>'
        )
        drawn.append(f'<text class="tick" x="{MARGIN + 30}" y="{y}">{escape(name[:LONGEST])}</text>')
    drawn.append(f'<text class="name" x="{WIDTH - MARGIN}" y="{BASE + 32}" text-anchor="end">{escape(axis)}</text>')
    return svg(drawn, BASE + 40 + LANE * len(series) + GAP, f"{metric} against {axis}")


def positions(labels: Sequence[str]) -> tuple[list[float], bool]:
    """Where the labels are, and whether they are numbers: then in proportion, wide ranges logarithmically."""
    places: list[float] = list(range(len(labels)))
    numbers = numbers_of(labels)
    if numbers is not None:
        wide = min(numbers) > 0 and max(numbers) / min(numbers) >= WIDE
        places = [math.log(value) for value in numbers] if wide else numbers
    low, high = min(places), max(places)
    start, length = LEFT + 30, WIDTH - LEFT - MARGIN - 60
    share = [(place - low) / (high - low) if high > low else 0.5 for place in places]
    return [start + length * one for one in share], numbers is not None


def numbers_of(labels: Sequence[str]) -> list[float] | None:
    """The labels as different numbers; None where they are none."""
    try:
        found = [float(label) for label in labels]
    except ValueError:
        return None
    return found if all(map(math.isfinite, found)) and len(set(found)) == len(found) else None


def tick_labels(labels: Sequence[str], x_of: Sequence[float]) -> list[str]:
    """The labels of the axis; what would run into the one before is cut, or left out."""
    drawn, taken = [], 0.0
    order = sorted(range(len(labels)), key=lambda i: x_of[i])
    for place, i in enumerate(order):
        x = x_of[i]
        drawn.append(f'<path class="axis" d="M{x:.1f} {BASE}v4" fill="none"/>')
        following = x_of[order[place + 1]] if place + 1 < len(order) else WIDTH + MARGIN
        room = 2 * min(x - taken, (following - x) if place + 1 < len(order) else WIDTH - x)
        letters = max(int(min(room, following - taken) / LETTER) - 1, 0)
        text = labels[i] if len(labels[i]) <= letters else f"{labels[i][: letters - 1]}…" if letters > 3 else ""
        if text:
            taken = x + len(text) * LETTER / 2
            drawn.append(f'<text class="tick" x="{x:.1f}" y="{BASE + 16}" text-anchor="middle">{escape(text)}</text>')
    return drawn


def _series(at: Sequence[tuple[float, Mark]], y_of, colour: str, dash: str, joined: bool) -> str:  # type: ignore[no-untyped-def]
    parts = []
    if joined and len(at) > 1:
        points = " ".join(f"{x:.1f},{y_of(mark.value):.1f}" for x, mark in sorted(at, key=lambda one: one[0]))
        style = f'stroke="{colour}" stroke-width="1.6" stroke-dasharray="{dash}" fill="none"'
        parts.append(f'<polyline points="{points}" {style}/>')
    for x, mark in at:
        if mark.interval is not None:
            low, high = map(y_of, mark.interval)
            parts.append(f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="{colour}" stroke-width="1.6" opacity=".6"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y_of(mark.value):.1f}" r="3.5" fill="{colour}"/>')
    return "".join(parts)
