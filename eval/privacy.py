"""Memorisation and privacy: nearest neighbours, copies of training images, and samples that repeat themselves.

    python -m eval.privacy --train DATASET/train --real DATASET/test --synthetic SAMPLES --output scores.json
    python -m eval.privacy … --extractor RUN                    # distances between features instead of grey values
    python -m eval.privacy … --reid DIR                         # also training patients in new images

Synthetic images of a model that has not memorised are as near to held-out images of other patients as to its training
images. Copies are searched among all pairs of synthetic and training images, whatever the prompt, at small shifts; the
threshold comes from real images of different patients, and altered copies of training images measure its sensitivity.
nearest.csv is written beside the scores: the nearest training image of every synthetic one.

Not found: copies that are mirrored, inverted, rotated by 5 degrees or cropped by a tenth, and copies of a part.

Detecting a training patient in a new image needs a re-identification network (--reid); none is bundled. It can be any
extractor of `python -m eval.features --list`, such as a folder of transformers or of train.py. The threshold on cosines
of its features comes from real images of different patients, its sensitivity from those of the same patient. A network
that was not trained for this finds little, and the sensitivity shows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from eval.command import Comparison
from eval.extractors.base import Extractor
from eval.extractors.cache import extract
from eval.inputs.folders import ImageFolder, pair_prompts, patients_of, prompts_of, read_folder
from eval.inputs.images import read_grey, read_greys
from eval.memorization.copies import (
    GRID,
    SAME_FILE,
    Matches,
    Whitening,
    altered,
    best_matches,
    closest_pairs,
    pixel_rms,
    tile_distance,
    whitening,
)
from eval.memorization.reid import REID_DETECTION, reidentify
from eval.memorization.thresholds import (
    COPY_DETECTION,
    detection_rows,
    fit_threshold,
    leak_warning,
    match_other_patients,
)
from eval.metrics.bootstrap import disjoint_halves, group_interval, mean, validate_features
from eval.metrics.nearest import authentic, nearness
from eval.scores import Result, Rows, note_text, score_row, value_text
from sdcxr.io.files import atomic
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError

VERSION = 2  # of the rows: raise it when a value changes for the same images
NEAREST = "nearest.csv"
DEFAULT_EXTRACTOR = "pixels-32"
PLANTED = 100  # altered training images searched


@dataclass
class PrivacyConfig(Comparison):
    """What to compare, and with which features."""

    real: str
    """Split of a dataset folder with other patients."""
    output: str = field()  # required here
    """JSON file of score rows; nearest.csv is written beside it."""
    train: str
    """Split of a dataset folder that the model was trained on."""
    extractor: str = DEFAULT_EXTRACTOR
    """Name of a feature extractor, or a folder with one, for the distances. Copies are always found in grey values."""
    reid: str | None = None
    """Re-identification network: name of an extractor, or a folder with one. Default: none."""


def main(config: PrivacyConfig) -> int:
    def measure(real: ImageFolder, synthetic: ImageFolder) -> Result:
        train, network = read_folder(config.train, "--train"), config.find_extractor(config.extractor)
        reid = config.find_extractor(config.reid, "--reid") if config.reid else None
        nearest = Path(config.output).parent / NEAREST
        return evaluate(train, real, synthetic, network, reid=reid, nearest=nearest, seed=config.seed)

    return config.run(measure, table)


def evaluate(
    train: ImageFolder,
    real: ImageFolder,
    synthetic: ImageFolder,
    extractor: Extractor,
    *,
    reid: Extractor | None = None,
    nearest: Path | None = None,
    seed: int = 0,
) -> Result:
    """Score rows: nearness to training images, AuthPct, copies, distance to the prompt's own image, repeated samples.

    Real images whose patient, or the picture itself, is in `train` are left out, with a note. The CSV `nearest` gets
    every synthetic image with its best match in `train` (file names and correlation only).

    Raises:
        UserError: folders are the same; held-out images are those of `train`; too few real images.
    """
    refuse_same(train, real, synthetic)
    extracted = [extract(folder, extractor) for folder in (train, real, synthetic)]
    features = [side.values for side in extracted]  # noqa: PD011 (no table)
    known = known_images(train, real, seed)
    greys, common, of_real = [*known.greys, read_greys(synthetic.paths, GRID)], known.common, known.of_real
    kept, note = held_out(train, real, of_real)
    about = {"n_train": len(train), "n_real": len(kept), "n_synthetic": len(synthetic), "notes": []}
    about["notes"] = [caveat for caveat in (note, real.patients_note) if caveat]
    groups = synthetic.groups
    rows = distance_rows(
        features[0], features[1][kept], features[2], train.groups, [real.groups[i] for i in kept], groups, seed
    )
    for row in rows:
        row |= {"extractor": extractor.given_name} | about
    matches = best_matches(greys[2], greys[0], common)

    threshold, n_calibration = fit_threshold(of_real.correlation[kept], known.of_others, len(synthetic))
    with_held_out = best_matches(greys[2], greys[1][kept], common).correlation
    n_leaked = int((with_held_out >= threshold).sum())
    rows += detection_rows(
        COPY_DETECTION,
        matches.correlation,
        threshold,
        with_held_out,
        known.of_altered,
        groups,
        about | {"preset": f"ncc {GRID} px", "n_calibration": n_calibration},
    )
    rows += own_image_rows(train, synthetic, greys[0], greys[2], about, seed)
    rows += repetition_rows(synthetic, greys[2], greys[0], patients_of(train), about, seed)
    pairs = matched(train, synthetic, matches, threshold)
    if reid is not None:
        identified, columns = reidentify(train, real, kept, synthetic, reid, about, seed)
        rows += identified
        pairs = pairs.assign(**columns)
    if nearest is not None:
        nearest.parent.mkdir(parents=True, exist_ok=True)
        with atomic(nearest) as temporary:
            pairs.sort_values("correlation", ascending=False, kind="stable").to_csv(temporary, index=False)
    return Result(rows, warnings=[leak_warning(n_leaked, len(synthetic))] if n_leaked else [])


class KnownImages(NamedTuple):
    """What the search for copies needs of training and held-out images."""

    greys: tuple[np.ndarray, np.ndarray]
    """Of training and of held-out images, uint8 of shape (n, GRID, GRID)."""
    common: Whitening
    of_real: Matches
    """Best matches of held-out images."""
    of_others: np.ndarray
    """Correlations of training images with other patients (`thresholds.match_other_patients`)."""
    of_altered: np.ndarray
    """Of altered copies of training images (`planted`)."""


@lru_cache(maxsize=1)
def known_images(train: ImageFolder, real: ImageFolder, seed: int) -> KnownImages:
    """Read and match the images that are the same for all models that are compared."""
    greys = read_greys(train.paths, GRID), read_greys(real.paths, GRID)
    common = whitening(greys[0])

    def match(chosen: np.ndarray, patients: np.ndarray) -> np.ndarray:
        return best_matches(greys[0][chosen], greys[0], common, patients[chosen], patients).correlation

    others = match_other_patients(train, match, seed)
    altered_copies = planted(train, greys[0], common, seed)
    return KnownImages(greys, common, best_matches(greys[1], greys[0], common), others, altered_copies)


def refuse_same(train: ImageFolder, real: ImageFolder, synthetic: ImageFolder) -> None:
    """Refuse folders that cannot be compared.

    Raises:
        UserError: two of them are one folder, or --train holds samples.
    """
    folders = {"--train": train, "--real": real, "--synthetic": synthetic}
    seen: dict[Path, str] = {}
    for flag, folder in folders.items():
        other = seen.setdefault(folder.folder.resolve(), flag)
        if other != flag:
            raise UserError(f"{other} and {flag} are the same folder: {folder.folder}")
    if train.is_samples and not synthetic.is_samples:
        raise UserError(f"--train {train.folder} is a samples folder: are --train and --synthetic swapped?")


def held_out(train: ImageFolder, real: ImageFolder, of_real: Matches) -> tuple[np.ndarray, str | None]:
    """Row numbers of the real images that are not training images, nor of their patients, and what was left out.

    Raises:
        UserError: more than half of them are training images, or fewer than 2 are left.
    """
    same_picture = of_real.correlation > SAME_FILE
    if same_picture.mean() > 0.5:
        raise UserError(
            f"{same_picture.sum()} of the {len(real)} images of --real {real.folder} are in --train {train.folder}: "
            f"give images that the model has not seen"
        )
    known = set(train.rows["subject_id"]) - {""} if "subject_id" in train.rows else set()
    same_patient = real.rows["subject_id"].isin(known).to_numpy() if "subject_id" in real.rows else same_picture & False
    kept = np.flatnonzero(~same_picture & ~same_patient)
    if len(kept) < 2:
        raise UserError(
            f"{len(kept)} images of --real {real.folder} are of patients that --train does not have: give more"
        )
    if len(kept) == len(real):
        return kept, None
    return kept, (
        f"left out {len(real) - len(kept)} of {len(real)} held-out images: "
        f"{same_patient.sum()} of patients in --train, {(same_picture & ~same_patient).sum()} stored there, too"
    )


def distance_rows(
    train: np.ndarray,
    real: np.ndarray,
    synthetic: np.ndarray,
    train_groups: Sequence[str],
    real_groups: Sequence[str],
    synthetic_groups: Sequence[str],
    seed: int = 0,
) -> Rows:
    """Rows of feature distances: nearness to training and to held-out images, and AuthPct.

    The floor of the first two is the value of one half of the held-out patients against the other half; that of AuthPct
    is the value of the held-out images. Features have the shape (images, dimension); groups are patients, of synthetic
    images prompts.

    Raises:
        UserError: features are not finite, their dimensions differ, or a side has fewer than 2 images.
    """
    train, synthetic = validate_features(train, synthetic)
    real, _ = validate_features(real, synthetic)
    found = nearness(synthetic, train, real, train_groups, seed)
    first, second = disjoint_halves(real_groups, np.random.default_rng(seed))
    floor = nearness(real[first], train, real[second], train_groups, seed) if len(first) and len(second) else None
    rows = []
    for metric, values, of_floor, statistic in (
        ("nn_distance_ratio", found.log_ratio, floor.log_ratio if floor else None, _exp_median),
        ("nn_share_nearer_train", found.nearer_train, floor.nearer_train if floor else None, mean),
    ):
        interval = group_interval(values, synthetic_groups, statistic)
        row = score_row(metric, statistic(values), interval, images="synthetic")
        rows.append(row | {"floor": None if of_floor is None else statistic(of_floor), "n_each": found.n_each})
    genuine = 100 * authentic(synthetic, train)
    row = score_row("authpct", mean(genuine), group_interval(genuine, synthetic_groups, mean), images="synthetic")
    return [*rows, row | {"floor": 100 * mean(authentic(real, train))}]


def _exp_median(values: np.ndarray) -> float:
    return float(np.exp(np.median(values)))


def planted(train: ImageFolder, greys: np.ndarray, common: Whitening, seed: int) -> np.ndarray:
    """Correlations at which altered copies of training images are found again (-1 where another image is found)."""
    from PIL import Image

    generator = np.random.default_rng(seed)
    chosen = generator.permutation(len(train))[:PLANTED]
    copies = np.empty((len(chosen), GRID, GRID), np.uint8)
    for place, i in enumerate(chosen):
        grey, _ = read_grey(train.paths[i])
        copies[place] = np.asarray(altered(grey, generator).resize((GRID, GRID), Image.Resampling.BOX))
    found = best_matches(copies, greys, common)
    # A picture that is stored twice counts as found under either name.
    same = (found.index == chosen) | (greys[found.index] == greys[chosen]).all(axis=(1, 2))
    return np.where(same, found.correlation, -1.0)


def own_image_rows(
    train: ImageFolder,
    synthetic: ImageFolder,
    train_greys: np.ndarray,
    greys: np.ndarray,
    about: dict[str, Any],
    seed: int,
) -> Rows:
    """Where prompts are those of training images: the distance of a prompt's nearest sample to its own image.

    The floor is the same with the image of another patient.
    """
    pairing = pair_prompts(train, synthetic)
    if pairing.by != "id":
        return []
    own = pairing.rows
    patients, generator = patients_of(train), np.random.default_rng(seed)
    values, others, names = [], [], []
    for i in np.unique(own[own >= 0]):
        samples = greys[own == i]
        values.append(pixel_rms(samples, train_greys[i]).min())  # over all seeds of the prompt
        strangers = np.flatnonzero(patients != patients[i])
        if len(strangers):
            others.append(pixel_rms(samples, train_greys[generator.choice(strangers)]).min())
        names.append(str(i))
    distances = np.array(values)
    row = score_row("own_image_rms", mean(distances), group_interval(distances, names, mean), images="synthetic")
    row |= about | {"floor": mean(np.array(others)) if others else None, "preset": f"grey levels, {GRID} px"}
    return [row | {"n_prompts": len(values), "minimum": float(min(values))}]


def repetition_rows(
    synthetic: ImageFolder,
    greys: np.ndarray,
    train_greys: np.ndarray,
    patients: np.ndarray,
    about: dict[str, Any],
    seed: int,
) -> Rows:
    """Share of prompts with two samples that are more similar than any two real patients (Carlini et al. 2023).

    Memorised images recur for every seed; with four samples of a prompt this is a hint, with hundreds a test.
    """
    nearest = closest_pairs(greys, prompts_of(synthetic))
    generator = np.random.default_rng(seed)
    drawn = np.sort(generator.integers(len(train_greys), size=(2, 20_000)), axis=0)
    first, second = np.unique(drawn, axis=1)  # of few images the same pairs again and again
    different = patients[first] != patients[second]
    if not len(nearest) or not different.any():
        return []
    limit = float(tile_distance(train_greys[first[different]], train_greys[second[different]]).min())
    repeated = (nearest < limit).astype(float)
    low, high = group_interval(repeated, np.arange(len(nearest)).astype(str), mean)
    if not repeated.any():
        high = min(1.0, 3 / len(nearest))
    row = score_row("repeated_prompt_share", mean(repeated), (low, high), images="synthetic")
    row |= about | {"preset": f"tiles, {GRID} px", "threshold": limit}
    return [row | {"n_prompts": len(nearest), "minimum": float(nearest.min())}]


def matched(train: ImageFolder, synthetic: ImageFolder, matches: Matches, threshold: float) -> pd.DataFrame:
    """The best match of every synthetic image: names of files, correlation, shift, copy."""
    return pd.DataFrame(
        {
            "synthetic": synthetic.ids,
            "train": [train.ids[i] for i in matches.index],
            "correlation": matches.correlation.round(4),
            "shift_down": matches.shift[:, 0],
            "shift_right": matches.shift[:, 1],
            "copy": matches.correlation >= threshold,
        }
    )


def table(rows: Rows) -> str:
    """The rows as text."""
    lines = [f"{'':24}  {'synthetic':>26}  {'without memorisation':>22}"]
    for row in rows:
        floor = "" if row["floor"] is None else f"{row['floor']:.3f}"
        lines.append(f"{row['metric']:24}  {value_text(row):>26}  {floor:>22}")
    copies = next(row for row in rows if row["metric"] == "copy_share")
    lines.append(
        f"{copies['n_copies']} of {copies['n_synthetic']} synthetic images are copies (correlation ≥ "
        f"{copies['threshold']:.3f}, which finds {copies['sensitivity']:.0%} of altered training images)"
    )
    for row in rows:
        if row["metric"] == REID_DETECTION.share_metric:
            lines.append(
                f"{row[REID_DETECTION.count_column]} of {row['n_synthetic']} synthetic images are taken for a training "
                f"patient (cosine ≥ {row['threshold']:.3f} by {row['extractor']})"
            )
    return "\n".join(lines + sorted(set(filter(None, map(note_text, rows)))))


if __name__ == "__main__":
    run(main)
