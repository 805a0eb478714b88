"""Fréchet distance (FID), KID, CMMD, precision and recall between synthetic and real radiographs.

    python -m eval.fid --real DATASET/test --synthetic SAMPLES --extractor xrv-all --output scores.json
    python -m eval.fid --real DATASET/test --synthetic SAMPLES --preset fd-xrv-roentgen --output scores.json

All metrics: Fréchet distance and its limit for many images, KID, CMMD, precision, recall, density and coverage; each
with an interval, and with its floor, the same metric between two halves of the real images (different patients).
Presets reproduce published evaluations, to compare with their numbers: fid-inception-torchmetrics, fid-clean,
fd-xrv-roentgen, fd-rad-dino-chexgenbench, fd-rad-dino, cmmd.
"""

import difflib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from eval.command import Comparison
from eval.extractors.cache import Features, extract
from eval.inputs.folders import ImageFolder, read_sides
from eval.inputs.survey import colour_text, differences
from eval.metrics.bootstrap import (
    NORMAL_95,
    Interval,
    disjoint_halves,
    group_rows,
    half_samples,
    validate_features,
    wilson,
)
from eval.metrics.nearest import nearest
from eval.metrics.prdc import NAMES
from eval.metrics.presets import HALVES_OF_LIMIT, OF_COVARIANCES, PRESETS, Preset, measure, values_of_halves
from eval.scores import Result, Row, Rows, note_lines, publish, score_row
from sdcxr.io.manifest import LABELS
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError

VERSION = 2  # of the rows: raise it when a value changes for the same images
INTERVAL_DRAWS, FEWEST_DRAWS = 100, 20
FEWEST_GROUPS = 8  # on a side, for an interval
FEWEST_OF_LABEL = 10  # images on each side, for a row of a label
CLUSTERED = 1.25  # real images per patient from which the floor has a note
SAME = 1e-4  # of the spread of real features: a smaller distance is that of equal images


@dataclass
class FidConfig(Comparison):
    """What to compare, and how."""

    DEPRECATED: ClassVar[dict[str, str]] = {"resamples": "interval_draws"}
    real: str
    """Split of a dataset folder, or a folder of images."""
    synthetic: str
    """Samples folder, or a folder of images."""
    output: str = field()  # required here
    """JSON file of score rows."""
    extractor: str | None = None
    """Network whose features are compared, or a folder with one. All metrics are taken."""
    preset: str | None = None
    """A published combination of extractor, preprocessing and metrics, in place of --extractor."""
    interval_draws: int = INTERVAL_DRAWS
    """Random half-samples behind each interval; 0 for no intervals."""
    per_label: bool = False
    """Also KID and CMMD of each finding, between equal numbers of images that have it."""

    def __post_init__(self) -> None:
        if (self.extractor is None) == (self.preset is None):
            raise UserError(f"give one of --extractor and --preset (presets: {', '.join(map(str, PRESETS))})")
        if self.preset is not None and self.preset not in PRESETS:
            near = difflib.get_close_matches(self.preset, map(str, PRESETS), n=1, cutoff=0)[0]
            raise UserError(
                f"--preset {self.preset}: unknown, did you mean {near}? (all: {', '.join(map(str, PRESETS))})"
            )
        check_interval_draws(self.interval_draws)


def check_interval_draws(draws: int) -> None:
    """Refuse so few draws that an interval would be noise.

    Raises:
        UserError: see above.
    """
    if draws < 0 or 0 < draws < FEWEST_DRAWS:
        raise UserError(f"--interval_draws {draws}: 0 for no intervals, or at least {FEWEST_DRAWS}")


def main(config: FidConfig) -> int:
    preset = PRESETS[config.preset] if config.preset is not None else Preset(str(config.extractor))
    sides = read_sides(config.real, config.synthetic)
    if config.per_label:
        common_labels(*sides)  # fails before hours of extraction
    extractor = config.find_extractor(preset.extractor)
    real, synthetic = (extract(side, extractor) for side in sides)

    from sdcxr.runtime.processes import processes  # torch is loaded by now

    if processes().is_main_process:  # it takes minutes on all cores
        options: dict[str, Any] = {name: getattr(config, name) for name in ("interval_draws", "per_label", "seed")}
        publish(evaluate(*sides, real, synthetic, preset, **options), config.output, table)
    return 0


