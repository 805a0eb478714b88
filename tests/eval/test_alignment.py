"""Alignment: cosines against their definition, baselines, pairs of prompts, and folders without texts."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from eval import alignment, command
from eval.alignment import cosines, difference_row, main, side_rows
from eval.command import FeatureComparison
from eval.extractors import find_extractor
from eval.extractors.base import TextFeatures
from eval.inputs.folders import read_sides
from eval.scores import read_scores
from sdcxr.runtime.errors import UserError


def random_unit(n: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(n, 16))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_other_texts_are_those_that_say_something_else():
    said = ["Clear.", "edema", "clear", "effusion"]
    images, texts = random_unit(4, 0) * 3, random_unit(4, 1)[[0, 1, 0, 2]] * 0.5
    own, others = cosines(images, texts, said)
    between = (images / 3) @ (texts / 0.5).T
    np.testing.assert_allclose(own, np.diag(between))
    np.testing.assert_allclose(others[0], between[0, [1, 3]].mean())
    np.testing.assert_allclose(others[1], between[1, [0, 2, 3]].mean())


def test_images_that_ignore_their_prompts_gain_nothing_over_shuffled_ones():
    said = [str(i) for i in range(400)]
    own, others = cosines(random_unit(400, 0), random_unit(400, 1), said)
    rows = {row["metric"]: row for row in side_rows(own, others, np.arange(400), "synthetic")}
    gain = rows["alignment_over_shuffled"]
    assert gain["ci_low"] < 0 < gain["ci_high"] and abs(gain["value"]) < 0.05
    assert gain["value"] == pytest.approx(rows["alignment"]["value"] - rows["alignment_shuffled"]["value"])
    assert (gain["n_real"], gain["n_synthetic"]) == (0, 400)


def test_images_that_follow_their_prompts_gain():
    said, texts = [str(i) for i in range(50)], random_unit(50, 1)
    own, others = cosines(texts, texts, said)
    gain = side_rows(own, others, np.arange(50), "real")[2]
    assert gain["ci_low"] > 0.8 and gain["images"] == "real"


def test_the_difference_to_real_images_is_taken_prompt_by_prompt():
    synthetic, partner = np.array([0.2, 0.4, 0.9, 0.5, np.nan, 0.6]), np.array([1, 1, 0, -1, 0, 3])
    row = difference_row(synthetic, np.array([0.8, 0.1, 0.3, np.nan]), partner)  # two lack a text
    assert row["value"] == pytest.approx((0.1 + 0.3 + 0.1) / 3)
    assert (row["n_real"], row["n_synthetic"], row["notes"]) == (2, 3, ["2 prompts with a real image"])
    assert np.isnan(difference_row(synthetic, np.array([0.8, 0.1, 0.3]), np.full(6, 1))["ci_low"])  # of one prompt
    strangers = difference_row(synthetic, np.array([0.8]), np.full(6, -1))
    assert np.isnan(strangers["value"]) and strangers["notes"] == ["no prompt has its real image in --real"]


@pytest.fixture
def texts_known(monkeypatch):
    """A text tower that tells texts by their length."""
    monkeypatch.setattr(
        command, "find_extractor", lambda *words: replace(find_extractor(*words), load_texts=lambda device: None)
    )
    monkeypatch.setattr(
        alignment,
        "extract_texts",
        lambda texts, _: TextFeatures(
            np.eye(64)[[len(text) for text in texts]] + 0.1, np.array([len(text) == len("Edema 1.") for text in texts])
        ),
    )


def test_the_command_writes_both_sides_and_their_difference(two_folders, texts_known, tmp_path, capfd):
    assert main(FeatureComparison(*two_folders, "pixels-8", output=str(tmp_path / "scores.json"))) == 0
    rows = {(row["metric"], row["images"]): row for row in read_scores(tmp_path / "scores.json")}
    assert len(rows) == 7
    assert rows["alignment", "real"]["value"] == pytest.approx(rows["alignment", "synthetic"]["value"])
    assert rows["alignment_over_real", "both"]["value"] == pytest.approx(0)
    assert "11 prompts with a real image" in capfd.readouterr().out


def test_images_of_one_patient_are_drawn_together(two_folders, texts_known):
    real, synthetic = read_sides(*two_folders)
    one, extractor = replace(real, rows=real.rows.assign(subject_id="7")), command.find_extractor("pixels-8")
    rows = {(row["metric"], row["images"]): row for row in alignment.evaluate(one, synthetic, extractor).rows}
    assert np.isnan(rows["alignment", "real"]["ci_low"]) and np.isfinite(rows["alignment", "synthetic"]["ci_low"])


def test_texts_that_are_absent_or_all_the_same(two_folders, texts_known, tmp_path, capfd):
    real, samples = two_folders
    path = tmp_path / "samples" / "metadata.csv"
    rows = pd.read_csv(path, dtype=str)
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "a.png").symlink_to(tmp_path / "samples" / "train0.png")
    main(FeatureComparison(str(plain), samples, "pixels-8"))
    out = capfd.readouterr().out
    assert "left out: real images" in out and "alignment_over_real" not in out
    rows.assign(text="Clear.").to_csv(path, index=False)
    with pytest.raises(UserError, match="alignment needs at least two different prompts"):
        main(FeatureComparison(real, samples, "pixels-8"))


def test_an_extractor_without_texts_is_refused(two_folders):
    real, samples = two_folders
    with pytest.raises(UserError, match="pixels-8 has no text tower"):
        main(FeatureComparison(real, samples, "pixels-8"))
