"""Rows of fidelity: values with floors, intervals, notes; presets; labels; the command on small folders of images."""

import inspect
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter

from eval import fid
from eval.extractors.cache import Features
from eval.fid import FidConfig, common_labels, table
from eval.inputs.folders import ImageFolder
from eval.metrics.bootstrap import half_samples
from eval.metrics.frechet import frechet_distance
from eval.metrics.mmd import kid, kid_subsets
from eval.metrics.prdc import NAMES
from eval.metrics.presets import ALL, PRESETS, Preset, measure, values_of_halves
from eval.scores import note_text, read_scores
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError

PLAIN = Preset("stub", k=3)


def side(n: int, per_group: int = 2, **columns: object) -> ImageFolder:
    rows = {"file_name": [f"{i}.png" for i in range(n)], "subject_id": [f"p{i // per_group}" for i in range(n)]}
    return ImageFolder(Path("nowhere"), pd.DataFrame(rows | columns))


def features(values: np.ndarray, **about: object) -> Features:
    return Features(values, [f"{i}.png" for i in range(len(values))], about)


def normal(n: int, d: int = 4, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) + shift


def evaluate(*sides: object, **options: object) -> list[dict]:
    return fid.evaluate(*sides, **options).rows


def scores(real: np.ndarray, synthetic: np.ndarray, preset: Preset = PLAIN, **options: object) -> dict[str, dict]:
    rows = evaluate(side(len(real)), side(len(synthetic)), features(real), features(synthetic), preset, **options)
    return {row["metric"]: row for row in rows}


def test_every_metric_has_counts_floor_interval_and_parameters():
    rows = scores(normal(120), normal(50, shift=0.3, seed=1))
    assert tuple(rows) == ALL
    for name, row in rows.items():
        assert (row["n_real"], row["n_synthetic"], row["dimension"], row["below_2d"]) == (120, 50, 4, False)
        assert np.isfinite([row["value"], row["floor"], row["value_at_floor_n"]]).all()
        assert (row["floor_n"], row["floor_splits"]) == (50, 10)  # halves of 60: enough for the synthetic images
        assert row["floor_low"] < row["floor"] < row["floor_high"]
        clustered, *others = reversed(row["notes"])
        assert clustered.startswith("120 real images of 60 patients") and bool(others) == (name in NAMES)
        assert row["ci_low"] <= row["value"] <= row["ci_high"] and row["ci_low"] < row["ci_high"]
        assert row["resamples"] == (25 if name == "fd_infinity" else 100)
    assert (rows["precision"]["k"], rows["kid"]["k"]) == (3, None)
    assert (rows["kid_subsets"]["subset_size"], rows["kid_subsets"]["subsets"]) == (25, 100)
    assert rows["kid_subsets"]["sd"] > 0 and np.isnan(rows["kid"]["sd"])
    assert rows["fd"]["value"] > rows["fd"]["floor"]


def test_floor_of_a_single_split_has_no_spread():
    row = scores(normal(3000, 2), normal(20, 2), Preset("stub", ("kid",)), interval_draws=0)["kid"]
    assert row["floor_splits"] == 1 and np.isfinite(row["floor"])
    assert np.isnan([row["floor_low"], row["floor_high"]]).all()


def test_values_are_those_of_the_functions():
    real, synthetic = normal(60), normal(50, shift=0.5, seed=1)
    rows = scores(real, synthetic, interval_draws=0)
    assert rows["fd"]["value"] == frechet_distance(real, synthetic)
    assert rows["kid"]["value"] == pytest.approx(kid(real, synthetic), abs=1e-12)
    assert rows["kid_subsets"]["value"] == pytest.approx(kid_subsets(real, synthetic, 25)[0], abs=1e-12)
    assert rows["kid_subsets"]["sd"] == pytest.approx(kid_subsets(real, synthetic, 25)[1], abs=1e-12)
    assert np.isnan(rows["fd"]["ci_low"])


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


def test_copies_are_told():
    real = normal(40)
    synthetic = np.vstack([real[:7], normal(33, seed=1)])
    result = fid.evaluate(side(40), side(40), features(real), features(synthetic), PLAIN, interval_draws=0)
    assert result.warnings[0].startswith("7 of 40 synthetic images have the features of a real one, to rounding")
    assert all(row["notes"][-1] == result.warnings[0] for row in result.rows)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((20, 4), np.nan), "20 of 20 synthetic feature rows are not finite"),
        (np.ones((20, 5)), "real features have 4 dimensions and synthetic ones 5"),
        (np.ones((1, 4)), "1 synthetic images"),
        (np.full((20, 4), 1e30), "20 of 20 synthetic feature rows are not finite, or beyond 1e.20"),
    ],
)
def test_arrays_that_compare_to_nothing_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        scores(normal(20), values)


def test_features_of_other_images_or_extractors_are_refused():
    with pytest.raises(UserError, match="3 features of the 20 images"):
        evaluate(side(20), side(20), features(normal(3)), features(normal(20)), PLAIN)
    with pytest.raises(UserError, match="different extractors, weights or preprocessing"):
        evaluate(side(20), side(20), features(normal(20), resize="a"), features(normal(20), resize="b"), PLAIN)