def evaluate(
    real: ImageFolder,
    synthetic: ImageFolder,
    real_features: Features,
    synthetic_features: Features,
    preset: Preset,
    *,
    interval_draws: int = INTERVAL_DRAWS,
    per_label: bool = False,
    seed: int = 0,
) -> Result:
    """Score rows of all images, then of each label.

    Beside the columns of all rows: `dimension`; `below_2d`, whether a side has fewer than two images per dimension;
    `floor_n`, images on each side of the floor; `floor_splits`, the random splits it is a mean over, `floor_low` and
    `floor_high` the lowest and the highest of them (none of a single split);
    `value_at_floor_n`, the value between that many real and synthetic images, which compares with the floor; `k`;
    `n_real_groups` and `n_synthetic_groups`, patients or prompts; `real_files` and `synthetic_files`, formats, sizes
    and colour of the images; `sd` of KID over its `subsets` of `subset_size`; `resamples`, the draws of the interval;
    `seed`; `resize` and `sha256`, preprocessing and weights of the extractor.

    Features are in the order of their folder; the extractor of `preset` is only recorded. A row without a value has the
    reason in its notes.

    Raises:
        UserError: features are not finite, fewer than two, of differing dimensions; or no labels for `per_label`.
    """
    for folder, features in ((real, real_features), (synthetic, synthetic_features)):
        if len(features.values) != len(folder):
            raise UserError(
                f"{len(features.values)} features of the {len(folder)} images in {folder.folder}: stale cache?"
            )
    origin = _origin(real_features, preset)
    if origin != _origin(synthetic_features, preset):
        raise UserError("the features of the two sides come from different extractors, weights or preprocessing")
    x, y = validate_features(real_features.values, synthetic_features.values)
    groups = real.groups, synthetic.groups
    rows = compare_distributions(x, y, *groups, preset, interval_draws, seed)
    for label in common_labels(real, synthetic) if per_label else ():
        having = [np.flatnonzero(side.rows[label].to_numpy(float) == 1) for side in (real, synthetic)]
        rows += label_rows(label, x, y, groups, having, preset, interval_draws, seed)
    files = {
        f"{side}_files": folder.survey.text + colour_text(features.provenance)
        for side, folder, features in (("real", real, real_features), ("synthetic", synthetic, synthetic_features))
    }
    warnings = differences(real.survey, synthetic.survey)
    if copies := count_copies(x, y):
        same = f"{copies} of {len(y)} synthetic images have the features of a real one, to rounding"
        warnings.append(f"{same}: are the folders mixed up?")
    notes = [note for note in (real.patients_note, _clusters_note(real)) if note] + warnings
    return Result([row | origin | files | {"notes": row["notes"] + notes} for row in rows], warnings=warnings)


def _clusters_note(real: ImageFolder) -> str | None:
    """Caveat of a floor between sides of several images per patient: it is that of fewer independent images."""
    n, n_groups = len(real), len(set(real.groups))
    if n < CLUSTERED * n_groups:
        return None
    return f"{n} real images of {n_groups} patients: as they are alike, the floor, and KID, lie above those of one each"


def compare_distributions(
    x: np.ndarray,
    y: np.ndarray,
    groups_x: Sequence[str],
    groups_y: Sequence[str],
    preset: Preset,
    interval_draws: int = INTERVAL_DRAWS,
    seed: int = 0,
) -> Rows:
    """Rows of the preset's metrics between real features x and synthetic ones y, both float64 (images, dimension)."""
    generator = np.random.default_rng(seed)
    groups = min(len(group_rows(groups_x)), len(group_rows(groups_y)))
    drawn: dict[str, np.ndarray] = {}
    if interval_draws and groups >= FEWEST_GROUPS:
        halves = [half_samples(side, interval_draws, generator) for side in (groups_x, groups_y)]
        drawn = values_of_halves(x, y, preset, *halves)
    floor = _floor(x, y, groups_x, preset, seed)
    n_groups = {"n_real_groups": len(set(groups_x)), "n_synthetic_groups": len(set(groups_y))}
    n, dimension = min(len(x), len(y)), x.shape[1]
    rows = []
    for name, measured in measure(x, y, preset, seed).items():
        error = float(drawn[name].std(ddof=1)) if name in drawn else float("nan")
        interval = Interval(*_interval(name, measured.value, error, groups), drawn.get(name), "half")
        notes = [measured.problem, floor.note(n)]
        if interval_draws and groups < FEWEST_GROUPS:
            notes.append(f"no interval: only {groups} patients or prompts on a side")
        elif interval_draws and name not in drawn and measured.problem is None:
            notes.append("no interval: halves of these images are too few")
        if name in NAMES and max(len(x), len(y)) > 1.25 * n:
            notes.append("more images on one side move it by themselves: compare only the value at the floor's N")
        if name in OF_COVARIANCES and n < 2 * dimension:
            notes.append(f"N = {n} is below 2 × {dimension} dimensions: mostly bias, compare with the floor only")
        taken = min(interval_draws, HALVES_OF_LIMIT) if name == "fd_infinity" else interval_draws
        row = score_row(name, measured.value, interval, floor=floor.of_real.get(name, float("nan")))
        row |= {"n_real": len(x), "n_synthetic": len(y), "extractor": preset.extractor, "preset": preset.name}
        row |= {
            "notes": [note for note in notes if note],
            "dimension": dimension,
            "below_2d": n < 2 * dimension,
            "floor_n": floor.n,
            "floor_splits": floor.splits,
            "floor_low": floor.lowest.get(name, float("nan")),
            "floor_high": floor.highest.get(name, float("nan")),
            "value_at_floor_n": floor.of_synthetic.get(name, float("nan")),
            "sd": measured.sd,
            "resamples": taken if name in drawn else 0,
            "seed": seed,
        }
        rows.append(row | n_groups | parameters(preset, name, n))
    return rows


