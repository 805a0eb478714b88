"""Duplicates among the written images: exact ones by digest, near ones by perceptual hash, across splits and patients.

A near duplicate is the same picture after another compression, resizing, change of brightness, contrast or tone curve,
light noise, or a crop of about 1 %. A mirrored or inverted picture is not: its hash is as far as that of any other.
docs/decisions.md has the measurements behind the numbers.
"""

import hashlib
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from sdcxr.io.manifest import SPLITS

DuplicatePolicy = Literal["keep", "drop"]

PAIR_COLUMNS = ("kind", "distance", "file_name", "subject_id", "split", "copy", "copy_subject_id", "copy_split")
MAX_DISTANCE = 24  # of 256 bits; radiographs of different patients differ in 76 or more, at 126 ± 10

SIDE_PX = 32  # of the thumbnail that is hashed
N_BITS = 256
LOWEST = 36  # coefficients left out: what all chest radiographs have in common
_U, _V = (index.ravel() for index in np.mgrid[:SIDE_PX, :SIDE_PX])
_HASHED = np.lexsort((_U, _U + _V))[LOWEST : LOWEST + N_BITS]  # by frequency
_DCT = np.cos(np.pi / SIDE_PX * np.outer(np.arange(SIDE_PX), np.arange(SIDE_PX) + 0.5))  # DCT-II, rows by frequency

# ---------------------------------------------------------------------------------------------------------------------
# Hashes of one picture


def digest(pixels: NDArray[np.uint8]) -> str:
    """Digest of a picture (H, W) or (H, W, 3), 32 hexadecimal digits: equal for equal pixels, whatever the format."""
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()[:32]


def perceptual_hash(grey: NDArray[np.uint8]) -> str:
    """Perceptual hash of a picture (H, W), 256 bits as 64 hexadecimal digits; compare by Hamming distance.

    The signs of DCT coefficients of a 32 × 32 thumbnail ("pHash"; Zauner 2010), with two changes for radiographs.
    Ranks replace grey values, so that no monotonic change of tone matters; and the lowest frequencies are left out,
    which are much the same in every chest.
    """
    thumbnail = np.asarray(Image.fromarray(grey).resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX))
    histogram = np.bincount(thumbnail.ravel(), minlength=256)
    ranks = (histogram.cumsum() - histogram / 2) / thumbnail.size - 0.5
    coefficients = _DCT @ ranks[thumbnail] @ _DCT.T
    return np.packbits(coefficients.ravel()[_HASHED] > 0).tobytes().hex()


# ---------------------------------------------------------------------------------------------------------------------
# Search


