"""Diversity of synthetic images within and across prompts: MS-SSIM, feature distances and the Vendi score.

    python -m eval.diversity --real DATASET/test --synthetic SAMPLES --extractor RUN --output scores.json

Within prompts: up to four images of a text, all six pairs. Across prompts: pairs with different texts. The floor of a
synthetic row is the same measure on real images, always between different patients. MS-SSIM falls with diversity,
distances and the Vendi score (an effective number of different images) rise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from eval.command import Comparison, check_at_least
from eval.extractors.base import Extractor
from eval.extractors.cache import extract
from eval.inputs.folders import ImageFolder, patients_of, prompts_of
from eval.inputs.images import read_greys, shortest_sides
from eval.metrics.bootstrap import bootstrap_counts, group_rows, percentiles, validate_features
from eval.metrics.ms_ssim import WEIGHTS, ms_ssim, n_scales
from eval.metrics.vendi import vendi, vendi_interval
from eval.scores import Result, Rows, note_lines, score_row, value_text
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError

VERSION = 2  # of the rows: raise it when a value changes for the same images
RESAMPLES = 200
FEATURE_PAIRS = 20_000  # across prompts
KINDS = ("within_prompts", "across_prompts")
ONE_PER_PROMPT = "undefined: no text has two images of different patients; generate several for each prompt"


@dataclass
class DiversityConfig(Comparison):
    """What to measure, and with which features."""

    synthetic: str
    """Samples folder, best with 4 images for each prompt."""
    extractor: str | None = None
    """Name of a feature extractor, or a folder with one. Default: MS-SSIM only, which needs none."""
    images_per_prompt: int = 4
    """Images of one text that are paired: 4 have 6 pairs."""
    max_pairs: int = 1500
    """Most pairs per row of MS-SSIM; where there are more, whole prompts or pairs are drawn."""

    def __post_init__(self) -> None:
        check_at_least(2, self, "images_per_prompt")
        check_at_least(1, self, "max_pairs")


def main(config: DiversityConfig) -> int:
    def measure(real: ImageFolder, synthetic: ImageFolder) -> Result:
        extractor = config.find_extractor(config.extractor) if config.extractor else None
        options: dict[str, Any] = {name: getattr(config, name) for name in ("images_per_prompt", "max_pairs", "seed")}
        return evaluate(real, synthetic, extractor, **options)

    return config.run(measure, table)


def evaluate(
    real: ImageFolder,
    synthetic: ImageFolder,
    extractor: Extractor | None = None,
    *,
    images_per_prompt: int = 4,
    max_pairs: int = 1500,
    seed: int = 0,
) -> Result:
    """Score rows: MS-SSIM and mean feature distance within and across prompts, Vendi score; synthetic and real.

    Distances and the Vendi score need an extractor.

    Raises:
        UserError: images are unusable; fewer than 2 images on a side.
    """
    sides = {"synthetic": synthetic, "real": real}
    for side, folder in sides.items():
        if len(folder) < 2:
            raise UserError(f"--{side} {folder.folder} holds {len(folder)} image: diversity needs at least 2")
    features = {}
    if extractor is not None:
        values = [extract(folder, extractor).values for folder in (real, synthetic)]
        features["real"], features["synthetic"] = validate_features(*values)
    rows: Rows = []
    about: dict[str, Any] = {"n_real": len(real), "n_synthetic": len(synthetic)}
    paths = [*real.paths, *synthetic.paths]
    unknown = [real.patients_note] if real.patients_note else []
    lengths = shortest_sides(real.paths) + shortest_sides(synthetic.paths)
    size = min(lengths)
    preset = f"grey {size} px, {n_scales(size)} scales"
    notes = unknown.copy()
    if n_scales(size) < len(WEIGHTS):
        notes.append(f"{n_scales(size)} of 5 scales, for images below 176 px: not comparable with five")
    if size < max(lengths):
        notes.append(f"measured at {size} px, the size of the smallest image: {paths[lengths.index(size)].name}")
    for kind in KINDS:
        measured = {}
        for side, folder in sides.items():
            measured[side] = ssim_of_folder(folder, kind, images_per_prompt, max_pairs, size, seed)
        rows += _pair_rows(f"ms_ssim_{kind}", measured, about | {"preset": preset, "notes": notes})
    if extractor is None:
        return Result(rows)
    about |= {"extractor": extractor.given_name, "notes": unknown}
    for kind in KINDS:
        measured = {}
        for side, folder in sides.items():
            pairs = find_pairs(folder, kind, images_per_prompt, FEATURE_PAIRS, seed)
            measured[side] = pairs, distance_of_pairs(features[side], pairs)
        rows += _pair_rows(f"feature_distance_{kind}", measured, about)
    return Result(rows + _vendi_rows(sides, features, about, seed))


@dataclass(frozen=True)
class Pairs:
    """Which images are compared, and what is drawn together in the bootstrap."""

    first: np.ndarray
    """Row numbers, shape (pairs,)."""
    second: np.ndarray
    weight: np.ndarray
    """Of each pair in the mean, shape (pairs,): a prompt counts once, however many pairs it has."""
    groups: tuple[np.ndarray, np.ndarray]
    """Number of the prompt (within prompts) or of the patient (across) of either image."""

    def __len__(self) -> int:
        return len(self.first)


def find_pairs(folder: ImageFolder, kind: str, images_per_prompt: int, most: int, seed: int) -> Pairs:
    """Pairs of images of different patients, of equal prompts or of different ones (`kind`, one of `KINDS`).

    The first `images_per_prompt` of a prompt are paired; of more than `most` pairs, whole prompts (within) or pairs
    (across) are drawn at random.
    """
    prompts, patients = prompts_of(folder), patients_of(folder)
    generator = np.random.default_rng(seed)
    if kind == "within_prompts":
        return _within(prompts, patients, images_per_prompt, most, generator)
    first, second = generator.integers(len(folder), size=(2, 8 * most + 1000))
    if len(folder) ** 2 <= 8 * most:
        first, second = np.triu_indices(len(folder), 1)
        order = generator.permutation(len(first))
        first, second = first[order], second[order]
    chosen = np.flatnonzero((prompts[first] != prompts[second]) & (patients[first] != patients[second]))[:most]
    first, second = first[chosen], second[chosen]
    # Images of a patient are drawn together; synthetic ones together with those of their prompt.
    units = prompts if folder.synthetic else patients
    return Pairs(first, second, np.ones(len(first)), (units[first], units[second]))


def _within(
    prompts: np.ndarray, patients: np.ndarray, images_per_prompt: int, most: int, generator: np.random.Generator
) -> Pairs:
    found: list[tuple[int, int]] = []
    weights: list[float] = []
    groups = group_rows(prompts.astype(str).tolist())
    for i in generator.permutation(len(groups)):
        _, one_each = np.unique(patients[groups[i]], return_index=True)
        members = groups[i][np.sort(one_each)][:images_per_prompt]
        pairs = list(combinations(members.tolist(), 2))
        if not pairs:
            continue
        if found and len(found) + len(pairs) > most:
            break
        found += pairs
        weights += [1 / len(pairs)] * len(pairs)
    first, second = np.array(found, dtype=int).reshape(-1, 2).T
    return Pairs(first, second, np.array(weights), (prompts[first], prompts[second]))


def mean_of_pairs(values: np.ndarray, pairs: Pairs, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Weighted mean and its 95 % bootstrap interval, drawing prompts or patients; NaN where there are too few.

    A pair of two groups occurs as often as the product of their counts in a sample (Owen and Eckles 2012's pigeonhole
    bootstrap); a pair within one group as often as the group.
    """
    if not len(pairs):
        return float("nan"), (float("nan"),) * 2
    value = float(np.average(values, weights=pairs.weight))
    names, codes = np.unique(np.concatenate(pairs.groups), return_inverse=True)
    if len(names) < 2:
        return value, (float("nan"),) * 2
    first, second = codes[: len(pairs)], codes[len(pairs) :]
    drawn = []
    for count in bootstrap_counts(len(names), RESAMPLES, seed):
        weight = pairs.weight * count[first] * np.where(first == second, 1, count[second])
        drawn.append(np.average(values, weights=weight) if weight.any() else np.nan)
    return value, percentiles(np.array(drawn))