def label_rows(
    label: str,
    x: np.ndarray,
    y: np.ndarray,
    groups: tuple[Sequence[str], Sequence[str]],
    having: Sequence[np.ndarray],
    preset: Preset,
    interval_draws: int,
    seed: int,
) -> Rows:
    """KID and CMMD of the images that have a label, equally many of both sides, drawn at random.

    No Fréchet distance: on a few hundred images it is mostly bias, so that rare findings would look worse than common
    ones. CMMD is biased as well, by at most 19.9 / N: between labels only KID compares. Features x and y, and their
    groups, are of all real and all synthetic images; `having` has the row numbers of those with the label.
    """
    preset = replace(preset, metrics=("kid", "cmmd"))
    n = min(map(len, having))
    if n < FEWEST_OF_LABEL:
        note = f"{len(having[0])} real and {len(having[1])} synthetic images: fewer than {FEWEST_OF_LABEL} on a side"
        counts: Row = {"n_real": len(having[0]), "n_synthetic": len(having[1])}
        names: Row = {"label": label, "extractor": preset.extractor, "preset": preset.name, "note": note}
        return [score_row(name, float("nan"), **counts, **names) for name in preset.metrics]
    generator = np.random.default_rng(seed)
    a, b = (np.sort(generator.choice(rows, n, replace=False)) for rows in having)
    groups_a, groups_b = [groups[0][i] for i in a], [groups[1][i] for i in b]
    rows = compare_distributions(x[a], y[b], groups_a, groups_b, preset, interval_draws, seed)
    return [row | {"label": label} for row in rows]


def common_labels(real: ImageFolder, synthetic: ImageFolder) -> list[str]:
    """CheXpert labels, by name, that are known of some image on both sides.

    Raises:
        UserError: there is none.
    """
    labels = [
        name
        for name in LABELS
        if all(name in side.rows and side.rows[name].notna().any() for side in (real, synthetic))
    ]
    if not labels:
        raise UserError(f"--per_label: {real.folder} and {synthetic.folder} have no label in common in metadata.csv")
    return labels


def parameters(preset: Preset, name: str, n: int) -> dict[str, Any]:
    """The columns of a metric's parameters; n is the number of images of the smaller side."""
    subsets = name == "kid_subsets"
    return {
        "k": preset.k if name in NAMES else None,
        "subset_size": preset.subset_size(n) if subsets else None,
        "subsets": preset.kid_subsets if subsets else None,
    }


@dataclass(frozen=True)
class Floor:
    """The metrics between two halves of the real images, and those of one half and as many synthetic images."""

    n: int | None
    """Images on each side; None where there are no two halves."""
    splits: int
    """Random splits into halves over which the values are means."""
    of_real: dict[str, float]
    of_synthetic: dict[str, float]
    lowest: dict[str, float]
    """Of `of_real` over the splits; empty where there is one split."""
    highest: dict[str, float]

    def note(self, n: int) -> str | None:
        """Caveat of the floor beside a value between sides of n images or more."""
        if self.n is None:
            return "no floor: it needs real images of two patients or more on either half"
        if self.n < n:
            return f"floor at {self.n} + {self.n} images: the halves of the real ones are smaller than {n}"
        return None


