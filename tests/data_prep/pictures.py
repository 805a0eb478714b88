"""Pictures and masks of invented classification sets, and the command `data_prep.table` on them."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from data_prep.table import TableConfig, main
from sdcxr.io.manifest import SPLITS, read_metadata

SIDE = 24


def picture(seed: int, size: tuple[int, int] = (40, 30), colour: bool = True) -> Image.Image:
    """Noise whose red, green and blue differ in brightness."""
    noise = np.random.default_rng(seed).integers(0, 100, size[::-1], dtype=np.uint8)
    return Image.fromarray(np.stack([noise, noise + 70, noise + 140], axis=-1) if colour else noise)


def save(path: Path, image: Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def box_mask(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """White in left, top, right, bottom."""
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


def config_of(table: Path, images: Path, **flags: object) -> TableConfig:
    settings: dict = {
        "output_dir": images.with_name("out"),
        "resolution": SIDE,
        "workers": 1,
        "max_rejected_fraction": 1,
    }
    return TableConfig(table=table, images=images, **(settings | flags))


def prepare(table: Path, images: Path, **flags: object) -> pd.DataFrame:
    """Run the command; all rows that were written, by dicom_id."""
    config = config_of(table, images, **flags)
    assert main(config) == 0
    splits = [config.output_dir / split for split in SPLITS if (config.output_dir / split).is_dir()]
    rows = pd.concat([read_metadata(split).assign(split=split.name, folder=split) for split in splits])
    return rows.set_index("dicom_id").sort_index()


def written(row: pd.Series, column: str = "file_name") -> np.ndarray:
    return np.asarray(Image.open(row["folder"] / row[column]))


def rejected(output_dir: Path) -> dict[str, str]:
    table = pd.read_csv(output_dir / "rejected.csv", dtype=str, keep_default_na=False)
    return dict(zip(table["dicom_id"], table["reason"], strict=True))


def busi(folder: Path) -> Path:
    """Two pictures of each class, with masks; benign (1) has two lesions."""
    root = folder / "Dataset_BUSI_with_GT"
    for kind in ("benign", "malignant", "normal"):
        for number in (1, 2):
            name = f"{kind}/{kind} ({number})"
            grey = picture(len(kind) + number, colour=False)
            save(root / f"{name}.png", grey.convert("RGB"))
            lesion = (12, 6, 20, 14) if kind != "normal" else (0, 0, 0, 0)
            save(root / f"{name}_mask.png", box_mask(grey.size, lesion))
    save(root / "benign/benign (1)_mask_1.png", box_mask((40, 30), (24, 18, 30, 26)))
    return root
