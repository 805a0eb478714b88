"""Folders of real and synthetic images: read and check both sides, patients, prompts, pairs of the same prompt."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eval.inputs.pairing import Pairing, pair_rows, with_prompt_rows
from eval.inputs.survey import Survey, survey
from eval.inputs.tables import missing_files, read_table, why_empty
from sdcxr.io.files import existing_folder, read_json, state_of
from sdcxr.io.manifest import image_ids, text_key
from sdcxr.runtime.errors import UserError

PHANTOM = (
    "These are phantoms, drawn by a program, on one side or both: no number here is a statement about radiographs "
    "of patients."
)


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """The images of one side, in the order of their table. Read once: files are not looked at again after a change.

    Each is equal to itself only, so that what is computed of it can be kept in memory (`functools.lru_cache`).
    """

    folder: Path
    rows: pd.DataFrame
    """The folder's table, at least `file_name`; a plain folder of images has no other column."""
    synthetic: bool = False
    """Whether these are samples: every image is a patient of its own, and `id` is that of its prompt."""
    table: Path | None = None
    """File of the rows; None for a plain folder."""
    remarks: tuple[str, ...] = ()
    """What a user should know of the folder, such as files that do not count; one line each."""

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
        return image_ids(self.rows).tolist() if self.table is not None or "text" in self.rows else None

    @property
    def texts(self) -> pd.Series:
        """The text of each image, empty where it has none."""
        return self.rows["text"] if "text" in self.rows else pd.Series("", self.rows.index)

    @property
    def groups(self) -> list[str]:
        """What is resampled together: the images of a patient; where unknown, of a prompt; else each by itself."""
        groups = self.rows["file_name"].astype(str)
        if self.synthetic:
            keys = self.texts.map(text_key)
            groups = keys.where(keys != "", groups)
        for column in ("id", "subject_id"):
            if column in self.rows:
                known = self.rows[column].astype(str)
                groups = known.where(known != "", groups)
        return groups.tolist()

    @property
    def n_unknown_patients(self) -> int:
        """Real images whose patient is not known (no subject_id); 0 for samples."""
        if self.synthetic:
            return 0
        return int((self.rows["subject_id"] == "").sum()) if "subject_id" in self.rows else len(self)

    @property
    def patients_note(self) -> str | None:
        """Caveat of comparisons between different patients, where those of real images are not known."""
        if not self.n_unknown_patients:
            return None
        unknown = f"{self.n_unknown_patients} of {len(self)} real images"
        return f"the patients of {unknown} are not known (no subject_id): images of one patient count as of two"

    @cached_property
    def files_hash(self) -> str:
        """Hash of the name, size and times of change of every image; absent files are reported when they are read."""
        named = zip(self.ids, self.paths, strict=True)
        states = [f"{name} {state_of(path) if path.is_file() else None}" for name, path in named]
        return hashlib.sha256("\n".join(states).encode()).hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that scores of this folder depend on: its place, its rows, and `files_hash`."""
        rows = self.rows.to_csv(index=False)
        about = [str(self.folder.resolve()), hashlib.sha256(rows.encode()).hexdigest(), self.files_hash]
        return hashlib.sha256("\n".join(about).encode()).hexdigest()

    @cached_property
    def survey(self) -> Survey:
        """Formats and sizes of the files."""
        return survey(self.paths)

    @property
    def is_samples(self) -> bool:
        """Whether generate.py wrote it: only for messages about sides that are swapped."""
        return "seed" in self.rows and "scheduler" in self.rows

    def take(self, rows: np.ndarray) -> "ImageFolder":
        """Some of the images, by row number."""
        return replace(self, rows=self.rows.iloc[rows].reset_index(drop=True))

    def __len__(self) -> int:
        return len(self.rows)


def read_folder(folder: str | Path, flag: str, *, files: bool = True) -> ImageFolder:
    """Read a folder of real images: a split of a dataset folder, or a plain folder.

    Args:
        folder: the folder.
        flag: the command-line flag it came from, for messages.
        files: whether every image that its table names must exist.

    Raises:
        UserError: it does not exist or holds no images, its table is unusable, or images are missing.
    """
    folder = existing_folder(folder, flag)
    rows, table, remarks = read_table(folder)
    if not len(rows):
        raise UserError(why_empty(folder, flag))
    if files and table is not None and (missing := missing_files(folder, rows["file_name"])):
        raise UserError(
            f"{flag} {folder}: {len(missing)} of the {len(rows)} images in {table.name} do not exist (first: "
            f"{missing[0]}): complete the folder, or take their rows out of the table"
        )
    return ImageFolder(folder, rows, table=table, remarks=tuple(remarks))


def read_samples(folder: str | Path, flag: str = "--synthetic", *, files: bool = True) -> ImageFolder:
    """Read a folder of synthetic images, by whatever tool; arguments and errors as of `read_folder`."""
    images = read_folder(folder, flag, files=files)
    rows = images.rows if "id" in images.rows else images.rows.rename(columns={"dicom_id": "id"})
    return replace(images, rows=rows, synthetic=True)


def read_sides(real: str | Path, synthetic: str | Path, *, files: bool = True) -> tuple[ImageFolder, ImageFolder]:
    """Load both folders for a command; print what a user should know of them, and a notice for phantoms.

    Samples without ids get those that their file names begin with, and texts and labels of their prompts' rows.

    Raises:
        UserError: see `read_folder`; they are swapped, or the same folder.
    """
    one, (other,) = read_models(real, [synthetic], files=files)
    return one, other


def read_models(
    real: str | Path, synthetic: Sequence[str | Path], *, files: bool = True
) -> tuple[ImageFolder, list[ImageFolder]]:
    """The same with the samples of several models."""
    one = read_folder(real, "--real", files=files)
    others = []
    for other in (read_samples(folder, files=files) for folder in synthetic):
        if one.folder.resolve() == other.folder.resolve():
            raise UserError(f"--real and --synthetic are the same folder: {real}")
        if one.is_samples and not other.is_samples:
            raise UserError(f"--real {real} is a samples folder: are --real and --synthetic swapped?")
        if _sizes(one) == _sizes(other):
            print(f"warning: {real} and {other.folder} hold the same files: is one a copy of the other?")
        rows, remarks = with_prompt_rows(one.rows, other.rows)
        others.append(replace(other, rows=rows, remarks=(*other.remarks, *remarks)))
    for flag, side in (("--real", one), *(("--synthetic", other) for other in others)):
        for remark in side.remarks:
            print(f"{flag} {side.folder}: {remark}", flush=True)
    say_phantoms(*(side.folder for side in (one, *others)))
    return one, others


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
    names = zip(folder.texts, folder.prompt_ids or folder.ids, folder.ids, strict=True)
    keys = [text_key(text) or prompt or file for text, prompt, file in names]
    return np.unique(keys, return_inverse=True)[1]


def patients_of(folder: ImageFolder) -> np.ndarray:
    """Integer code of each image's patient, shape (n,); every synthetic image is a patient of its own."""
    return np.arange(len(folder)) if folder.synthetic else np.unique(folder.groups, return_inverse=True)[1]


def pair_prompts(real: ImageFolder, synthetic: ImageFolder) -> Pairing:
    """The real image that each synthetic image's prompt came with.

    Raises:
        UserError: two real images have the id of one prompt.
    """
    return pair_rows(real.rows, synthetic.rows, str(real.folder))


def same_prompts(real: ImageFolder, synthetic: ImageFolder) -> list[tuple[Path, Path, str, str]]:
    """(real image, its first synthetic image, id, prompt) for every pair (`pair_prompts`), in the order of ids."""
    partner = pair_prompts(real, synthetic).rows
    first = {row: i for i, row in reversed(list(enumerate(partner.tolist()))) if row >= 0}
    ids, texts, real_paths, paths = image_ids(real.rows), synthetic.texts, real.paths, synthetic.paths
    found = [(real_paths[row], paths[i], ids[row], texts.iloc[i]) for row, i in first.items()]
    return sorted(found, key=lambda pair: pair[2])


def spread_out(items: list[Any], count: int) -> list[Any]:
    """At most `count` items, evenly spaced in the list."""
    step = max(len(items) / count, 1.0)
    return [items[int(i * step)] for i in range(min(count, len(items)))]
