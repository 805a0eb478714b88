"""Masks of images for segmentation: found by the image's name, one file per structure or several that are united.

In the dataset folder they are masks/NAME.png or masks/STRUCTURE/NAME.png in the folder of each split, 255 inside; the
columns `mask` and `mask_STRUCTURE` of metadata.csv hold their paths.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from data_prep.images import MASKS, mask_path
from data_prep.raw_tables import image_files, image_stem
from data_prep.splits import SPLIT_NAMES
from sdcxr.io.manifest import MASK_COLUMN
from sdcxr.runtime.errors import UserError

COLUMN = "masks"  # of a cohort: structure → paths of the image's mask files; "" where structures have no name
# benign (1)_mask.png and benign (1)_mask_1.png of BUSI, ISIC_0027419_segmentation.png of HAM10000.
_END = re.compile(r"[_-](?:mask|segmentation|seg)(?:[_-]?\d+)?$", re.IGNORECASE)
_UNSAFE = re.compile(r"[^A-Za-z0-9-]+")


def without_mask_end(stem: str) -> str:
    """The image's name of a mask called NAME_mask, NAME_mask_1 or NAME_segmentation; other names as they are."""
    return _END.sub("", stem)


def find_masks(folder: Path, rows: pd.DataFrame) -> pd.Series:
    """The masks of each image, for `COLUMN`; prints how many images have one.

    A mask is called as its image, with or without _mask, _mask_1 or _segmentation behind the name. It lies beside the
    image, or in `folder`, or at any depth below it, where the last folder's name is the structure (splits are none).

    Args:
        folder: where the masks are.
        rows: has `dicom_id` and `source`, the path of the image.

    Raises:
        UserError: no image has a mask.
    """
    places = {str(Path(source).with_name(image_stem(source))): row for row, source in rows["source"].items()}
    names: dict[str, list[object]] = defaultdict(list)
    for row, source, dicom_id in zip(rows.index, rows["source"], rows["dicom_id"], strict=True):
        for name in {image_stem(source), dicom_id}:
            names[name].append(row)
    images, found = set(rows["source"]), defaultdict[object, dict[str, list[str]]](dict)
    first = ""
    for path in map(Path.absolute, image_files(folder, "--masks")):
        if str(path) in images:
            continue
        first = first or path.name
        stem = image_stem(path.name)
        name = without_mask_end(stem)
        beside = places.get(str(path.with_name(name))) if name != stem else None
        of_name = names.get(stem) or names.get(name, [])
        if beside is not None:
            found[beside].setdefault("", []).append(str(path))
        elif len(of_name) == 1:
            found[of_name[0]].setdefault(_structure(path, folder.absolute()), []).append(str(path))
    if not found:
        there = f"there is {first}" if first else "it has no images"
        raise UserError(
            f"--masks {folder}: no image has a mask (looked for NAME.png and NAME_mask.png of each image NAME; {there})"
        )
    counts = pd.Series([structure or "mask" for masks in found.values() for structure in masks]).value_counts()
    told = ", ".join(f"{structure} {n:,}" for structure, n in counts.sort_index().items())
    print(f"masks: {len(found):,} of {len(rows):,} images have one ({told})")
    if len(counts) > 1 and counts.sum() == len(found):
        structures = ", ".join(map(str, counts.index))
        print(
            f"warning: the folders {structures} are taken for structures, and no image has masks "
            "in two of them: if they are classes or parts of the data, put their masks into one folder",
            file=sys.stderr,
        )
    return pd.Series([found.get(row, {}) for row in rows.index], index=rows.index, dtype=object)


def _structure(path: Path, folder: Path) -> str:
    """The structure of a mask: the last folder below `folder` that is none of a split, "" without one."""
    names = [part for part in path.parent.relative_to(folder).parts if part.lower() not in SPLIT_NAMES]
    return _UNSAFE.sub("-", names[-1]).strip("-") if names else ""


def mask_columns(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns of metadata.csv: path of each mask relative to the split's folder, "" where an image has none."""
    structures = sorted({structure for masks in rows.get(COLUMN, []) for structure in masks})
    columns = {
        f"{MASK_COLUMN}_{structure}" if structure else MASK_COLUMN: [
            mask_path(f"{name}.png", structure) if structure in masks else ""
            for name, masks in zip(rows["dicom_id"], rows[COLUMN], strict=True)
        ]
        for structure in structures
    }
    return pd.DataFrame(columns, index=rows.index)


def mask_folders(split: Path) -> list[Path]:
    """The folders of the masks of a split that exist: masks, and one per structure in it."""
    folder = split / MASKS
    return [folder, *sorted(path for path in folder.iterdir() if path.is_dir())] if folder.is_dir() else []


def delete_masks(split: Path, wanted: Iterable[str]) -> None:
    """Delete the masks of a split but those at the `wanted` paths, relative to it, and folders that are then empty."""
    kept = set(wanted)
    for folder in reversed(mask_folders(split)):
        for path in folder.iterdir():
            if path.suffix in (".png", ".tmp") and path.relative_to(split).as_posix() not in kept:
                path.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()
