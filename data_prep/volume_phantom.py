"""Generate a small dataset of synthetic volumes with masks (NIfTI), for `train.py --tune segmenter`; no patients.

    python -m data_prep.volume_phantom --output_dir volumes

Each is a chest of a few ellipsoids in Hounsfield units, with masks of lungs, heart and nodules (in two of three), on
a grid of its own: sizes of voxels and orientations differ, as in collections of scans. The same settings give the same
bytes. Splits are by patient, about 70, 15 and 15 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep.writer import begun
from sdcxr.io.files import write_json
from sdcxr.io.manifest import MASK_COLUMN, write_metadata
from sdcxr.io.volumes import require_packages, write_volume
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError

VERSION = 1  # to be raised whenever the same settings give other bytes
STRUCTURES = ("lungs", "heart", "nodule")
EXTENT_MM = 320.0
HELD_OUT = 0.15  # share of validation, and of test
NOISE_HU = 25.0
LIMITS = (("volumes", 3, 10_000), ("side", 16, 512), ("seed", 0, 2**63 - 1))


@dataclass
class VolumePhantomConfig:
    """Generate volumes with masks."""

    output_dir: Path
    """dataset folder to write"""
    volumes: int = 40
    """number of volumes, each of a patient of its own"""
    side: int = 48
    """voxels along an axis, up to a tenth more or less"""
    seed: int = 0
    """random seed; another one gives other patients"""


def main(config: VolumePhantomConfig) -> None:
    """Write the dataset, unless it is finished already."""
    for flag, least, most in LIMITS:
        value = getattr(config, flag)
        if not least <= value <= most:
            raise UserError(f"--{flag} {value}: expected {least} to {most}")
    require_packages()
    output_dir = Path(config.output_dir).expanduser()
    settings = {"volumes": config.volumes, "side": config.side, "seed": config.seed, "version": VERSION}
    record = {"settings": settings, "phantom": True}
    if begun(output_dir, "prep.json", settings).get("usable"):
        print(f"{output_dir}: finished already ({config.volumes} volumes)")
        return
    output_dir.mkdir(parents=True, exist_ok=True)
    write_json(output_dir / "prep.json", record | {"usable": False})
    held = max(1, round(HELD_OUT * config.volumes))
    parts = {"validation": range(held), "test": range(held, 2 * held), "train": range(2 * held, config.volumes)}
    for split, numbers in parts.items():
        rows = [write_case(output_dir / split, i, config.side, config.seed) for i in numbers]
        write_metadata(output_dir / split, pd.DataFrame(rows))
    write_json(output_dir / "prep.json", record | {"usable": True})
    print(f"{output_dir}: {', '.join(f'{len(numbers)} {split}' for split, numbers in parts.items())}")


def write_case(folder: Path, number: int, side: int, seed: int) -> dict[str, Any]:
    """Draw volume `number` and write it and its masks into a split's folder; its row of metadata.csv."""
    rng = np.random.default_rng([seed, number])
    values, masks, affine = draw_volume(rng, side)
    name = f"volume{number:04d}"
    row: dict[str, Any] = {"file_name": f"{name}.nii.gz", "text": "", "subject_id": f"v{number:04d}", "dicom_id": name}
    for structure, mask in masks.items():
        (folder / "masks" / structure).mkdir(parents=True, exist_ok=True)
        row[f"{MASK_COLUMN}_{structure}"] = f"masks/{structure}/{name}.nii.gz"
        write_volume(folder / row[f"{MASK_COLUMN}_{structure}"], mask.astype(np.uint8), affine)
    write_volume(folder / row["file_name"], values, affine)
    return row


def draw_volume(rng: np.random.Generator, side: int) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """A chest on a grid of its own.

    Args:
        rng: draws anatomy, grid and noise.
        side: voxels along an axis, up to a tenth more or less.

    Returns:
        Hounsfield units, int16 (X, Y, Z); masks by structure, bool; the affine to mm (right, anterior, superior).
    """
    counts = rng.integers(round(0.9 * side), round(1.1 * side) + 1, size=3)
    spacing = EXTENT_MM / counts
    axes_mm = [(np.arange(n) + 0.5) * step - EXTENT_MM / 2 for n, step in zip(counts, spacing, strict=True)]
    x, y, z = np.meshgrid(*axes_mm, indexing="ij")

    def ellipsoid(centre: Sequence[float], axes: Sequence[float]) -> np.ndarray:
        moved, stretched = rng.normal(0, 5, 3) + np.array(centre), rng.uniform(0.9, 1.1, 3) * np.array(axes)
        places = zip((x, y, z), moved, stretched, strict=True)
        inside: np.ndarray = np.sum([((each - at) / axis) ** 2 for each, at, axis in places], axis=0) < 1
        return inside

    body, spine = (x / 150) ** 2 + (y / 105) ** 2 < 1, x**2 + (y + 75) ** 2 < 18**2
    heart = ellipsoid((-25, 25, -40), (50, 45, 55))
    lungs = (ellipsoid((72, 0, 0), (48, 72, 110)) | ellipsoid((-72, 0, 0), (48, 72, 110))) & ~heart
    nodule = np.zeros_like(lungs)
    for _ in range(rng.integers(0, 3)):
        radius = rng.uniform(10, 20)
        place = (rng.choice([-1, 1]) * rng.uniform(60, 85), rng.uniform(-30, 30), rng.uniform(-50, 60))
        nodule |= ellipsoid(place, (radius,) * 3) & lungs
    values = np.full(x.shape, -1000.0)
    for inside, hounsfield in ((body, 40), (lungs, -850), (heart, 180), (spine, 500), (nodule, 30)):
        values[inside] = hounsfield
    values = np.round(values + rng.normal(0, NOISE_HU, x.shape)).astype(np.int16)
    masks = dict(zip(STRUCTURES, (lungs, heart, nodule), strict=True))
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (spacing - EXTENT_MM) / 2
    if rng.random() < 0.5:  # stored towards left and back, as scanners do
        affine[:2, 3] += affine[:2, :2].diagonal() * (counts[:2] - 1)
        affine[:2, :2] *= -1
        values, masks = values[::-1, ::-1], {name: mask[::-1, ::-1] for name, mask in masks.items()}
    return values, masks, affine


if __name__ == "__main__":
    run(main)