@lru_cache(maxsize=8)
def ssim_of_folder(
    folder: ImageFolder, kind: str, images_per_prompt: int, most: int, size: int, seed: int
) -> tuple[Pairs, np.ndarray]:
    """The pairs of `find_pairs` with their `ssim_of_pairs`; those of the real images are the same for all models."""
    pairs = find_pairs(folder, kind, images_per_prompt, most, seed)
    return pairs, ssim_of_pairs(folder.paths, pairs, size)


def ssim_of_pairs(paths: Sequence[Path], pairs: Pairs, size: int) -> np.ndarray:
    """MS-SSIM of pairs of image files at size × size pixels; a few dozen are held in memory at once."""
    values = []
    for start in range(0, len(pairs), 24):
        first, second = pairs.first[start : start + 24], pairs.second[start : start + 24]
        needed, place = np.unique(np.concatenate([first, second]), return_inverse=True)
        greys = read_greys([paths[i] for i in needed], size).astype(np.float32) / 255
        values.append(ms_ssim(greys[place[: len(first)]], greys[place[len(first) :]]))
    return np.concatenate(values) if values else np.zeros(0)


def distance_of_pairs(features: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Euclidean distance over √dimension (a root mean square per feature), shape (pairs,)."""
    features = np.asarray(features, np.float64)
    chunks = [
        np.sqrt(((features[pairs.first[i : i + 1024]] - features[pairs.second[i : i + 1024]]) ** 2).mean(axis=1))
        for i in range(0, len(pairs), 1024)
    ]
    return np.concatenate(chunks) if chunks else np.zeros(0)


def _pair_rows(metric: str, sides: dict[str, tuple[Pairs, np.ndarray]], about: dict[str, Any]) -> Rows:
    """The synthetic row, with the real value as its floor, and the real row."""
    rows = []
    for side, (pairs, values) in sides.items():
        value, interval = mean_of_pairs(values, pairs)
        row = score_row(metric, value, interval, images=side, **about)
        if not len(pairs):
            reason = ONE_PER_PROMPT if metric.endswith("within_prompts") else "undefined: all images have one text"
            row["notes"] = [reason, *row["notes"]]
        n_units = len(np.unique(np.concatenate(pairs.groups)))
        rows.append(
            row | {"n_pairs": len(pairs), "n_prompts" if metric.endswith("within_prompts") else "n_groups": n_units}
        )
    rows[0]["floor"] = rows[1]["value"]
    return rows


def _vendi_rows(
    sides: dict[str, ImageFolder], features: dict[str, np.ndarray], about: dict[str, Any], seed: int
) -> Rows:
    """Vendi scores at the same number of images on both sides."""
    n = min(len(folder) for folder in sides.values())
    rows = []
    for side, folder in sides.items():
        units = prompts_of(folder) if folder.synthetic else patients_of(folder)
        chosen = _spread(units, np.random.default_rng(seed))[:n]
        value, interval = float("nan"), (float("nan"), float("nan"))
        note = f"of {n} images on either side; grows with their number"
        try:
            value = vendi(features[side][chosen])
            interval = vendi_interval(features[side][chosen], units[chosen], seed)
        except UserError as problem:
            note = str(problem)
        row = score_row("vendi", value, interval, images=side, **about)
        rows.append(row | {f"n_{side}": n, "notes": [note, *row["notes"]]})
    rows[0]["floor"] = rows[1]["value"]
    return rows


def _spread(groups: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Row numbers in random order, but one of every group first, then a second of every group, …"""
    order = generator.permutation(len(groups))
    turn = np.empty(len(groups), int)
    for members in group_rows(groups[order].astype(str).tolist()):
        turn[members] = np.arange(len(members))
    return order[np.argsort(turn, kind="stable")]


def table(rows: Rows) -> str:
    """The rows as text, synthetic and real side by side."""
    lines = [f"{'':34}  {'synthetic':>24}  {'real, other patients':>24}"]
    for metric in dict.fromkeys(row["metric"] for row in rows):
        cells = {row["images"]: row for row in rows if row["metric"] == metric}
        lines.append(f"{metric:34}" + "".join(f"  {value_text(cells[side]):>24}" for side in cells))
    return "\n".join(lines + note_lines(rows))


if __name__ == "__main__":
    run(main)
