"""Folders of real and synthetic images: read and check both sides, patients, prompts, pairs of the same prompt."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sdcxr.io.files import checksum, existing_folder, inside, read_json, state_of
from sdcxr.io.manifest import image_ids, read_metadata, text_key
from sdcxr.runtime.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
PHANTOM = (
    "These are phantoms, drawn by a program, on one side or both: no number here is a statement about radiographs "
    "of patients."
)


@dataclass(frozen=True)
class ImageFolder:
    """The images of one side, in the order of their table. Read once: files are not looked at again after a change."""

    folder: Path
    rows: pd.DataFrame
    """metadata.csv, at least `file_name`; a plain folder of images has no other column."""

    @property
    def paths(self) -> list[Path]:
        """The image files."""
        return [self.folder / name for name in self.rows["file_name"]]

    @property
    def ids(self) -> list[str]:
        """A unique name for each image: its file name, without the folder."""
        return self.rows["file_name"].tolist()

    @property
    def prompt_ids(self) -> list[str] | None:
        """Which row of the prompts an image belongs to: `id` of samples, dicom_id (or file stem) of a dataset."""
        if "id" in self.rows:
            return self.rows["id"].tolist()
        return image_ids(self.rows).tolist() if "text" in self.rows else None

    @property
    def groups(self) -> list[str]:
        """What is resampled together: the images of a patient; where unknown, of a prompt; else each by itself."""
        groups = self.rows["file_name"].astype(str)
        for column in ("id", "subject_id"):
            if column in self.rows:
                known = self.rows[column].astype(str)
                groups = known.where(known != "", groups)
        return groups.tolist()

    @cached_property
    def files_hash(self) -> str:
        """Hash of the name, size and times of change of every image; absent files are reported when they are read."""
        named = zip(self.ids, self.paths, strict=True)
        states = [f"{name} {state_of(path) if path.is_file() else None}" for name, path in named]
        return hashlib.sha256("\n".join(states).encode()).hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that scores of this folder depend on: its place, its table, and `files_hash`."""
        table = self.folder / "metadata.csv"
        about = [str(self.folder.resolve()), checksum(table) if table.is_file() else "", self.files_hash]
        return hashlib.sha256("\n".join(about).encode()).hexdigest()

    @property
    def is_samples(self) -> bool:
        """Whether generate.py wrote it."""
        return "seed" in self.rows and "scheduler" in self.rows

    def __len__(self) -> int:
        return len(self.rows)


def read_folder(folder: str | Path, flag: str) -> ImageFolder:
    """Read a split of a dataset folder, a samples folder, or a plain folder of images.

    Args:
        folder: the folder.
        flag: the command-line flag it came from, for messages.

    Raises:
        UserError: it does not exist or holds no images.
    """
    folder = existing_folder(folder, flag)
    if (folder / "metadata.csv").is_file():
        rows = read_metadata(folder)
    else:
        names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        rows = pd.DataFrame({"file_name": names})
    if not len(rows):
        splits = [path.name for path in folder.iterdir() if (path / "metadata.csv").is_file()]
        hint = f"; give one of its splits: {', '.join(sorted(splits))}" if splits else ""
        raise UserError(f"{flag} {folder} holds no images{hint}")
    return ImageFolder(folder, rows)


def read_sides(real: str | Path, synthetic: str | Path) -> tuple[ImageFolder, ImageFolder]:
    """Load both folders for a command; print a notice for phantoms and a warning where both hold the same files.

    Raises:
        UserError: they are swapped, or the same folder.
    """
    sides = read_folder(real, "--real"), read_folder(synthetic, "--synthetic")
    if sides[0].folder.resolve() == sides[1].folder.resolve():
        raise UserError(f"--real and --synthetic are the same folder: {real}")
    if sides[0].is_samples and not sides[1].is_samples:
        raise UserError(f"--real {real} is a samples folder: are --real and --synthetic swapped?")
    if _sizes(sides[0]) == _sizes(sides[1]):
        print(f"warning: {real} and {synthetic} hold the same files: is one a copy of the other?")
    say_phantoms(*(side.folder for side in sides))
    return sides


def _sizes(images: ImageFolder) -> set[tuple[str, int]]:
    """Names and sizes in bytes of the files; missing ones are reported when they are read."""
    return {(name, path.stat().st_size) for name, path in zip(images.ids, images.paths, strict=True) if path.is_file()}


def say_phantoms(*folders: Path) -> None:
    """Print a notice if any folder holds phantoms."""
    if any(map(is_phantom, folders)):
        print(PHANTOM, flush=True)


def is_phantom(folder: Path) -> bool:
    """Whether a dataset folder, or a split of one, holds phantoms: by prep.json, the record of its preparation."""
    folder = folder.expanduser().absolute()  # "." has no parent
    record = next((place / "prep.json" for place in (folder, folder.parent) if (place / "prep.json").is_file()), None)
    if record is None:
        return False
    about = read_json(record)
    raw = about.get("settings", {}).get("images")
    return bool(about.get("phantom")) or (raw is not None and (Path(raw) / "phantom.json").is_file())


def prompts_of(folder: ImageFolder) -> np.ndarray:
    """Integer code of each image's prompt, equal for equal texts (without texts: for equal prompt ids), shape (n,)."""
    if "text" in folder.rows:
        keys = [text_key(text) or name for text, name in zip(folder.rows["text"], folder.ids, strict=True)]
    else:
        keys = folder.prompt_ids or folder.ids
    return np.unique(keys, return_inverse=True)[1]


def patients_of(folder: ImageFolder) -> np.ndarray:
    """Integer code of each image's patient, shape (n,); every synthetic image is a patient of its own."""
    return np.arange(len(folder)) if folder.is_samples else np.unique(folder.groups, return_inverse=True)[1]


def partners(real: ImageFolder, synthetic: ImageFolder) -> np.ndarray:
    """Row number of the real image that each synthetic image's prompt came with, or -1; shape (n_synthetic,).

    Raises:
        UserError: two real images have the id of one prompt.
    """
    prompts, ids = synthetic.prompt_ids or synthetic.ids, image_ids(real.rows)
    twice = ids[ids.duplicated() & ids.isin(prompts)]
    if len(twice):
        raise UserError(f"{real.folder}: two images have the id {twice.iloc[0]}: make ids in metadata.csv unique")
    rows = {name: i for i, name in enumerate(ids)}
    return np.array([rows.get(name, -1) for name in prompts])


def same_prompts(real: ImageFolder, synthetic: ImageFolder) -> list[tuple[Path, Path, str, str]]:
    """(real image, first synthetic image, id, prompt) for every prompt that has both, in the order of their ids."""
    if "id" not in synthetic.rows or "text" not in real.rows:
        return []
    originals = dict(zip(image_ids(real.rows), real.paths, strict=True))
    rows = synthetic.rows.drop_duplicates("id")
    found = [
        (originals[row["id"]], inside(synthetic.folder, row["file_name"]), row["id"], row.get("text") or "")
        for row in rows.to_dict("records")
        if row["id"] in originals
    ]
    return sorted(found, key=lambda pair: pair[2])


def spread_out(items: list[Any], count: int) -> list[Any]:
    """At most `count` items, evenly spaced in the list."""
    step = max(len(items) / count, 1.0)
    return [items[int(i * step)] for i in range(min(count, len(items)))]
