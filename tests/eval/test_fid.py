"""Rows of fidelity: values, presets, labels; the command on small folders of images."""

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from eval import fid
from eval.fid import FidConfig, common_labels, table
from eval.metrics.frechet import frechet_distance
from eval.metrics.mmd import kid, kid_subsets
from eval.metrics.prdc import NAMES
from eval.metrics.presets import ALL, PRESETS, measure
from eval.scores import note_text, read_scores
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError
from tests.eval.features import PLAIN, evaluate, features, normal, scores, side


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


def test_values_are_those_of_the_functions():
    real, synthetic = normal(60), normal(50, shift=0.5, seed=1)
    rows = scores(real, synthetic, interval_draws=0)
    assert rows["fd"]["value"] == frechet_distance(real, synthetic)
    assert rows["kid"]["value"] == pytest.approx(kid(real, synthetic), abs=1e-12)
    assert rows["kid_subsets"]["value"] == pytest.approx(kid_subsets(real, synthetic, 25)[0], abs=1e-12)
    assert rows["kid_subsets"]["sd"] == pytest.approx(kid_subsets(real, synthetic, 25)[1], abs=1e-12)
    assert np.isnan(rows["fd"]["ci_low"])


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


def test_copies_count_up_to_rounding():
    real, other = normal(60, 64), normal(40, 64, seed=1)
    other[:20] = real[:20] * (1 + 1e-6 * np.random.default_rng(2).normal(size=(20, 64)))
    assert fid.count_copies(real, other) == 20
    assert fid.count_copies(np.ones((3, 2)), np.ones((4, 2))) == 4
