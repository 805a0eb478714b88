"""The phantom's pictures: right shapes, findings on the right side, measured truth."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from data_prep.phantom.anatomy import Acquisition, Anatomy, Findings, Sides
from data_prep.phantom.render import render
from data_prep.phantom.sampling import sample_acquisition, sample_build, sample_findings
from data_prep.phantom.truth import truth

SIZE = 96
# Rows of the picture in which a finding shows, and whether it brightens (1) or darkens (-1).
SIDED = {
    "effusion": (slice(50, 80), 1),
    "pneumothorax": (slice(20, 65), -1),
    "consolidation": (slice(20, 80), 1),
    "atelectasis": (slice(50, 80), 1),
    "lesion": (slice(20, 80), 1),
    "pacemaker": (slice(15, 45), 1),
    "line": (slice(0, 20), 1),
}


def anatomy(seed: int, findings: Findings | None = None, **acquisition: Any) -> Anatomy:
    """An upright, unmarked phantom of a random build."""
    upright = Acquisition(marker=None, **acquisition)
    return Anatomy(sample_build(np.random.default_rng(seed)), findings or Findings(), upright)


def picture(phantom: Anatomy, seed: int = 0, size: int = SIZE) -> np.ndarray:
    return render(phantom, size, np.random.default_rng(seed)).astype(float)


def one_finding(name: str, side: str) -> Findings:
    if name in ("pacemaker", "line"):
        return Findings(**{name: side})
    return Findings(**{name: Sides(**{side: 0.6})})


@pytest.mark.parametrize("view", ["PA", "AP", "LATERAL", "LL"])
@pytest.mark.parametrize(("aspect", "shape"), [(1.0, (64, 64)), (1.2, (77, 64)), (1 / 1.2, (64, 77))])
def test_pictures_are_bytes_of_the_film_s_shape(view: str, aspect: float, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    acquisition = replace(sample_acquisition(rng, view), aspect=aspect)
    shown = render(Anatomy(sample_build(rng), sample_findings(rng), acquisition), 64, rng)
    assert shown.dtype == np.uint8 and shown.shape == shape
    assert shown.min() < 30 and shown.max() > 225 and shown.std() > 30


def test_the_same_seed_draws_the_same_picture_and_another_one_other_texture() -> None:
    phantom = anatomy(0)
    assert np.array_equal(picture(phantom, 1), picture(phantom, 1))
    assert not np.array_equal(picture(phantom, 1), picture(phantom, 2))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", SIDED)
def test_sided_findings_show_on_the_patient_s_side_only(name: str, side: str) -> None:
    rows, sign = SIDED[name]
    change = np.zeros((SIZE, SIZE))
    for seed in range(4):
        change += (picture(anatomy(seed, one_finding(name, side))) - picture(anatomy(seed))) / 4
    right, left = change[rows, : SIZE // 2], change[rows, SIZE // 2 :]  # the patient's right is on the image's left
    here, there = (right, left) if side == "right" else (left, right)
    assert np.maximum(sign * here, 0).mean() > 2.5 * np.maximum(sign * there, 0).mean()
    assert np.maximum(sign * here, 0).max() > 25


@pytest.mark.parametrize("side", ["right", "left"])
def test_an_effusion_whitens_the_base_of_its_side(side: str) -> None:
    change = picture(anatomy(1, one_finding("effusion", side))) - picture(anatomy(1))
    outer = slice(16, 32) if side == "right" else slice(SIZE - 32, SIZE - 16)
    assert change[55:68, outer].mean() > 50
    assert abs(change[20:35, outer].mean()) < 15


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_large_pneumothorax_still_shows_at_64_pixels(side: str) -> None:
    findings = Findings(pneumothorax=Sides(**{side: 0.85}))
    change = picture(anatomy(2, findings), size=64) - picture(anatomy(2), size=64)
    outer = slice(17, 25) if side == "right" else slice(39, 47)
    assert change[20:32, outer].mean() < -12


def test_edema_hazes_both_lungs_around_the_hila() -> None:
    change = picture(anatomy(3, Findings(edema=0.6))) - picture(anatomy(3))
    assert change[35:60, 28:38].mean() > 15 and change[35:60, SIZE - 38 : SIZE - 28].mean() > 15


def test_the_heart_lies_on_the_patient_s_left_and_the_right_dome_higher() -> None:
    mean = np.mean([picture(anatomy(seed)) for seed in range(12)], axis=0)
    heart = mean[50:62]
    assert heart[:, 56:66].mean() > heart[:, 30:40].mean() + 30
    dome = mean[68:74]
    assert dome[:, 24:28].mean() > dome[:, SIZE - 28 : SIZE - 24].mean() + 10


def test_the_marker_stands_on_the_named_side() -> None:
    for side, here in (("right", slice(0, SIZE // 4)), ("left", slice(-SIZE // 4, None))):
        plain = anatomy(4)
        marked = replace(plain, acquisition=replace(plain.acquisition, marker=side))
        change = picture(marked) - picture(plain)
        assert change[: SIZE // 4, here].max() > 60
        assert np.abs(change).sum() == np.abs(change[: SIZE // 4, here]).sum()


@pytest.mark.parametrize("view", ["PA", "AP"])
@pytest.mark.parametrize("severity", [0.0, 0.05, 0.5, 1.0])
def test_the_measured_cardiothoracic_ratio_agrees_with_the_flag(severity: float, view: str) -> None:
    ratios = []
    for seed in range(25):
        row = truth(anatomy(seed, Findings(cardiomegaly=severity), view=view, inspiration=seed / 24))
        ratios.append(row["cardiothoracic_ratio"])
        assert row["Cardiomegaly"] == (row["cardiothoracic_ratio"] > 0.5) == (severity > 0)
    assert min(ratios) > 0.35 and max(ratios) < 0.75


def test_measured_sizes_grow_with_severity_and_are_zero_without() -> None:
    rows = [truth(anatomy(0, Findings(effusion=Sides(s, 0), pneumothorax=Sides(0, s)))) for s in (0.0, 0.2, 0.5, 0.9)]
    for column in ("right_effusion_height", "left_pneumothorax_width"):
        sizes = [row[column] for row in rows]
        assert sizes[0] == 0 and sizes == sorted(sizes) and 0.1 < sizes[1] < sizes[3] < 1
        assert len(set(sizes)) == 4
    assert [row["right_effusion_grade"] for row in rows] == ["", "small", "moderate", "large"]
    assert all(row["left_effusion_height"] == row["right_pneumothorax_width"] == 0 for row in rows)


def test_a_lateral_view_has_flags_but_no_frontal_measurements() -> None:
    row = truth(anatomy(0, Findings(cardiomegaly=0.5), view="LATERAL"))
    assert row["Cardiomegaly"] == 1 and row["cardiothoracic_ratio"] is None and row["right_effusion_height"] is None
    assert list(row) == list(truth(anatomy(0)))