_MEASURED: dict[tuple[Preset, int, bytes], dict[str, float]] = {}
"""Halves of real images that this process has measured: the same for all models that are compared with them."""


def _measure_halves(first: np.ndarray, second: np.ndarray, preset: Preset, seed: int) -> dict[str, float]:
    """Values between two halves of the real images, each computed once."""
    key = preset, seed, hashlib.sha256(first.tobytes() + second.tobytes()).digest()
    if key not in _MEASURED:
        _MEASURED[key] = {name: one.value for name, one in measure(first, second, preset, seed).items()}
    return _MEASURED[key]


def _floor(x: np.ndarray, y: np.ndarray, groups: Sequence[str], preset: Preset, seed: int) -> Floor:
    generator = np.random.default_rng(seed)  # of its own: the splits do not depend on the synthetic images
    splits = min(max(5000 // len(x), 1), 10)  # with few images each split is noisy, and fast
    halves = [disjoint_halves(groups, generator) for _ in range(splits)]
    n = min(len(y), *(len(half) for split in halves for half in split))
    if n < 2:
        return Floor(None, 0, {}, {}, {}, {})
    of_real = [_measure_halves(x[first[:n]], x[second[:n]], preset, seed) for first, second in halves]
    of_synthetic = []
    for first, _ in halves:
        other = y[generator.choice(len(y), n, replace=False)]
        of_synthetic.append({name: one.value for name, one in measure(x[first[:n]], other, preset, seed).items()})

    def over_splits(measured: list[dict[str, float]], statistic: Callable[[list[float]], Any]) -> dict[str, float]:
        return {name: float(statistic([split[name] for split in measured])) for name in preset.metrics}

    spread = [over_splits(of_real, statistic) if splits > 1 else {} for statistic in (np.min, np.max)]
    return Floor(n, splits, over_splits(of_real, np.mean), over_splits(of_synthetic, np.mean), *spread)


def _interval(name: str, value: float, error: float, groups: int) -> tuple[float, float]:
    """95 % of a normal distribution; of a share Wilson's interval (1927), whose ends stay within 0 and 1.

    The interval of a share of 0 or 1 is that of as many images as there are groups, not of its standard error.
    """
    if name in ("precision", "recall", "coverage") and np.isfinite(error):
        edge = value in (0, 1)
        share = (value * groups + 2) / (groups + 4) if edge else value
        n = share * (1 - share) / error**2 if error else groups  # independent images that would have this error
        return wilson(value, float(min(n, groups) if edge else n))
    lowest = float("-inf") if name in ("fd_infinity", "kid", "kid_subsets") else 0.0
    return max(value - NORMAL_95 * error, lowest), value + NORMAL_95 * error


def _origin(features: Features, preset: Preset) -> dict[str, Any]:
    """Columns about the origin of features: full name of the extractor, its preprocessing, its weights."""
    about = features.provenance
    checksums = " ".join(f"{name}:{checksum}" for name, checksum in about.get("sha256", {}).items())
    return {
        "extractor": about.get("extractor", preset.extractor),
        "resize": about.get("resize"),
        "sha256": checksums or None,
    }


def count_copies(x: np.ndarray, y: np.ndarray) -> int:
    """How many rows of y are rows of x, up to rounding: an image in another batch differs in the sixth digit."""
    spread = float(np.sqrt(((x - x.mean(axis=0)) ** 2).sum(axis=1).mean()))
    distances, _ = nearest(y, x, [np.arange(len(x))])
    return int((distances[:, 0] <= SAME * spread).sum())


def table(rows: Rows) -> str:
    """The rows as text, and their notes."""
    lines = [f"{'':40} {'value':>10} {'95 % interval':>23} {'floor':>10} {'at its N':>10} {'N':>13}"]
    for row in rows:
        low, high = _number(row["ci_low"]), _number(row["ci_high"])
        value, floor, beside = (_number(row.get(key)) for key in ("value", "floor", "value_at_floor_n"))
        interval, counts = f"{low} – {high}" if low else "", f"{row['n_real']} + {row['n_synthetic']}"
        lines.append(f"{_name(row):40} {value:>10} {interval:>23} {floor:>10} {beside:>10} {counts:>13}")
    return "\n".join(lines + note_lines(rows, _name))


def _name(row: Row) -> str:
    return f"{row['metric']} {row['label'] or ''}".strip()


def _number(value: float | None) -> str:
    return "" if value is None or not np.isfinite(value) else f"{value:.5g}"


if __name__ == "__main__":
    run(main)
