"""An invented collection in ChestX-ray14's layout, and the command on it."""

from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.nih14 import (
    Nih14Config,
)

SECOND_EDITION = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n"
)
PERSON = "[{demographics}. ]{findings}."
FIRST_EDITION = SECOND_EDITION.rstrip("\n") + ",\n"


def write_collection(folder: Path, patients: int = 40, images_each: int = 2) -> Path:
    """A table of the second edition, and its images in the folders of NIH's archives."""
    lines = []
    for patient in range(1, patients + 1):
        for follow_up in range(images_each):
            name = f"{patient:08d}_{follow_up:03d}.png"
            finding = "No Finding" if patient % 2 else "Effusion|Pneumonia"
            view = "PA" if follow_up == 0 else "AP"
            lines.append(f"{name},{finding},{follow_up},{patient},{20 + patient},M,{view},2500,2048,0.1,0.1\n")
            path = folder / "images" / f"images_{patient % 3 + 1:03d}" / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(patient).integers(0, 256, (24, 24), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    (folder / "labels.csv").write_text(SECOND_EDITION + "".join(lines))
    return folder


def config_for(folder: Path, **changes: object) -> Nih14Config:
    settings: dict = {"images": folder / "images", "labels": folder / "labels.csv", "output_dir": folder / "out"}
    return Nih14Config(**(settings | {"resolution": 16, "workers": 1} | changes))
