"""Plots: values and ticks in readable numbers, marks on their axis, text that stays text."""

import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.summary.plots import (
    COLOURS,
    FLOOR,
    LONGEST,
    MARGIN,
    NUMBERS,
    REAL,
    SYNTHETIC,
    THINNED,
    WIDTH,
    Line,
    Mark,
    bars,
    forest,
    interval_text,
    legend,
    number,
    own_bounds,
    ticks,
    value_text,
)

RIGHT = WIDTH - MARGIN - NUMBERS  # end of the axis
NAN = float("nan")


def elements(svg: str, tag: str) -> list[ET.Element]:
    return list(ET.fromstring(svg).iter(tag))


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in elements(svg, "text")]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (0.9312, "0.931"),
        (-0.2734, "−0.273"),
        (13.268, "13.27"),
        (118.932, "118.9"),
        (12345.6, "12,346"),
        (0.0229, "0.023"),
        (0.00312, "0.0031"),
        (0.000123, "0.00012"),
        (0.0000213, "2.13e−5"),
        (2.5e7, "2.50e+7"),
        (None, "–"),
        (NAN, "–"),
        (math.inf, "–"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((0.9312, 0.9, 0.96), "0.900 to 0.960"),
        ((0.00312, 0.00062, 0.00562), "0.0006 to 0.0056"),
        ((-0.27, -0.32, -0.227), "−0.320 to −0.227"),
        ((0.0, 0.0, 0.0187), "0.000 to 0.019"),
        ((0.00024, -0.00316, 0.00365), "−0.0032 to 0.0037"),
        ((99.1, 97.04, 101.26), "97.0 to 101.3"),
        ((0.5, None, None), ""),
        ((0.5, NAN, NAN), ""),
    ],
)
def test_intervals_have_the_decimals_of_their_value(ends, text):
    assert interval_text(*ends) == text


def test_a_value_has_the_decimals_of_its_interval():
    svg = forest([Line("KID", (Mark(0.00024, SYNTHETIC, -0.00316, 0.00364),))], "KID")
    assert "0.0002 (−0.0032 to 0.0036)" in texts(svg)


def test_labels_of_an_axis_do_not_overlap():
    line = Line("KID", (Mark(0.009, SYNTHETIC, -0.051, 0.07),))
    ticks_shown = [one for one in elements(forest([line], "KID", (-0.051, 0.07)), "text") if one.get("class") == "tick"]
    assert [one.text for one in ticks_shown] == ["−0.05", "0", "0.025", "0.05"]


def test_bars_are_as_long_as_their_values():
    svg = bars([Line("Edema", (Mark(1.0, REAL), Mark(0.5, SYNTHETIC, 0.4, 0.6)), at=0.5)], "AUROC")
    real, synthetic = elements(svg, "rect")
    assert float(real.get("width")) == pytest.approx(2 * float(synthetic.get("width")), abs=0.2)
    assert (real.get("fill"), synthetic.get("fill")) == (COLOURS[REAL], COLOURS[SYNTHETIC])
    assert "0.500 (0.400 to 0.600)" in texts(svg) and "Edema" in texts(svg)


def test_kinds_differ_in_shape():
    svg = forest([Line("KID", tuple(Mark(0.5, kind) for kind in (SYNTHETIC, REAL, FLOOR, THINNED)))], "KID")
    full, ring = elements(svg, "circle")
    assert full.get("fill") == COLOURS[SYNTHETIC] and ring.get("fill") == "#fff"
    assert len(elements(svg, "rect")) == 1 and len(elements(svg, "path")) == 1


def test_colours_differ_in_lightness_for_print():
    def lightness(colour: str) -> float:
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        return 0.299 * red + 0.587 * green + 0.114 * blue

    assert lightness(COLOURS[REAL]) - lightness(COLOURS[SYNTHETIC]) > 60


def test_lines_without_a_common_axis_have_one_each():
    lines = [Line("FD", (Mark(100.0, SYNTHETIC),)), Line("KID", (Mark(0.01, SYNTHETIC, -0.002, 0.02),))]
    shown = texts(forest(lines, "distances"))
    assert [name for name in shown if name in ("100", "0.02", "−0.002")] == ["100", "−0.002", "0.02"]


def test_undefined_values_are_said_not_drawn():
    svg = forest([Line("Hernia", (Mark(NAN, SYNTHETIC, NAN, NAN),))], "KID", (0, 1))
    assert "not defined" in texts(svg) and not elements(svg, "circle")
    assert "not defined" in texts(bars([Line("Hernia", (Mark(NAN, REAL),))], "AUROC"))


def test_nothing_to_draw_is_nothing():
    assert forest([], "none") == "" and bars([], "none") == ""


def test_names_cannot_break_out_of_the_drawing():
    name = '<script>"&'
    svg = forest([Line(name, (Mark(1.0, SYNTHETIC),))], name)
    assert name in texts(svg) and "<script" not in svg and "<script" not in legend({REAL: name})


def test_long_names_end_where_the_drawing_does():
    (shown, *_) = texts(forest([Line("m" * 80, (Mark(1.0, SYNTHETIC),))], "long"))
    assert len(shown) == LONGEST and shown.endswith("m…")


def test_drawings_tell_what_they_are_to_those_who_do_not_see_them():
    root = ET.fromstring(forest([Line("KID", (Mark(1.0, SYNTHETIC),))], "KID of all"))
    assert root.get("role") == "img" and root.get("aria-label") == "KID of all"


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4), st.booleans())
def test_marks_stay_on_the_axis(values, common):
    line = Line("any", tuple(Mark(value, SYNTHETIC, value - 1, value + 1) for value in values))
    low, high = own_bounds(line)
    assert low <= 0 <= high and low < high
    for circle in elements(forest([line], "any", (low, high) if common else None), "circle"):
        assert MARGIN - 0.1 <= float(circle.get("cx")) <= RIGHT + 0.1


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_on_the_axis(low, width):
    values = ticks(low, low + width)
    assert 2 <= len(values) <= 8
    assert all(low - 1e-6 * width <= value <= low + width * (1 + 1e-6) for value in values)


def test_ticks_of_shares():
    assert ticks(0, 1) == pytest.approx((0, 0.2, 0.4, 0.6, 0.8, 1.0))


def test_an_end_that_is_not_zero_is_not_written_as_zero():
    assert interval_text(13.0, 0.0004, 20.0) == "0.0004 to 20.00"
    assert interval_text(0.5, -0.0002, 0.3) == "−0.0002 to 0.300"
    assert interval_text(0.0, 0.0, 0.019) == "0.000 to 0.019"
    assert value_text(0.5, 0.41, 0.62, 2) == "0.50 (0.41 to 0.62)"
