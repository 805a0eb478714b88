"""The image files of both sides: formats, pixel sizes, colour, and samples that are copies of held-out images.

    python -m eval.images --real DATASET/test --synthetic SAMPLES --output scores.json

Differences of format, size or colour move a distance by themselves, and a sample that is a copy of a held-out image
makes every score too good. `channel_difference` is the mean distance between the largest and the smallest channel in
grey levels: colour that a radiograph does not have, and that all other measures average away. `held_out_copy_share` is
the share of synthetic images that are more similar to a real one than those of different patients are to each other.
"""

from functools import lru_cache

import numpy as np

from eval.command import Comparison
from eval.extractors import find_extractor
from eval.extractors.cache import Features, extract
from eval.inputs.folders import ImageFolder, patients_of
from eval.inputs.survey import differences
from eval.memorization.copies import GRID, Whitening, best_matches, copy_threshold, whitening
from eval.memorization.thresholds import CALIBRATION, FEWEST, leak_warning
from eval.metrics.bootstrap import group_interval, mean
from eval.scores import Result, Row, Rows, note_lines, score_row, value_text
from sdcxr.runtime.cli import run

VERSION = 1  # of the rows: raise it when a value changes for the same images
EXTRACTOR = f"pixels-{GRID}"
LEAST = 0.7  # correlation of a copy: with noise of 12 grey levels it is above, another image's mostly below 0.5
COLOURED = 2.0  # grey levels between channels from which colour is a warning


def main(config: Comparison) -> int:
    return config.run(lambda real, synthetic: evaluate(real, synthetic, seed=config.seed), table)


def evaluate(real: ImageFolder, synthetic: ImageFolder, *, seed: int = 0) -> Result:
    """Rows of the colour of both sides, with their `formats` and `sizes`, and of copies of held-out images.

    Raises:
        UserError: images are unreadable.
    """
    sides = {"real": real, "synthetic": synthetic}
    features = {side: extract(folder, find_extractor(EXTRACTOR)) for side, folder in sides.items()}
    rows, warnings = [], differences(real.survey, synthetic.survey)
    for side, folder in sides.items():
        about = features[side].provenance
        row = score_row("channel_difference", about["channel_difference"], images=side, n_real=0, n_synthetic=0)
        found = {"n_colour": about["n_colour"], "formats": folder.survey.formats, "sizes": folder.survey.sizes}
        rows.append(row | {f"n_{side}": len(folder), "jpeg_quality": folder.survey.jpeg_quality} | found)
        if about["channel_difference"] > COLOURED:
            warnings.append(
                f"{about['n_colour']} of {len(folder)} {side} images have colour (channels "
                f"{about['channel_difference']:.1f} grey levels apart on average): all scores are of their luminance"
            )
        if folder.patients_note:
            warnings.append(f"{folder.patients_note}, so floors may be too low and intervals too narrow")
    copies = held_out_copies(real, synthetic, _greys(features["synthetic"]), seed)
    if copies["n_copies"]:
        warnings.append(leak_warning(copies["n_copies"], len(synthetic)))
    return Result([*rows, copies], warnings=warnings)


@lru_cache(maxsize=1)
def _known_images(real: ImageFolder, seed: int) -> tuple[np.ndarray, Whitening, np.ndarray]:
    """Grey values of the real images, what they share, and correlations of some with those of other patients."""
    greys = _greys(extract(real, find_extractor(EXTRACTOR)))
    common, patients = whitening(greys), patients_of(real)
    chosen = np.random.default_rng(seed).permutation(len(real))[:CALIBRATION]
    others = best_matches(greys[chosen], greys, common, patients[chosen], patients).correlation
    return greys, common, others[others > -1]


def held_out_copies(real: ImageFolder, synthetic: ImageFolder, greys: np.ndarray, seed: int = 0) -> Row:
    """The row of synthetic images that are copies of real ones; `greys` are theirs, uint8 of shape (n, GRID, GRID).

    The threshold is that of the search for training images, fitted to real images of different patients, but at least
    `LEAST`: the tail of a few dozen images is uncertain, and thresholds of 0.3 to 0.9 come from draws of 24 patterns.
    """
    real_greys, common, others = _known_images(real, seed)
    about: Row = {"images": "synthetic", "n_real": len(real), "n_synthetic": len(synthetic), "preset": f"ncc {GRID} px"}
    if len(others) < FEWEST:
        note = f"{len(others)} real images with others to compare: a threshold needs {FEWEST}"
        return score_row("held_out_copy_share", float("nan"), note=note, **about) | {"n_copies": 0}
    threshold = max(copy_threshold(others, len(synthetic)), LEAST)
    copied = (best_matches(greys, real_greys, common).correlation >= threshold).astype(float)
    interval = group_interval(copied, synthetic.groups, mean, seed=seed) if copied.any() else (None, None)
    row = score_row("held_out_copy_share", mean(copied), interval, **about)
    return row | {"n_copies": int(copied.sum()), "threshold": threshold, "n_calibration": len(others)}


def _greys(features: Features) -> np.ndarray:
    """The grey values of `pixels-64` as uint8 images."""
    return (features.values * 255).round().astype(np.uint8).reshape(-1, GRID, GRID)


def table(rows: Rows) -> str:
    """The rows as text."""
    lines = []
    for row in rows:
        files = ", ".join(f"{n} {name}" for name, n in (row.get("formats") or {}).items())
        sizes = ", ".join(f"{n} of {name} px" for name, n in (row.get("sizes") or {}).items())
        lines.append(f"{row['metric']:22}{row['images']:12}{value_text(row):24}{files}  {sizes}".rstrip())
    return "\n".join(lines + note_lines(rows))


if __name__ == "__main__":
    run(main)
