"""Exact and near duplicates: which altered pictures are found, what is counted and what is dropped."""

import io
import zlib

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
    counts = count_duplicates(find_duplicates(leaky))
    assert counts == {
        "exact": {"pairs": 2, "across_patients": 0, "across_splits": 0},
        "near": {"pairs": 1, "across_patients": 1, "across_splits": 1},
    }
    line = describe_duplicates(counts, "keep", 0)
    assert line.startswith("duplicates: 2 exact and 1 near pairs, 1 across patients, 1 across splits: kept")
    assert "3 images dropped" in describe_duplicates(counts, "drop", 3)
    assert describe_duplicates(count_duplicates(find_duplicates(leaky[-1:])), "keep", 0) == "duplicates: none"


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
    copies = rows_of(*[("train", f"train/{i:04d}.png", str(i), picture(0)) for i in range(300)])
    same_hash = copies.assign(digest=copies["file_name"].map(lambda name: f"{zlib.crc32(name.encode()):032x}"))
    assert len(find_duplicates(copies)) == len(find_duplicates(same_hash)) == 299