def test_rows_say_where_features_come_from():
    about = {"extractor": "stub@full", "resize": "to 64", "sha256": {"w.pt": "abc"}}
    both = features(normal(20), **about), features(normal(20, seed=1), **about)
    row = evaluate(side(20), side(20), *both, PLAIN)[0]
    assert (row["extractor"], row["resize"], row["sha256"]) == ("stub@full", "to 64", "w.pt:abc")


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


def test_labels_are_compared_by_name_at_matched_counts():
    having, not_having = np.arange(80) % 2 == 0, np.tile([0.0, -1.0, 0.0, np.nan], 20)  # uncertain, not mentioned
    real = side(80, Cardiomegaly=np.where(having, 1.0, not_having), Edema=np.nan, Fracture=1.0)
    synthetic = side(60, Edema=1.0, Fracture=np.where(np.arange(60) < 5, 1.0, 0.0), Cardiomegaly=1.0)
    values = normal(80)
    values[having] += 3  # only the images with the label look like the synthetic ones
    rows = evaluate(real, synthetic, features(values), features(normal(60, shift=3.0, seed=1)), PLAIN, per_label=True)
    by_label = {(row["label"], row["metric"]): row for row in rows if row["label"]}
    assert {metric for _, metric in by_label} == {"kid", "cmmd"}  # never a Fréchet distance
    assert {label for label, _ in by_label} == {"Cardiomegaly", "Fracture"}  # nobody knows of Edema in real images
    row = by_label["Cardiomegaly", "kid"]
    assert (row["n_real"], row["n_synthetic"]) == (40, 40)
    assert row["ci_low"] < 0.0 < row["ci_high"] and row["floor_n"] == 20
    assert abs(row["value"]) < 0.2 * kid(values, normal(60, shift=3.0, seed=1))
    rare = by_label["Fracture", "kid"]
    assert np.isnan(rare["value"]) and note_text(rare).startswith("80 real and 5 synthetic images: fewer than 10")


def test_images_of_a_label_keep_their_patients():
    patients = [f"p{i}" for i in range(50)] + [f"q{i // 10}" for i in range(50)]
    real = side(100, subject_id=patients, Edema=np.repeat([0.0, 1.0], 50))
    rows = evaluate(
        real, side(60, 1, Edema=1.0), features(normal(100)), features(normal(60, seed=1)), PLAIN, per_label=True
    )
    assert all("no interval: only 5 patients" in note_text(row) for row in rows if row["label"])


def test_no_labels_in_common_is_one_line():
    with pytest.raises(UserError, match="no label in common"):
        common_labels(side(3, Edema=1.0), side(3, Edema=np.nan))


def test_presets_are_of_known_metrics_with_kid_beside_every_distance():
    assert all(set(preset.metrics) <= set(ALL) for preset in PRESETS.values())
    assert all("kid" in preset.metrics for preset in PRESETS.values() if "fd" in preset.metrics)


def test_presets_have_the_paths_and_parameters_of_those_they_are_named_after():
    paths = {name: preset.extractor for name, preset in PRESETS.items()}
    assert paths == {
        "fid-inception-torchmetrics": "inception@torchmetrics",
        "fid-clean": "inception@clean",
        "fd-xrv-roentgen": "xrv-all@roentgen",
        "fd-rad-dino-chexgenbench": "rad-dino@chexgenbench",
        "fd-rad-dino": "rad-dino",
        "cmmd": "clip:ViT-L-14-336",
    }
    assert PRESETS["fd-xrv-roentgen"].metrics == ("fd", "kid")
    assert PRESETS["cmmd"].metrics == ("cmmd",)
    assert PRESETS["fd-rad-dino-chexgenbench"].metrics == ("fd", "kid", *NAMES)
    assert PRESETS["fd-rad-dino-chexgenbench"].k == 5


@pytest.mark.parametrize(
    ("preset", "module", "function", "names"),
    [
        ("fid-inception-torchmetrics", "torchmetrics.image.kid", "KernelInceptionDistance", ("subset_size", "subsets")),
        ("fid-clean", "cleanfid.fid", "kernel_distance", ("max_subset_size", "num_subsets")),
    ],
)
def test_subsets_of_presets_are_the_defaults_of_the_library(preset, module, function, names):
    known = inspect.signature(getattr(pytest.importorskip(module), function)).parameters
    assert (PRESETS[preset].kid_subset_size, PRESETS[preset].kid_subsets) == tuple(
        known[name].default for name in names
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "one of --extractor and --preset"),
        ({"extractor": "xrv-all", "preset": "cmmd"}, "one of --extractor and --preset"),
        ({"preset": "fid-cleen"}, "did you mean fid-clean"),
        ({"extractor": "xrv-all", "interval_draws": 3}, "--interval_draws 3: 0 for no intervals, or at least 20"),
    ],
)
def test_bad_flags_are_one_line(flags, message):
    with pytest.raises(UserError, match=message):
        FidConfig(real="r", synthetic="s", output="o", **flags)


