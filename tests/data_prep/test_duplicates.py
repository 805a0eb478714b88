"""Exact and near duplicates: which altered pictures are found, what is counted and what is dropped."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_prep.duplicates import (
    MAX_DISTANCE,
    PAIR_COLUMNS,
    count_duplicates,
    describe_duplicates,
    digest,
    find_duplicates,
    near_pairs,
    perceptual_hash,
    surplus_copies,
)
from data_prep.table import TableConfig, main
from sdcxr.io.files import read_json

SIDE = 256


def picture(seed: int) -> np.ndarray:
    """A smooth random picture with detail at all scales, (256, 256), 20 to 200."""
    rng = np.random.default_rng(seed)
    total = np.zeros((SIDE, SIDE))
    for cells in (4, 8, 16, 32, 64):
        noise = rng.integers(0, 256, (cells, cells), dtype=np.uint8)
        total += np.asarray(Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BICUBIC), float)
    return (20 + 180 * (total - total.min()) / np.ptp(total)).astype(np.uint8)


def recompressed(grey: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "JPEG", quality=40)
    return np.asarray(Image.open(file))


def resized(grey: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(grey).resize((150, 150)).resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def noisy(grey: np.ndarray) -> np.ndarray:
    return (grey + np.random.default_rng(0).normal(0, 4, grey.shape)).clip(0, 255).astype(np.uint8)


def distance(one: np.ndarray, other: np.ndarray) -> int:
    return (int(perceptual_hash(one), 16) ^ int(perceptual_hash(other), 16)).bit_count()


# ---------------------------------------------------------------------------------------------------------------------
# Hashes


@pytest.mark.parametrize(
    "alter",
    [
        recompressed,
        resized,
        noisy,
        lambda grey: (grey * 0.6 + 70).astype(np.uint8),  # contrast and brightness
        lambda grey: (255 * (grey / 255) ** 0.7).astype(np.uint8),  # gamma
        lambda grey: np.roll(grey, 1, axis=1),  # a pixel to the side
    ],
)
def test_an_altered_copy_is_near_and_not_equal(alter):
    for seed in range(20):
        assert distance(picture(seed), alter(picture(seed))) <= MAX_DISTANCE
        assert digest(picture(seed)) != digest(alter(picture(seed)))


@pytest.mark.parametrize("alter", [np.fliplr, np.flipud, np.rot90, lambda grey: 255 - grey])
def test_a_mirrored_turned_or_inverted_picture_is_no_copy(alter):
    assert all(distance(picture(seed), np.ascontiguousarray(alter(picture(seed)))) > 80 for seed in range(20))


def test_different_pictures_are_far_apart():
    hashes = [perceptual_hash(picture(seed)) for seed in range(60)]
    assert {len(value) for value in hashes} == {64} and near_pairs(hashes, 70)[0].size == 0


def test_the_digest_is_of_the_pixels():
    assert digest(picture(0)) == digest(np.asfortranarray(picture(0)))
    assert digest(picture(0)) != digest(picture(1)) and len(digest(picture(0))) == 32


def test_near_pairs_are_those_of_all_comparisons():
    rng = np.random.default_rng(1)
    base = rng.integers(0, 256, (40, 32), dtype=np.uint8)
    flips = (rng.random((40, 256)) < rng.choice([0.01, 0.05, 0.3], (40, 1))).astype(np.uint8)
    values = np.concatenate([base, base ^ np.packbits(flips, axis=1)])
    hashes = [row.tobytes().hex() for row in values]
    apart = np.bitwise_count(values[:, None] ^ values[None]).sum(axis=2)
    expected = np.argwhere(np.triu(apart <= MAX_DISTANCE, 1))
    pairs, found = near_pairs(hashes)
    np.testing.assert_array_equal(pairs, expected)
    np.testing.assert_array_equal(found, apart[tuple(expected.T)])
    assert 10 < len(pairs) < 40


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_hashes(n):
    assert near_pairs([perceptual_hash(picture(seed)) for seed in range(n)])[0].shape == (0, 2)


# ---------------------------------------------------------------------------------------------------------------------
# Pairs of a dataset


def rows_of(*images: tuple[str, str, str, np.ndarray]) -> pd.DataFrame:
    return pd.DataFrame(
        [(split, name, patient, digest(grey), perceptual_hash(grey)) for split, name, patient, grey in images],
        columns=["split", "file_name", "subject_id", "digest", "phash"],
    )


@pytest.fixture
def leaky() -> pd.DataFrame:
    """Picture 0 three times, once re-compressed and held out; picture 1 twice; picture 2 once."""
    return rows_of(
        ("train", "train/a.png", "1", picture(0)),
        ("train", "train/b.png", "1", picture(0)),
        ("test", "test/c.png", "2", recompressed(picture(0))),
        ("train", "train/d.png", "3", picture(1)),
        ("train", "train/e.png", "3", picture(1)),
        ("validation", "validation/f.png", "4", picture(2)),
    )


def test_pairs_name_both_sides_held_out_first(leaky):
    pairs = find_duplicates(leaky)
    assert tuple(pairs.columns) == PAIR_COLUMNS
    shown = pairs[["kind", "file_name", "copy"]].agg(" ".join, axis=1).tolist()
    assert shown == ["exact train/a.png train/b.png", "exact train/d.png train/e.png", "near test/c.png train/a.png"]
    assert pairs["distance"].iloc[2] > 0


def test_counts_across_patients_and_splits(leaky):
    pairs = find_duplicates(leaky)
    counts = count_duplicates(pairs, len(surplus_copies(pairs)))
    assert counts == {
        "exact": {"pairs": 2, "across_patients": 0, "across_splits": 0},
        "near": {"pairs": 1, "across_patients": 1, "across_splits": 1},
        "copies": {"images": 3},
    }
    line = (
        "duplicates: 2 exact and 1 near pairs, 1 across patients, 1 across splits, listed in duplicates.csv: 3 images "
    )
    assert describe_duplicates(counts, "keep") == line + "kept (--duplicates drop leaves them out)"
    assert describe_duplicates(counts, "drop") == line + "dropped"
    assert describe_duplicates(count_duplicates(pairs[:0], 0), "keep") == "duplicates: none"


def test_dropping_keeps_the_held_out_picture_and_one_of_each_group(leaky):
    assert surplus_copies(find_duplicates(leaky)) == {
        "train/a.png": "test/c.png",
        "train/b.png": "test/c.png",
        "train/e.png": "train/d.png",
    }


def test_a_test_picture_is_kept_before_a_validation_picture():
    three = rows_of(*[(split, f"{split}/x.png", split, picture(0)) for split in ("train", "validation", "test")])
    assert set(surplus_copies(find_duplicates(three))) == {"train/x.png", "validation/x.png"}


def test_after_dropping_no_pair_is_left_whatever_the_order(leaky):
    for seed in range(5):
        shuffled = leaky.sample(frac=1, random_state=seed)
        pd.testing.assert_frame_equal(find_duplicates(shuffled), find_duplicates(leaky))
        left = shuffled[~shuffled["file_name"].isin(surplus_copies(find_duplicates(shuffled)))]
        assert len(left) == 3 and find_duplicates(left).empty


def test_many_copies_of_one_picture_are_not_squared():
    names = [f"train/{i:04d}.png" for i in range(300)]
    copies = rows_of(("train", "", "1", picture(0))).iloc[[0] * 300].assign(file_name=names)
    same_hash = copies.assign(digest=[f"{i:032x}" for i in range(300)])
    assert len(find_duplicates(copies)) == len(find_duplicates(same_hash)) == 299


@pytest.mark.parametrize(("policy", "kept"), [("keep", 6), ("drop", 4)])
def test_every_preparation_counts_duplicates_and_drops_them_on_request(tmp_path, capsys, policy, kept):
    """Picture 0 is in train and, re-compressed, in test; picture 1 is twice in train under other names of patients."""
    pictures = [picture(0), recompressed(picture(0)), picture(1), picture(1), picture(2), picture(3)]
    splits = ["train", "test", "train", "train", "train", "validation"]
    for i, grey in enumerate(pictures):
        Image.fromarray(grey).save(tmp_path / f"i{i}.png")
    table = pd.DataFrame(
        {"image": [f"i{i}" for i in range(6)], "subject_id": range(6), "split": splits, "text": "Text."}
    )
    table.to_csv(tmp_path / "table.csv", index=False)
    settings = {"resolution": SIDE, "workers": 1, "duplicates": policy}
    config = TableConfig(table=tmp_path / "table.csv", images=tmp_path, output_dir=tmp_path / "out", **settings)
    assert main(config) == 0
    prep = read_json(tmp_path / "out/prep.json")
    assert prep["duplicates"]["exact"] == {"pairs": 1, "across_patients": 1, "across_splits": 0}
    assert prep["duplicates"]["near"] == {"pairs": 1, "across_patients": 1, "across_splits": 1}
    pairs = pd.read_csv(tmp_path / "out/duplicates.csv")
    assert pairs[["file_name", "copy"]].to_numpy().tolist() == [
        ["train/i2.png", "train/i3.png"],
        ["test/i1.png", "train/i0.png"],
    ]
    written = sorted(path.stem for path in (tmp_path / "out").glob("*/*.png"))
    assert len(written) == kept == sum(prep["splits"].values()) and "i1" in written
    assert ("dropped" if policy == "drop" else "kept (--duplicates drop") in capsys.readouterr().out
    assert main(config) == 0 and "finished" in capsys.readouterr().out
