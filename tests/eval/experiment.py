"""A dataset folder and a samples folder for the tests of the augmentation experiment: bright or dark squares."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from sdcxr.io.manifest import write_metadata

SIZES = {"train": 16, "validation": 8, "test": 8}


def make_dataset(folder: Path) -> Path:
    """Edema brightens the upper half, atelectasis the lower one; one finding is never present."""
    for k, (split, n) in enumerate(SIZES.items()):
        rows = [
            {
                "file_name": f"{split}{i}.png",
                "text": "A report.",
                "subject_id": str(1000 * k + i),
                "dicom_id": f"{split[:2]}-{i}",
                "Atelectasis": float(i // 2 % 2),
                "Edema": float(i % 2),
                "Fracture": 0.0,
            }
            for i in range(n)
        ]
        write_metadata(folder / split, pd.DataFrame(rows))
        for i, row in enumerate(rows):
            _draw(folder / split / f"{split}{i}.png", row["Edema"], row["Atelectasis"], i)
    return folder


def make_samples(dataset: Path, folder: Path, prompts: str = "train", swapped: bool = False) -> Path:
    """A picture for each row of a split; swapped, every picture shows the contrary of its labels."""
    rows = pd.read_csv(dataset / prompts / "metadata.csv", dtype={"subject_id": str})
    rows = rows.rename(columns={"dicom_id": "id"}).drop(columns="subject_id")
    rows["file_name"] = rows["id"] + "_0.png"
    write_metadata(folder, rows.assign(seed=1, scheduler="pndm"))
    for i, row in enumerate(rows.to_dict("records")):
        _draw(folder / row["file_name"], row["Edema"] != swapped, row["Atelectasis"] != swapped, 100 + i)
    return folder


def _draw(path: Path, upper: float, lower: float, seed: int) -> None:
    grey = np.random.default_rng(seed).integers(0, 60, (32, 32))
    grey[:16] += 150 * int(upper)
    grey[16:] += 150 * int(lower)
    Image.fromarray(grey.astype(np.uint8)).save(path)


def edit(folder: Path, column: str, row: int, value: str) -> None:
    """Change one cell of a folder's table."""
    table = pd.read_csv(folder / "metadata.csv", dtype=str, keep_default_na=False)
    table.loc[row, column] = value
    table.to_csv(folder / "metadata.csv", index=False)