def near_pairs(hashes: list[str], max_distance: int = MAX_DISTANCE) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of similar hashes among distinct ones: positions (pairs, 2) in order, and distances (pairs,).

    Compares only hashes that share one of their sixteen 16-bit words. Near duplicates nearly always do (of altered
    radiographs within `max_distance`, all), others seldom, so the work grows with n² / 65,536.
    """
    words = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint16).reshape(-1, N_BITS // 16)
    wide = np.ascontiguousarray(words).view(np.uint64)
    found = [np.empty((0, 2), dtype=np.intp)]
    for word in words.T:
        order = np.argsort(word, kind="stable")
        value, bits = word[order], wide[order]
        start = np.arange(len(order))
        for step in range(1, len(order)):
            start = start[: np.searchsorted(start, len(order) - step)]
            start = start[value[start] == value[start + step]]
            if start.size == 0:
                break
            distance = np.bitwise_count(bits[start] ^ bits[start + step]).sum(axis=1)
            near = start[distance <= max_distance]
            found.append(np.stack([order[near], order[near + step]], axis=1))
    pairs = np.unique(np.sort(np.concatenate(found), axis=1), axis=0)
    return pairs, np.bitwise_count(wide[pairs[:, 0]] ^ wide[pairs[:, 1]]).sum(axis=1).astype(np.intp)


def find_duplicates(rows: pd.DataFrame) -> pd.DataFrame:
    """All pairs of duplicates, in `PAIR_COLUMNS`, in a fixed order.

    A picture that occurs n times is n - 1 pairs, each with its first occurrence; near pairs are those of the first
    occurrences. First is a test image before a validation image before a training image, then the lower file name.

    Args:
        rows: has file_name, subject_id and split, digest and phash of every image.
    """
    rows = rows[rows["digest"] != ""]
    rows = rows.assign(_held_out=rows["split"].map({split: -i for i, split in enumerate(SPLITS)}))
    rows = rows.sort_values(["_held_out", "file_name"], ignore_index=True)
    position = pd.Series(rows.index)
    same_pixels = position.groupby(rows["digest"]).transform("first")
    exact = pd.DataFrame({"kind": "exact", "distance": 0, "first": same_pixels, "second": position})
    exact = exact[exact["first"] != exact["second"]]

    distinct = rows["phash"][same_pixels == position]
    same_hash = position[distinct.index].groupby(distinct).transform("first")
    equal = pd.DataFrame({"kind": "near", "distance": 0, "first": same_hash, "second": same_hash.index})
    equal = equal[equal["first"] != equal["second"]]
    heads = distinct.index[same_hash == distinct.index]
    pairs, distance = near_pairs(distinct[heads].tolist())
    near = pd.DataFrame(
        {"kind": "near", "distance": distance, "first": heads[pairs[:, 0]], "second": heads[pairs[:, 1]]}
    )

    found = pd.concat([exact, equal, near], ignore_index=True)
    ids = ["file_name", "subject_id", "split"]
    first, second = (rows[ids].iloc[found[side]].reset_index(drop=True) for side in ("first", "second"))
    second.columns = pd.Index(["copy", "copy_subject_id", "copy_split"])
    table = pd.concat([found[["kind", "distance"]], first, second], axis=1)
    return table.sort_values(list(PAIR_COLUMNS), ignore_index=True)


# ---------------------------------------------------------------------------------------------------------------------
# What follows from them


def count_duplicates(pairs: pd.DataFrame, n_copies: int) -> dict[str, dict[str, int]]:
    """Numbers for prep.json: exact and near pairs, those across patients and splits; images that "drop" leaves out."""
    patients, splits = pairs["subject_id"] != pairs["copy_subject_id"], pairs["split"] != pairs["copy_split"]
    counts = {
        kind: {
            "pairs": int(chosen.sum()),
            "across_patients": int((chosen & patients).sum()),
            "across_splits": int((chosen & splits).sum()),
        }
        for kind in ("exact", "near")
        for chosen in [pairs["kind"] == kind]
    }
    return counts | {"copies": {"images": n_copies}}


def differing_pairs(pairs: pd.DataFrame, file_name: pd.Series, value: pd.Series) -> int:
    """Pairs of which the two pictures have different values, such as classes, of which one must be wrong."""
    of_file = dict(zip(file_name, value, strict=True))
    return int((pairs["file_name"].map(of_file) != pairs["copy"].map(of_file)).sum())


def surplus_copies(pairs: pd.DataFrame) -> dict[str, str]:
    """What "drop" leaves out: file name of each copy to the one that is kept.

    Of all images that are connected by pairs, one is kept: from the test split if one is there, else from validation,
    so that a picture that was held out is not trained on.
    """
    held_out = {split: -i for i, split in enumerate(SPLITS)}
    rank = {
        name: (held_out[split], name)
        for names, splits in (("file_name", "split"), ("copy", "copy_split"))
        for name, split in zip(pairs[names], pairs[splits], strict=True)
    }
    kept = {name: name for name in rank}

    def root(name: str) -> str:
        while kept[name] != name:
            kept[name] = name = kept[kept[name]]
        return name

    for one, other in zip(pairs["file_name"], pairs["copy"], strict=True):
        first, second = sorted((root(one), root(other)), key=rank.__getitem__)
        kept[second] = first
    return {name: root(name) for name in sorted(rank) if root(name) != name}


def describe_duplicates(counts: dict[str, dict[str, int]], policy: DuplicatePolicy) -> str:
    """One line for the user about `count_duplicates`."""
    exact, near, n_copies = counts["exact"], counts["near"], counts["copies"]["images"]
    if not n_copies:
        return "duplicates: none"
    found = f"{exact['pairs']:,} exact and {near['pairs']:,} near pairs"
    across = ", ".join(f"{exact[key] + near[key]:,} {key.replace('_', ' ')}" for key in list(exact)[1:])
    then = "dropped" if policy == "drop" else "kept (--duplicates drop leaves them out)"
    return f"duplicates: {found}, {across}, listed in duplicates.csv: {n_copies:,} images {then}"
