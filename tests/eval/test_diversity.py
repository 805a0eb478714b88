"""Diversity: Vendi's published values, pairs of the right prompts and patients, intervals, and what has no answer."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from eval import diversity
from eval.diversity import (
    DiversityConfig,
    distance_of_pairs,
    find_pairs,
    main,
    mean_of_pairs,
)
from eval.extractors import find_extractor
from eval.inputs.folders import ImageFolder, read_folder, read_samples
from sdcxr.runtime.errors import UserError
from tests.eval.features import folder_of


def evaluate(real: ImageFolder, synthetic: ImageFolder, extractor: str | None = None) -> list[dict]:
    return diversity.evaluate(real, synthetic, extractor and find_extractor(extractor)).rows


def folder(tmp_path: Path, name: str, greys: np.ndarray, **columns: list) -> Path:
    path = tmp_path / name
    path.mkdir()
    names = [f"{name}{i}.png" for i in range(len(greys))]
    for file, grey in zip(names, greys, strict=True):
        Image.fromarray(grey).save(path / file)
    pd.DataFrame({"file_name": names} | columns).to_csv(path / "metadata.csv", index=False)
    return path


def samples(tmp_path: Path, greys: np.ndarray, ids: list, texts: list | None = None) -> Path:
    texts = [f"Finding {i}." for i in ids] if texts is None else texts
    return folder(tmp_path, "s", greys, text=texts, id=ids)


def dataset(tmp_path: Path, greys: np.ndarray, patients: list, texts: list) -> Path:
    return folder(tmp_path, "r", greys, text=texts, subject_id=patients)


def noise(n: int, size: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size), dtype=np.uint8)


def one(rows: list, metric: str, images: str = "synthetic") -> dict:
    (row,) = [row for row in rows if row["metric"] == metric and row["images"] == images]
    return row


# Pairs


def test_four_images_of_a_prompt_make_six_pairs():
    images = folder_of(text=["a"] * 4 + ["b"] * 6 + ["c"], synthetic=True)
    pairs = find_pairs(images, "within_prompts", 4, 1000, 0)
    found = sorted(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert found[:6] == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert found[6:] == [(4, 5), (4, 6), (4, 7), (5, 6), (5, 7), (6, 7)]  # the first four of six


def test_prompts_count_alike_however_many_pairs_they_have():
    images = folder_of(text=["a"] * 4 + ["b"] * 2, synthetic=True)
    pairs = find_pairs(images, "within_prompts", 4, 1000, 0)
    assert mean_of_pairs(np.where(pairs.first < 4, 0.0, 1.0), pairs)[0] == pytest.approx(0.5)


def test_equal_texts_are_one_prompt_whatever_their_id():
    images = folder_of(text=["No effusion.", "no  effusion"], id=["p", "q"], synthetic=True)
    assert len(find_pairs(images, "within_prompts", 4, 10, 0)) == 1
    assert len(find_pairs(images, "across_prompts", 4, 10, 0)) == 0


@pytest.mark.parametrize("kind", ["within_prompts", "across_prompts"])
def test_real_pairs_are_of_different_patients(kind):
    patients = [str(i // 3) for i in range(30)]
    texts = [("a", "b")[i % 2] for i in range(30)]
    pairs = find_pairs(folder_of(text=texts, subject_id=patients), kind, 10, 1000, 0)
    assert len(pairs)
    for i, j in zip(pairs.first, pairs.second, strict=True):
        assert patients[i] != patients[j]
        assert (texts[i] == texts[j]) == (kind == "within_prompts")


def test_pairs_are_limited():
    images = folder_of(text=[str(i // 4) for i in range(400)], synthetic=True)
    assert len(find_pairs(images, "within_prompts", 4, 100, 0)) == 96  # whole prompts
    assert len(find_pairs(images, "across_prompts", 4, 100, 0)) == 100


def test_distance_is_a_root_mean_square_per_feature():
    pairs = find_pairs(folder_of(text=["a", "b"]), "across_prompts", 4, 10, 0)
    assert distance_of_pairs(np.array([[0.0, 1.0, 2.0, 3.0], [2.0, 1.0, 2.0, 3.0]]), pairs) == pytest.approx([1.0])


def test_interval_of_pairs_covers_the_mean():
    draws = np.random.default_rng(0)
    images = folder_of(text=[str(i // 2) for i in range(100)], synthetic=True)
    pairs = find_pairs(images, "within_prompts", 4, 1000, 0)
    covered = 0
    for seed in range(40):
        value, (low, high) = mean_of_pairs(draws.normal(size=len(pairs)), pairs, seed)
        assert low < value < high
        covered += low < 0 < high
    assert covered >= 33  # of 38 expected


def test_interval_of_one_pair_per_prompt_is_the_usual_bootstrap():
    images = folder_of(text=[str(i // 2) for i in range(200)], synthetic=True)
    pairs = find_pairs(images, "within_prompts", 4, 1000, 0)
    values = np.random.default_rng(0).normal(size=len(pairs))
    _, (low, high) = mean_of_pairs(values, pairs)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 10, rel=0.15)


# Rows


def test_an_undefined_vendi_score_is_a_row_with_the_reason(tmp_path):
    black = noise(4)
    black[1] = 0
    synthetic, real = samples(tmp_path, black, [0, 0, 1, 1]), dataset(tmp_path, noise(4), [1, 2, 3, 4], ["a"] * 4)
    rows = evaluate(read_folder(real, "--real"), read_samples(synthetic), "pixels-8")
    row = one(rows, "vendi")
    assert np.isnan(row["value"]) and "all zeros" in row["notes"][0] and np.isfinite(row["floor"])


def test_samples_without_variety_are_told_from_varied_ones(tmp_path):
    rng = np.random.default_rng(0)
    prompts = noise(5, 48)
    alike = np.repeat(prompts, 4, axis=0).astype(int) + rng.integers(-9, 10, (20, 48, 48))
    synthetic = samples(tmp_path, alike.clip(0, 255).astype(np.uint8), [i // 4 for i in range(20)])
    real = dataset(tmp_path, noise(20, 48, 1), list(range(20)), ["a", "b"] * 10)
    rows = evaluate(read_folder(real, "--real"), read_samples(synthetic), "pixels-16")
    within, across = one(rows, "ms_ssim_within_prompts"), one(rows, "ms_ssim_across_prompts")
    assert within["value"] > 0.9 > 0.4 > across["value"]
    assert within["ci_low"] <= within["value"] <= within["ci_high"]
    assert within["n_pairs"] == 30
    assert within["floor"] == one(rows, "ms_ssim_within_prompts", "real")["value"] < 0.4
    distance = one(rows, "feature_distance_within_prompts")
    assert distance["value"] < 0.2 * one(rows, "feature_distance_across_prompts")["value"]
    assert one(rows, "vendi")["value"] < one(rows, "vendi")["floor"]
    assert one(rows, "vendi")["n_real"] == one(rows, "vendi")["n_synthetic"] == 20


def test_the_smallest_image_is_named_where_it_sets_the_size(tmp_path):
    real = read_folder(dataset(tmp_path, noise(4, 64), ["a", "b", "c", "d"], ["A", "B", "C", "D"]), "--real")
    synthetic = samples(tmp_path, noise(4, 64, 1), [0, 0, 1, 1])
    rows = evaluate(real, read_folder(synthetic, "--synthetic"))
    assert not any("smallest" in note for note in one(rows, "ms_ssim_within_prompts")["notes"])
    Image.fromarray(noise(1, 32)[0]).save(synthetic / "s2.png")
    rows = evaluate(real, read_folder(synthetic, "--synthetic"))
    assert "measured at 32 px, the size of the smallest image: s2.png" in one(rows, "ms_ssim_within_prompts")["notes"]


def test_scales_that_are_missing_are_noted(tmp_path):
    synthetic = samples(tmp_path, noise(4, 64), [0, 0, 1, 1])
    real = dataset(tmp_path, noise(3, 80), [1, 2, 3], ["a", "a", "b"])
    row = one(
        evaluate(read_folder(real, "--real"), read_samples(synthetic)),
        "ms_ssim_within_prompts",
    )
    assert row["preset"] == "grey 64 px, 3 scales"  # at the smaller of both sizes
    assert "3 of 5 scales" in row["notes"][0]


@pytest.mark.filterwarnings("error")
def test_images_smaller_than_the_window_have_no_value(tmp_path):
    synthetic = samples(tmp_path, noise(4, 8), [0, 0, 1, 1])
    real = dataset(tmp_path, noise(3, 8), [1, 2, 3], ["a", "a", "b"])
    row = one(
        evaluate(read_folder(real, "--real"), read_samples(synthetic)),
        "ms_ssim_within_prompts",
    )
    assert np.isnan(row["value"]) and np.isnan(row["ci_low"]) and "0 of 5 scales" in row["notes"][0]


def test_one_image_per_prompt_has_no_value_within_prompts(tmp_path, capsys):
    synthetic = samples(tmp_path, noise(3), [0, 1, 2])
    real = dataset(tmp_path, noise(3), [1, 2, 3], ["a", "b", "c"])
    output = tmp_path / "out" / "scores.json"
    assert main(DiversityConfig(real=str(real), synthetic=str(synthetic), output=str(output))) == 0
    row = one(json.loads(output.read_text()), "ms_ssim_within_prompts")
    assert row["value"] is None and row["ci_low"] is None and row["floor"] is None
    assert "undefined" in row["note"]
    said = capsys.readouterr().out
    assert re.search(r"within_prompts +not defined +not defined\n", said) and "nan" not in said


def test_folders_without_tables_are_compared_across_images(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / name).mkdir()
        for i, grey in enumerate(noise(3, seed=seed)):
            Image.fromarray(grey).save(tmp_path / name / f"{i}.jpg")
    rows = evaluate(read_folder(tmp_path / "a", "--real"), read_samples(tmp_path / "b"), "pixels-8")
    assert np.isfinite(one(rows, "ms_ssim_across_prompts")["value"])
    assert np.isnan(one(rows, "feature_distance_within_prompts")["value"])


def test_single_image_and_damaged_image_are_one_line(tmp_path):
    real = dataset(tmp_path, noise(3), [1, 2, 3], ["a", "a", "b"])
    synthetic = samples(tmp_path, noise(4), [0, 0, 1, 1])
    (synthetic / "s2.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(UserError, match=r"1 of 4 images cannot be used: s2\.png"):
        evaluate(read_folder(real, "--real"), read_samples(synthetic))
    (tmp_path / "single").mkdir()
    with pytest.raises(UserError, match="at least 2"):
        evaluate(read_folder(real, "--real"), read_folder(samples(tmp_path / "single", noise(1), [0]), "--synthetic"))


@pytest.mark.parametrize("flag", [{"images_per_prompt": 1}, {"max_pairs": 0}])
def test_flags_out_of_range_are_refused(flag):
    with pytest.raises(UserError, match=f"--{next(iter(flag))}"):
        DiversityConfig(real="r", synthetic="s", **flag)