def write_images(folder: Path, images: list[np.ndarray]) -> Path:
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03}.png")
    return folder


def chests(n: int, seed: int) -> list[np.ndarray]:
    """Small pictures of two dark lungs of varying size on a bright ground."""
    generator, (y, x) = np.random.default_rng(seed), np.mgrid[:32, :32] / 32
    pictures = []
    for _ in range(n):
        width, height, level = generator.uniform([0.12, 0.25, 120], [0.2, 0.4, 160])
        lungs = sum(((x - centre) / width) ** 2 + ((y - 0.5) / height) ** 2 < 1 for centre in (0.28, 0.72))
        picture = Image.fromarray((level * (1 - 0.7 * lungs)).clip(0, 255).astype(np.uint8))
        pictures.append(np.asarray(picture.filter(ImageFilter.GaussianBlur(1))))
    return pictures


def add_noise(images: list[np.ndarray], strength: float) -> list[np.ndarray]:
    generator = np.random.default_rng(9)
    return [(image + strength * generator.normal(size=image.shape)).clip(0, 255).astype(np.uint8) for image in images]


def grey_grid(images: list[np.ndarray]) -> np.ndarray:
    """Features of the test: the picture in 8 × 8 means, and the mean local contrast in 2 × 2 fields."""
    stack = np.stack(images).astype(float) / 255
    means = stack.reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4)).reshape(len(stack), -1)
    contrast = np.abs(np.diff(stack, axis=2)).reshape(len(stack), 2, 16, -1).mean(axis=(2, 3))
    return np.hstack([means, 4 * contrast])


def test_every_metric_orders_the_degrees_of_degradation():
    real, fresh = chests(160, seed=0), chests(120, seed=1)
    unrelated = [np.random.default_rng(i).integers(0, 255, (32, 32)).astype(np.uint8) for i in range(120)]
    degrees = [fresh, add_noise(fresh, 12), add_noise(fresh, 50), unrelated]
    values = [measure(grey_grid(real), grey_grid(images), PLAIN) for images in degrees]
    for name in ("fd", "fd_infinity", "kid", "kid_subsets", "cmmd"):
        assert (np.diff([value[name].value for value in values]) > 0).all(), name
    for name in ("precision", "recall", "density", "coverage"):
        steps = np.array([value[name].value for value in values])
        assert (np.diff(steps) <= 0).all() and steps[0] > steps[2] and steps[1] > steps[3] == 0, (name, steps)


def test_command_writes_rows_and_prints_them(tmp_path, capsys):
    real, synthetic = (
        write_images(tmp_path / "real", chests(30, 0)),
        write_images(tmp_path / "synthetic", chests(24, 1)),
    )
    output = tmp_path / "out" / "scores.json"
    argv = ["--real", str(real), "--synthetic", str(synthetic), "--extractor", "pixels-64", "--output", str(output)]
    with pytest.raises(SystemExit) as exit:
        run(fid.main, [*argv, "--interval_draws", "20"])
    assert exit.value.code == 0
    rows = json.loads(output.read_text())
    assert [row["metric"] for row in rows] == list(ALL)
    assert "floor at 15 + 15 images" in rows[0]["note"] and "; N = 24 is below" in rows[0]["note"]
    printed = capsys.readouterr().out
    assert "30 + 24" in printed and "mostly bias" in printed
    assert printed.strip().endswith(table(read_scores(output)).strip())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--real": "synthetic"}, "same folder"),
        ({"--synthetic": "empty"}, "holds no images"),
        ({"--per_label": "true"}, "no label in common"),
    ],
)
def test_commands_that_cannot_be_are_one_line(tmp_path, capsys, change, message):
    for name in ("real", "synthetic"):
        write_images(tmp_path / name, chests(3, 0))
    (tmp_path / "empty").mkdir()
    flags = {"--real": "real", "--synthetic": "synthetic", "--output": "o.json"} | change
    argv = [
        part for flag, value in flags.items() for part in (flag, value if value == "true" else str(tmp_path / value))
    ]
    with pytest.raises(SystemExit) as exit:
        run(fid.main, [*argv, "--extractor", "pixels-64"])
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


def test_floors_without_patients_are_noted():
    real = ImageFolder(Path("nowhere"), side(20).rows.drop(columns="subject_id"))
    rows = evaluate(real, side(20), features(normal(20)), features(normal(20, seed=1)), Preset("stub", ("kid",)))
    assert rows[0]["notes"][-1].startswith("the patients of 20 of 20 real images are not known (no subject_id)")
    assert (rows[0]["n_real_groups"], rows[0]["n_synthetic_groups"]) == (20, 10)


def test_copies_count_up_to_rounding():
    real, other = normal(60, 64), normal(40, 64, seed=1)
    other[:20] = real[:20] * (1 + 1e-6 * np.random.default_rng(2).normal(size=(20, 64)))
    assert fid.count_copies(real, other) == 20
    assert fid.count_copies(np.ones((3, 2)), np.ones((4, 2))) == 4
