"""Every known answer is right on this installation, and the doctor reports wrong ones with their libraries."""

import math

import numpy as np
import pytest

from eval import doctor
from eval.known_answers import KERNELS, KNOWN_ANSWERS, KnownAnswer, resize_by_definition


@pytest.mark.parametrize("answer", KNOWN_ANSWERS, ids=lambda answer: answer.name)
def test_known_number(answer):
    outcome = doctor.examine(answer)
    if outcome.absent:
        pytest.skip(f"not installed: {', '.join(outcome.absent)}")
    assert outcome.problem is None
    assert outcome.found == pytest.approx(answer.expected, abs=answer.tolerance, rel=0, nan_ok=True)
    assert outcome.right


def test_names_are_unique():
    assert len({answer.name for answer in KNOWN_ANSWERS}) == len(KNOWN_ANSWERS)


@pytest.mark.parametrize("expected", [1.0, float("nan")])
def test_other_numbers_are_not_right(expected):
    answer = KnownAnswer("v", expected, lambda: 1.01, 0.001)
    assert not doctor.examine(answer).right


def test_a_number_where_there_should_be_none_and_none_where_there_should_be_one_are_wrong():
    assert doctor.examine(KnownAnswer("v", math.nan, lambda: math.nan)).right
    assert not doctor.examine(KnownAnswer("v", 0.5, lambda: math.nan)).right


def test_report_of_a_good_installation(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "KNOWN_ANSWERS", (KnownAnswer("a sum", 2, lambda: 1 + 1),))
    assert doctor.main(doctor.DoctorConfig()) == 0
    shown = capsys.readouterr().out
    assert f"numpy {np.__version__}" in shown and "yes" in shown and "1 of 1 numbers are right" in shown


def drifted() -> float:
    raise TypeError("sqrtm() got an unexpected\nkeyword argument 'disp'")


def test_wrong_numbers_are_reported_with_the_library_and_exit_code_1(monkeypatch, capsys):
    answers = (
        KnownAnswer("a sum", 3, lambda: 1 + 1, libraries=("numpy", "pillow")),
        KnownAnswer("a root", 1, drifted, libraries=("numpy", "scipy")),
        KnownAnswer("another root", 1, drifted, libraries=("numpy", "scipy")),
        KnownAnswer("a good one", 1, lambda: 1),
        KnownAnswer("not here", 1, lambda: 0, libraries=("no-such-library",)),
    )
    monkeypatch.setattr(doctor, "KNOWN_ANSWERS", answers)
    assert doctor.main(doctor.DoctorConfig(quiet=True)) == 1
    shown = capsys.readouterr().out
    assert "1 of 4 numbers are right" in shown and "a good one" not in shown
    assert shown.index("off: scipy") < shown.index("pillow", shown.index("off:"))
    assert "(2 wrong)" in shown and "TypeError: sqrtm() got an unexpected keyword argument" in shown


def test_absent_libraries_are_no_fault(monkeypatch, capsys):
    monkeypatch.setattr(
        doctor, "KNOWN_ANSWERS", (KnownAnswer("not here", 1, lambda: 0, libraries=("no-such-library",)),)
    )
    assert doctor.main(doctor.DoctorConfig()) == 0
    assert "not installed: no-such-library" in capsys.readouterr().out


@pytest.mark.parametrize("name", KERNELS)
def test_the_resize_by_definition_keeps_a_constant_and_the_mean_of_a_ramp(name):
    np.testing.assert_allclose(resize_by_definition(np.full((50, 50), 7.0), 21, *KERNELS[name]), 7)
    ramp = np.tile(np.arange(50.0), (50, 1))
    small = resize_by_definition(ramp, 21, *KERNELS[name])
    assert small.mean() == pytest.approx(24.5) and (np.diff(small[0]) > 0).all()


def test_a_filter_that_drifted_is_seen(monkeypatch):
    from PIL import Image

    answer = next(answer for answer in KNOWN_ANSWERS if answer.name.startswith("bicubic"))
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, how: resize(self, size, Image.Resampling.BILINEAR))
    outcome = doctor.examine(answer)
    assert not outcome.right and doctor.suspects([outcome]).startswith("pillow")
