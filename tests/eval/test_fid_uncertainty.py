"""Floors, intervals and standard errors of fidelity, and the notes on them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval import fid
from eval.inputs.folders import ImageFolder
from eval.metrics.bootstrap import half_samples
from eval.metrics.frechet import frechet_distance
from eval.metrics.mmd import kid
from eval.metrics.presets import PRESETS, Preset, measure, values_of_halves
from eval.scores import note_text
from tests.eval.features import PLAIN, evaluate, features, normal, scores, side


def test_floor_of_a_single_split_has_no_spread():
    row = scores(normal(3000, 2), normal(20, 2), Preset("stub", ("kid",)), interval_draws=0)["kid"]
    assert row["floor_splits"] == 1 and np.isfinite(row["floor"])
    assert np.isnan([row["floor_low"], row["floor_high"]]).all()


def test_floor_is_between_patients_not_between_images():
    """Patients of many, nearly equal images: halves that share patients would be the same set and hide the distance."""
    generator = np.random.default_rng(0)
    patients = np.repeat(generator.normal(size=(12, 4)), 20, axis=0)
    real, folder = patients + 0.01 * generator.normal(size=patients.shape), side(240, per_group=20)
    rows = evaluate(folder, side(100), features(real), features(normal(100)), replace(PLAIN, metrics=("fd",)))
    shuffled = generator.permutation(240)
    shared = frechet_distance(real[shuffled[:120]], real[shuffled[120:]])
    assert rows[0]["floor"] > 5 * shared


def test_floor_of_fewer_images_says_so_and_has_a_counterpart():
    row = scores(normal(60), normal(50, shift=1.0, seed=1))["fd"]
    assert row["floor_n"] == 30
    assert "floor at 30 + 30 images" in note_text(row)
    assert row["value_at_floor_n"] != row["value"]


def test_shares_between_unequal_numbers_are_marked_and_hold_at_the_floors_number():
    """Few synthetic images reach few of many real ones, however alike the distributions are."""
    row = scores(normal(160), normal(20, seed=1))["coverage"]
    assert row["value"] < 0.5 and note_text(row).startswith("more images on one side")
    assert row["floor_n"] == 20 and abs(row["value_at_floor_n"] - row["floor"]) < 0.1
    assert "one side" not in note_text(scores(normal(50), normal(40, seed=1))["coverage"])


def test_floor_is_between_equal_numbers_drawn_from_all(monkeypatch):
    seen = []

    def measure_and_look(x: np.ndarray, y: np.ndarray, *others: object) -> dict:
        seen.append((x, y))
        return measure(x, y, *others)

    monkeypatch.setattr(fid, "measure", measure_and_look)
    synthetic = np.arange(50.0)[:, None]
    row = scores(normal(160, 1), synthetic, replace(PLAIN, metrics=("kid",)), interval_draws=0)["kid"]
    halves = [pair for pair in seen if len(pair[0]) < 160]
    assert row["floor_n"] == 50 and {len(side) for pair in halves for side in pair} == {50}
    monkeypatch.undo()
    row = scores(normal(40, 1), synthetic, replace(PLAIN, metrics=("kid",)), interval_draws=0)["kid"]
    first = kid(normal(40, 1), synthetic[:20])
    assert row["floor_n"] == 20 and row["value_at_floor_n"] > 3 * first  # not of those that stand first


def test_floor_of_one_patient_is_none():
    rows = evaluate(
        side(30, per_group=30), side(30), features(normal(30)), features(normal(30, seed=1)), PLAIN, interval_draws=0
    )
    assert all(np.isnan(row["floor"]) and row["floor_n"] is None and "no floor" in note_text(row) for row in rows)


def test_fewer_images_than_twice_the_dimension_are_marked():
    rows = scores(normal(40, 16), normal(31, 16, seed=1))
    assert all(row["below_2d"] for row in rows.values())
    assert all("N = 31 is below 2 × 16 dimensions" in note_text(rows[name]) for name in ("fd", "fd_infinity"))
    assert "below" not in note_text(rows["kid"])
    enough = scores(normal(40, 16), normal(32, 16, seed=1))
    assert not any(row["below_2d"] or "below" in note_text(row) for row in enough.values())


def test_what_the_images_do_not_allow_is_no_number_and_says_why():
    few = scores(normal(30), normal(4, seed=1), interval_draws=0)
    assert np.isnan(few["precision"]["value"]) and "k + 2 images a side" in note_text(few["precision"])
    assert np.isfinite(few["kid"]["value"])
    torchmetrics = PRESETS["fid-inception-torchmetrics"]
    rows = scores(normal(60), normal(50, seed=1), torchmetrics, interval_draws=0)
    assert np.isnan(rows["kid_subsets"]["value"])
    assert "KID subsets of 1000 images" in note_text(rows["kid_subsets"])
    constant = scores(normal(30), np.ones((30, 4)), interval_draws=0)
    assert np.isnan(constant["coverage"]["value"]) and "rows are equal" in note_text(constant["coverage"])
    zeros = scores(normal(30), np.vstack([normal(29), np.zeros((1, 4))]), interval_draws=100)
    assert np.isnan(zeros["cmmd"]["value"]) and "all zeros" in note_text(zeros["cmmd"])
    underflow = scores(normal(30), 1e-200 * normal(30), interval_draws=20)
    assert "all zeros" in note_text(underflow["cmmd"]) and np.isfinite(underflow["fd"]["ci_high"])


def test_few_patients_have_no_interval():
    rows = evaluate(side(30, per_group=5), side(30), features(normal(30)), features(normal(30, seed=1)), PLAIN)
    assert all(np.isnan(row["ci_low"]) and "no interval: only 6 patients" in note_text(row) for row in rows)


def test_halves_that_are_too_small_for_a_metric_leave_it_without_interval_and_say_so():
    rows = scores(normal(16), normal(16, seed=1))  # 4 of 8 patients: 8 images, of which k + 2 are asked
    assert np.isfinite(rows["coverage"]["ci_low"])
    rows = scores(normal(16), normal(16, seed=1), replace(PLAIN, k=7))
    assert np.isfinite(rows["coverage"]["value"]) and np.isnan(rows["coverage"]["ci_low"])
    assert "no interval: halves" in note_text(rows["coverage"]) and rows["coverage"]["resamples"] == 0
    assert "no interval" not in note_text(rows["kid"])


def test_a_share_of_0_or_1_is_not_certain():
    far, near = scores(normal(40), normal(40, shift=50.0, seed=1)), scores(normal(40), 1e-3 + normal(40))
    for name in ("precision", "recall", "coverage"):
        assert far[name]["value"] == 0 == far[name]["ci_low"]
        assert 0.1 < far[name]["ci_high"] < 0.2  # of 20 patients: 3 / 20 by the rule of three
        assert near[name]["value"] == 1 == near[name]["ci_high"] and near[name]["ci_low"] < 0.9


def test_intervals_are_of_95_per_cent_within_what_a_metric_can_be():
    assert fid._interval("kid", 0.0, 1.0, 9) == pytest.approx((-1.96, 1.96), abs=1e-3)
    assert fid._interval("fd_infinity", 0.5, 1.0, 9)[0] < 0 == fid._interval("fd", 0.5, 1.0, 9)[0]
    assert fid._interval("precision", 0.3, 0.001, 9) == pytest.approx((0.298, 0.302), abs=1e-4)


def test_intervals_of_shares_cover_as_often_as_they_say():
    held, drawn = 0, np.random.default_rng(0)
    for _ in range(400):
        share = drawn.binomial(50, 0.04) / 50
        low, high = fid._interval("precision", share, np.sqrt(share * (1 - share) / 50), 50)
        assert 0 <= low <= share <= high <= 1
        held += low <= 0.04 <= high
    assert 0.92 <= held / 400 <= 0.99  # an interval of the normal distribution: 0.86


def test_intervals_draw_patients_not_images():
    generator = np.random.default_rng(0)
    patients = np.repeat(generator.normal(size=(12, 4)), 10, axis=0)
    real, synthetic = patients + 0.1 * generator.normal(size=patients.shape), 2 + 0.05 * normal(120)
    preset, width = replace(PLAIN, metrics=("kid",)), {}
    for per_group in (1, 10):
        row = evaluate(side(120, per_group), side(120, 1), features(real), features(synthetic), preset)[0]
        width[per_group] = row["ci_high"] - row["ci_low"]
    assert width[10] > 1.5 * width[1]


def spread(metric: str, shift: float) -> tuple[float, float]:
    """Standard deviation over fresh draws of both sides, and the mean of the estimated standard errors."""
    preset = replace(PLAIN, metrics=(metric,))
    values, errors = [], []
    for seed in range(60):
        generator = np.random.default_rng(seed)
        patients, prompts = generator.normal(size=(2, 40, 1, 4))
        real = (patients + 0.3 * generator.normal(size=(40, 3, 4))).reshape(120, 4)
        synthetic = (prompts + 0.3 * generator.normal(size=(40, 3, 4))).reshape(120, 4) + shift
        values.append(measure(real, synthetic, preset)[metric].value)
        if seed < 12:
            halves = [half_samples([str(i // 3) for i in range(120)], 60, generator) for _ in range(2)]
            errors.append(values_of_halves(real, synthetic, preset, *halves)[metric].std(ddof=1))
    return float(np.std(values)), float(np.mean(errors))


@pytest.mark.parametrize("metric", ["fd", "fd_infinity", "kid", "precision", "coverage", "cmmd"])
def test_standard_errors_are_the_spread_of_fresh_draws(metric):
    true, estimated = spread(metric, shift=0.8)
    assert 0.65 * true < estimated < 1.6 * true


def test_drawing_with_replacement_biases_what_drawing_halves_does_not():
    """A doubled image is its own neighbour at distance 0 and an off-diagonal pair with the kernel's largest value."""
    generator = np.random.default_rng(0)
    real, synthetic = normal(100, 8), normal(100, 8, seed=1)
    drawn = [generator.integers(100, size=(2, 100)) for _ in range(30)]
    bootstrap = [measure(real[i], synthetic[j], replace(PLAIN, metrics=("kid", "recall"))) for i, j in drawn]
    value = measure(real, synthetic, replace(PLAIN, metrics=("kid", "recall")))
    kids = np.array([values["kid"].value for values in bootstrap])
    assert kids.mean() - value["kid"].value > 3 * kids.std() / np.sqrt(30)
    assert np.mean([values["recall"].value for values in bootstrap]) < value["recall"].value - 0.1
    halves = [half_samples([str(i) for i in range(100)], 30, generator) for _ in range(2)]
    kids = np.array([kid(real[a], synthetic[b]) for a, b in zip(halves[0].T, halves[1].T, strict=True)])
    assert abs(kids.mean() - value["kid"].value) < 3 * kids.std() / np.sqrt(30)


def test_floors_without_patients_are_noted():
    real = ImageFolder(Path("nowhere"), side(20).rows.drop(columns="subject_id"))
    rows = evaluate(real, side(20), features(normal(20)), features(normal(20, seed=1)), Preset("stub", ("kid",)))
    assert rows[0]["notes"][-1].startswith("the patients of 20 of 20 real images are not known (no subject_id)")
    assert (rows[0]["n_real_groups"], rows[0]["n_synthetic_groups"]) == (20, 10)
