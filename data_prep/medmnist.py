"""MedMNIST's .npz files (Yang et al. 2023, Scientific Data 10:41; any of its sizes) as a table with image files.

Names of files, arrays and classes as in the package `medmnist` (medmnist/info.py). The file says neither patients nor
lesions; its split is the official one.
"""

import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from numpy.lib import format as npy

from data_prep.workers import progress
from sdcxr.io.pixels import write_png
from sdcxr.runtime.errors import UserError
from sdcxr.text.fields import NORMAL, join_words

MEDMNIST = "medmnist"  # the mapping
SPLITS = ("train", "val", "test")
_ORGANS = (
    *("bladder", "left femur", "right femur", "heart", "left kidney", "right kidney"),
    *("liver", "left lung", "right lung", "pancreas", "spleen"),
)
CLASSES: dict[str, tuple[str, ...]] = {
    "path": (
        *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa"),
        *("cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
    ),
    "derma": (
        *("actinic keratosis or intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesion"),
        *("dermatofibroma", "melanoma", "melanocytic nevus", "vascular lesion"),
    ),
    "oct": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "pneumonia": ("normal", "pneumonia"),
    "retina": tuple(f"diabetic retinopathy grade {grade}" for grade in range(5)),
    "breast": ("malignant", "normal or benign"),
    "blood": (
        *("basophil", "eosinophil", "erythroblast", "immature granulocyte", "lymphocyte", "monocyte"),
        *("neutrophil", "platelet"),
    ),
    "tissue": (
        *("collecting duct or connecting tubule", "distal convoluted tubule", "glomerular endothelial cell"),
        *("interstitial endothelial cell", "leukocyte", "podocyte", "proximal tubule segment", "thick ascending limb"),
    ),
    **{f"organ{plane}": _ORGANS for plane in "acs"},
}
FINDINGS = (
    *("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax"),
    *("consolidation", "edema", "emphysema", "fibrosis", "pleural thickening", "hernia"),
)
"""Of ChestMNIST, of which an image may have several."""


def is_npz(path: Path) -> bool:
    """Whether a table is a file of NumPy arrays."""
    return path.suffix.lower() == ".npz"


def read_medmnist(path: Path, unpack_to: Path) -> pd.DataFrame:
    """One row per image: image, split, text, and class, or 1 and 0 in a column per finding (ChestMNIST).

    Args:
        path: such as pathmnist.npz or pathmnist_224.npz.
        unpack_to: folder for the images, NAME/SPLIT_NUMBER.png; those newer than the file are not written again.

    Raises:
        UserError: not a file of this collection, damaged, or of volumes.
    """
    name = _name_of(path)
    tables = [_read_split(path, name, split, unpack_to) for split in SPLITS]
    return pd.concat(tables, ignore_index=True)


def _name_of(path: Path) -> str:
    name = path.stem.lower().split("_")[0].removesuffix("mnist")
    if name.endswith("3d"):
        raise UserError(f"--table {path}: holds volumes, not images: only MedMNIST's 2D files are read")
    if name not in CLASSES and name != "chest":
        known = ", ".join(f"{one}mnist.npz" for one in sorted((*CLASSES, "chest")))
        raise UserError(f"--table {path}: is called as no file of MedMNIST (these are {known}, or …_224.npz)")
    return name


def _read_split(path: Path, name: str, split: str, unpack_to: Path) -> pd.DataFrame:
    classes = CLASSES.get(name, FINDINGS)
    wrong = f"--table {path}: is not a whole file of MedMNIST"
    try:
        with zipfile.ZipFile(path) as archive:
            with archive.open(f"{split}_labels.npy") as file:
                labels = npy.read_array(file, allow_pickle=False)
            columns = 1 if name in CLASSES else len(FINDINGS)
            if labels.shape != (len(labels), columns) or labels.min(initial=0) < 0:
                raise UserError(f"{wrong} ({split}_labels has shape {labels.shape}, not (images, {columns}))")
            if labels.max(initial=0) >= (len(classes) if name in CLASSES else 2):
                raise UserError(f"{wrong} ({split}_labels has {labels.max()}, and {path.stem} {len(classes)} classes)")
            with archive.open(f"{split}_images.npy") as file:
                places = [f"{path.stem}/{split}_{number:06d}.png" for number in range(len(labels))]
                targets = [unpack_to / place for place in places]
                _unpack(file, targets, path.stat().st_mtime_ns, f"{split} of {path.name}", wrong)
    except KeyError as error:
        raise UserError(f"{wrong} ({error})") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{wrong} ({' '.join(str(error).split())[:200]})") from None
    table = pd.DataFrame({"image": places, "split": split}, dtype=str)
    if name in CLASSES:
        return table.assign(**{"class": [classes[label] for label in labels[:, 0]]}).assign(text=lambda t: t["class"])
    found = pd.DataFrame(labels.astype(int).astype(str), columns=list(FINDINGS))
    named = [[word for word, label in zip(FINDINGS, row, strict=True) if label] for row in labels]
    found["no finding"] = ["0" if words else "1" for words in named]
    return table.join(found).assign(text=[join_words(words or [NORMAL]) for words in named])


def _unpack(file: IO[bytes], targets: list[Path], since_ns: int, what: str, wrong: str) -> None:
    """Write the images of an array, but those written since a time, one by one: the largest has 13 GB."""
    shape, dtype = _header(file)
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3) or dtype != np.uint8 or shape[0] != len(targets):
        raise UserError(f"{wrong} (images of shape {shape} and type {dtype} for {len(targets)} labels)")
    for target in targets[:1]:
        target.parent.mkdir(parents=True, exist_ok=True)
    for target, pixels in progress(len(targets), what, "image", zip(targets, _images(file, shape[1:]), strict=True)):
        if not target.is_file() or target.stat().st_mtime_ns < since_ns:
            write_png(target, pixels)


def _images(file: IO[bytes], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    n_bytes = math.prod(shape)
    while data := file.read(n_bytes):
        if len(data) < n_bytes:
            raise EOFError("the last image is cut off")
        yield np.frombuffer(data, np.uint8).reshape(shape)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], Any]:
    version = npy.read_magic(file)
    shape, fortran, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    if fortran:
        raise ValueError("the array is in Fortran's order")
    return shape, dtype


def refuse_enlarging(path: Path, table: pd.DataFrame, images: Path, resolution: int) -> None:
    """Raise a `UserError` if the images are smaller than --resolution: data_prep would blow 28 pixels up to 512."""
    from PIL import Image

    with Image.open(images / table["image"].iloc[0]) as image:
        side = min(image.size)
    if side < resolution:
        raise UserError(
            f"--resolution {resolution}: the images of {path.name} have {side} pixels: give --resolution {side}, or a "
            "larger file of MedMNIST, such as …_224.npz (training enlarges by itself)"
        )
