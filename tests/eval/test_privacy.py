"""Privacy: planted copies are counted exactly, names are right, all seeds count, and unusable folders are one line."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from eval import privacy
from eval.extractors import find_extractor
from eval.inputs.folders import ImageFolder, read_folder, read_samples
from eval.inputs.images import read_greys
from eval.memorization.copies import GRID, Matches, altered, best_matches, whitening
from eval.privacy import PrivacyConfig, distance_rows, main, own_image_rows, repetition_rows
from sdcxr.runtime.errors import UserError
from tests.eval.pictures import radiographs

pictures = partial(radiographs, side=96)


def write(folder: Path, images: list[Image.Image], names: list[str], **columns: list) -> Path:
    folder.mkdir(parents=True)
    for name, image in zip(names, images, strict=True):
        image.save(folder / name)
    if columns:
        pd.DataFrame({"file_name": names} | columns).to_csv(folder / "metadata.csv", index=False)
    return folder


def dataset(folder: Path, images: list[Image.Image], first_patient: int = 0) -> Path:
    n = len(images)
    patients = [first_patient + i // 2 for i in range(n)]
    # In the order of the table the names run backwards: who goes by a sorted listing goes wrong.
    names = [f"{first_patient}-{n - i:03}.png" for i in range(n)]
    return write(folder, images, names, text=["Normal."] * n, subject_id=patients)


def samples(folder: Path, images: list[Image.Image], ids: list[str] | None = None) -> Path:
    n = len(images)
    ids = [f"p{i}" for i in range(n)] if ids is None else ids
    names = [f"{prompt}_{i}.png" for i, prompt in enumerate(ids)][::-1]
    return write(folder, images, names, text=ids, id=ids, seed=[0] * n, scheduler=["pndm"] * n)


def evaluate(*sides: ImageFolder, **options: Any) -> list[dict]:
    return privacy.evaluate(*sides, find_extractor("pixels-32"), **options).rows


def score(root: Path, synthetic: list[Image.Image], **options: Any) -> dict[str, dict]:
    folders = [
        dataset(root / "train", pictures(60, 0)),
        dataset(root / "test", pictures(40, 1), 500),
        samples(root / "samples", synthetic),
    ]
    flags = ("--train", "--real", "--synthetic")
    readers = (read_folder, read_folder, read_samples)
    sides = [read(folder, flag) for read, folder, flag in zip(readers, folders, flags, strict=True)]
    return {row["metric"]: row for row in evaluate(*sides, **options)}


@pytest.mark.parametrize("change", ["exact", "altered"])
def test_planted_copies_are_found_all_and_only(tmp_path, change):
    planted, draws = [5, 17, 58], np.random.default_rng(0)
    train = pictures(60, 0)
    copies = [train[i] if change == "exact" else altered(train[i], draws) for i in planted]
    rows = score(tmp_path, pictures(30, 2) + copies, nearest=tmp_path / "out" / "nearest.csv")
    row = rows["copy_share"]
    assert row["n_copies"] == 3
    assert row["value"] == pytest.approx(3 / 33)
    assert row["ci_low"] <= row["value"] <= row["ci_high"]
    assert row["floor"] == 0
    assert row["sensitivity"] == 1
    assert rows["copy_correlation_max"]["value"] > row["threshold"] > rows["copy_correlation_max"]["floor"]
    pairs = pd.read_csv(tmp_path / "out" / "nearest.csv")
    assert len(pairs) == 33
    assert pairs["copy"].tolist() == [True] * 3 + [False] * 30
    synthetic = pd.read_csv(tmp_path / "samples" / "metadata.csv")["file_name"][30:]
    known = pd.read_csv(tmp_path / "train" / "metadata.csv")["file_name"]
    expected = dict(zip(synthetic, known[planted], strict=True))
    assert dict(zip(pairs["synthetic"][:3], pairs["train"][:3], strict=True)) == expected
    by_listing = sorted(path.name for path in (tmp_path / "train").glob("*.png"))
    assert {by_listing[i] for i in planted} != set(expected.values())


def test_a_planted_copy_counts_under_either_name_but_not_as_another_picture(tmp_path, monkeypatch):
    images = pictures(20, 0)
    train = read_folder(dataset(tmp_path / "train", [*images, images[3]]), "--train")
    greys = read_greys(train.paths, GRID)
    common = whitening(greys)
    assert privacy.planted(train, greys, common, 0).min() > 0.5

    def confused(queries: np.ndarray, references: np.ndarray, whitened: object) -> Matches:
        found = best_matches(queries, references, common)
        return Matches(found.correlation, (found.index + 5) % len(greys), found.shift)

    monkeypatch.setattr(privacy, "best_matches", confused)
    assert (privacy.planted(train, greys, common, 0) == -1).all()


def test_without_copies_none_is_found(tmp_path):
    rows = score(tmp_path, pictures(30, 2))
    row = rows["copy_share"]
    assert row["n_copies"] == row["value"] == row["ci_low"] == 0
    assert row["ci_high"] == pytest.approx(3 / 30)  # none of thirty is not none at all
    assert row["notes"] == []
    assert rows["nn_share_nearer_train"]["value"] == pytest.approx(0.5, abs=0.2)
    assert rows["nn_share_nearer_train"]["n_each"] == 40
    assert (row["n_train"], row["n_real"], row["n_synthetic"]) == (60, 40, 30)
    assert "own_image_rms" not in rows  # the prompts are not those of training images


def test_command_writes_scores_and_pairs(tmp_path, capsys):
    dataset(tmp_path / "train", pictures(30, 0))
    dataset(tmp_path / "test", pictures(20, 1), 500)
    samples(tmp_path / "samples", pictures(10, 0))  # all are training images
    paths = {"train": "train", "real": "test", "synthetic": "samples", "output": "out/scores.json"}
    assert main(PrivacyConfig(**{flag: str(tmp_path / path) for flag, path in paths.items()})) == 0
    rows = {row["metric"]: row for row in json.loads((tmp_path / "out" / "scores.json").read_text())}
    assert rows["copy_share"]["value"] == 1
    assert rows["authpct"]["value"] == 0 < rows["authpct"]["floor"]
    assert rows["nn_distance_ratio"]["value"] < 0.9
    assert "10 of 10 synthetic images are copies" in capsys.readouterr().out
    assert (tmp_path / "out" / "nearest.csv").read_text().startswith("synthetic,train,correlation")


def test_where_nothing_is_found_and_there_is_one_prompt_the_table_has_no_interval(tmp_path):
    rows = list(score(tmp_path, pictures(4, 2)).values())
    for row in rows:
        row |= {"ci_low": float("nan")}  # of a share of 0 the upper end is known all the same
    said = privacy.table(rows)
    assert "nan" not in said and not re.search("copy_share .*–", said)


def test_command_writes_who_is_recognised_too(tmp_path, capsys):
    dataset(tmp_path / "train", pictures(30, 0))
    dataset(tmp_path / "test", pictures(30, 1), 500)
    samples(tmp_path / "samples", [*pictures(30, 0)[:2], *pictures(8, 2)])
    paths = {"train": "train", "real": "test", "synthetic": "samples", "output": "out/scores.json"}
    settings = {flag: str(tmp_path / path) for flag, path in paths.items()}
    assert main(PrivacyConfig(**settings, reid="pixels-16")) == 0
    assert "2 of 10 synthetic images are taken for a training patient" in capsys.readouterr().out
    pairs = pd.read_csv(tmp_path / "out" / "nearest.csv")
    assert pairs["reidentified"].tolist() == [True] * 2 + [False] * 8
    assert (pairs["reid_train"] == pairs["train"])[:2].all()
    rows = {row["metric"]: row for row in json.loads((tmp_path / "out" / "scores.json").read_text())}
    assert rows["reid_share"]["extractor"] == "pixels-16" and rows["copy_share"]["extractor"] is None


def test_an_unknown_network_is_refused_before_images_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(privacy, "evaluate", lambda *_, **__: pytest.fail("read images"))
    folders = {name: str(samples(tmp_path / name, pictures(n, n))) for n, name in enumerate(("synthetic", "train"), 2)}
    real = str(dataset(tmp_path / "real", pictures(4, 1)))
    with pytest.raises(UserError, match=r"^--reid nosuch: unknown"):
        main(PrivacyConfig(**folders, real=real, output=str(tmp_path / "o.json"), reid="nosuch"))


# The prompt's own image


def folders_of(train_names: list[str], ids: list[str]) -> tuple[ImageFolder, ImageFolder]:
    train = pd.DataFrame({"file_name": train_names, "text": [""] * len(train_names)})
    synthetic = pd.DataFrame({"file_name": [f"{i}.png" for i in range(len(ids))], "text": ids, "id": ids, "seed": "0"})
    return ImageFolder(Path(), train), ImageFolder(Path(), synthetic, synthetic=True)


def test_distance_to_the_own_image_is_the_smallest_over_all_seeds():
    train, synthetic = folders_of(["a.png", "b.png"], ["a", "a", "a"])
    known = np.full((2, 8, 8), 100, np.uint8)
    greys = np.stack([np.full((8, 8), value, np.uint8) for value in (101, 180, 250)])
    (row,) = own_image_rows(train, synthetic, known, greys, {}, 0)
    assert row["value"] == row["minimum"] == pytest.approx(1)
    assert row["n_prompts"] == 1


def test_names_that_end_in_letters_of_their_suffix_are_found():
    train, synthetic = folders_of(["effusion_jpg.jpg", "gpj.jpg"], ["effusion_jpg", "gpj"])
    known = np.stack([np.full((8, 8), value, np.uint8) for value in (10, 200)])
    (row,) = own_image_rows(train, synthetic, known, known.copy(), {}, 0)
    assert row["n_prompts"] == 2
    assert row["value"] == 0
    assert row["floor"] == pytest.approx(190)  # with another patient's image


# Samples that repeat themselves


def test_prompts_that_repeat_one_image_are_counted():
    train = np.random.default_rng(0).integers(0, 256, (40, 64, 64), dtype=np.uint8)
    synthetic = folders_of(["a.png"], ["a", "a", "a", "b", "b", "c"])[1]
    greys = np.random.default_rng(1).integers(0, 256, (6, 64, 64), dtype=np.uint8)
    (row,) = repetition_rows(synthetic, greys, train, np.arange(40), {}, 0)
    assert (row["value"], row["n_prompts"]) == (0, 2)
    greys[2] = greys[0]  # the first and the last sample of a prompt
    (row,) = repetition_rows(synthetic, greys, train, np.arange(40), {}, 0)
    assert (row["value"], row["minimum"]) == (0.5, 0)


# Folders and features that cannot be used


def test_held_out_images_that_are_training_images_are_left_out_or_refused(tmp_path):
    train = dataset(tmp_path / "train", pictures(60, 0))
    mixed = write(tmp_path / "mixed", pictures(30, 1) + pictures(60, 0)[:2], [f"{i}.png" for i in range(32)])
    same = write(tmp_path / "same", pictures(60, 0), [f"{i}.png" for i in range(60)])
    synthetic = read_samples(samples(tmp_path / "samples", pictures(10, 2)), "--synthetic")
    train = read_folder(train, "--train")
    rows = evaluate(train, read_folder(mixed, "--real"), synthetic)
    assert rows[0]["n_real"] == 30
    assert {row["n_calibration"] for row in rows if row["metric"] == "copy_share"} == {30 + 60}
    left_out, unknown = rows[0]["notes"]
    assert left_out == "left out 2 of 32 held-out images: 0 of patients in --train, 2 stored there, too"
    assert unknown.startswith("the patients of 32 of 32 real images are not known (no subject_id)")
    with pytest.raises(UserError, match="60 of the 60 images of --real"):
        evaluate(train, read_folder(same, "--real"), synthetic)
    with pytest.raises(UserError, match="--train and --real are the same folder"):
        evaluate(train, train, synthetic)
    with pytest.raises(UserError, match=r"--train .* is a samples folder"):
        evaluate(synthetic, read_folder(mixed, "--real"), train)


def test_samples_that_are_copies_of_held_out_images_are_a_warning(tmp_path):
    images = pictures(40, 1)
    train = read_folder(dataset(tmp_path / "train", pictures(60, 0)), "--train")
    real = read_folder(dataset(tmp_path / "test", images, 500), "--real")
    fresh, copies = pictures(10, 2), [images[3], altered(images[8], np.random.default_rng(0))]
    for name, planted in (("with", copies), ("without", [])):
        synthetic = read_samples(samples(tmp_path / name, fresh + planted), "--synthetic")
        found = privacy.evaluate(train, real, synthetic, find_extractor("pixels-32"))
        assert {row["n_copies"] for row in found.rows if row["metric"] == "copy_share"} == {0}  # of training images
        told = "2 of 12 synthetic images are copies of images in --real: if the model was trained on them, they are "
        assert [line.startswith(told) for line in found.warnings] == [True] * bool(planted)


def test_patients_of_the_training_set_are_left_out(tmp_path):
    train = read_folder(dataset(tmp_path / "train", pictures(60, 0)), "--train")
    synthetic = read_samples(samples(tmp_path / "samples", pictures(10, 2)), "--synthetic")
    partly = read_folder(dataset(tmp_path / "partly", pictures(40, 1), 25), "--real")  # patients 25 to 29 of 0 to 29
    assert evaluate(train, partly, synthetic)[0]["n_real"] == 30
    wholly = read_folder(dataset(tmp_path / "wholly", pictures(20, 1), 3), "--real")
    with pytest.raises(UserError, match=r"0 images of --real .* are of patients that --train does not have"):
        evaluate(train, wholly, synthetic)


def test_too_few_real_images_for_a_threshold_are_one_line(tmp_path):
    train = read_folder(write(tmp_path / "train", pictures(30, 0), [f"{i}.png" for i in range(30)]), "--train")
    real = read_folder(write(tmp_path / "real", pictures(9, 1), [f"{i}.png" for i in range(9)]), "--real")
    synthetic = read_samples(samples(tmp_path / "samples", pictures(10, 2)), "--synthetic")
    with pytest.raises(UserError, match="9 real images of other patients: a threshold needs 20"):
        evaluate(train, real, synthetic)


def test_features_that_are_not_finite_are_refused():
    features = np.random.default_rng(0).normal(size=(3, 10, 4))
    features[2, 3, 1] = np.nan
    groups = [str(i) for i in range(10)]
    with pytest.raises(UserError, match="not finite"):
        distance_rows(*features, groups, groups, groups)


def test_sizes_and_formats_may_differ(tmp_path):
    train = pictures(60, 0)
    folders = [
        dataset(tmp_path / "train", train),
        write(tmp_path / "real", pictures(30, 1), [f"{i}.jpg" for i in range(30)]),
        write(tmp_path / "s", [train[4].resize((200, 200)), *pictures(5, 2)], [f"{i}.jpg" for i in range(6)]),
    ]
    rows = evaluate(read_folder(folders[0], "--train"), read_folder(folders[1], "--real"), read_samples(folders[2]))
    assert next(row for row in rows if row["metric"] == "copy_share")["n_copies"] == 1
