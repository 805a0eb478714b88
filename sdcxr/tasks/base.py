"""The protocol of a task, and the rows of a dataset split."""

import math
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from torch import Tensor

from sdcxr.config import TrainConfig
from sdcxr.data.stream import Examples, generator
from sdcxr.io.files import existing_folder, inside
from sdcxr.io.manifest import image_ids, read_metadata, split_folder
from sdcxr.runtime.errors import UserError
from sdcxr.tasks.mixture import mixed

PATIENTS = (1 << 63) - 2  # key of the order of patients, apart from positions and orderings
VALIDATION_IMAGES = 64


class Task(Protocol):
    """An nn.Module with these members.

    One may also have `after_step(step)`: called after optimizer step `step` (from 1), while the gradients are there.
    And `check_gradients(idle)`: called before the first one with the names of what trains and does not reach the loss.
    One that makes pictures has `n_previews`, the number of its preview images, and `preview(indices)`, which returns
    these of the present weights, uint8 (H, W) each.
    """

    resolution: int
    """Side of the training images in pixels."""
    base_sha256: dict[str, str]
    """Hashes of the weights that it was built on, by part, before anything was added or trained; none if random."""

    notes: dict[str, Any]
    """What run.json records of the examples, once they are made."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss of each sample, shape (batch,)."""

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the tuned parts: `name`, `params`, `lr`."""

    def examples(self) -> Examples:
        """The training examples; called on all processes, which build caches together."""

    def validation_examples(self) -> Examples | None:
        """Held-out examples for the validation loss, or None."""

    def save(self, run: Path) -> None:
        """Write the result folder of the run (pipeline/, classifier/ or clip/)."""


def check_resolution(resolution: int, multiple: int) -> None:
    """Raise a `UserError` with the nearest sides if an image of this side (pixels) does not fit a base."""
    below = resolution // multiple * multiple
    if below != resolution:
        near = " or ".join(str(side) for side in (below, below + multiple) if side)
        raise UserError(f"--resolution {resolution}: this base needs a multiple of {multiple}, such as {near}")


def validation_rows(config: TrainConfig, n: int | None) -> pd.DataFrame | None:
    """The first n rows of the validation split (None: `VALIDATION_IMAGES`); None without validation.

    Raises:
        UserError: there is no such split.
    """
    n = VALIDATION_IMAGES if n is None else n
    if not config.validation_steps or not n:
        return None
    assert config.data is not None
    split_folder(config.data, "train")  # a wrong --data is no matter of validation
    try:
        return training_rows(config, "validation").head(n)
    except UserError as error:
        raise UserError(f"{error}; --validation_steps 0 trains without validation") from None


def training_rows(config: TrainConfig, split: str = "train") -> pd.DataFrame:
    """Rows of a split with a `path` and an `id` column; those of training as a run sees them in an epoch.

    These are cut to `--data_fraction` and `--max_train_samples`, then repeated and joined by synthetic ones.
    """
    rows = split_rows(config, split)
    return mixed(rows, config) if split == "train" else rows


def split_rows(config: TrainConfig, split: str = "train") -> pd.DataFrame:
    """Rows of a split of `--data` as `training_rows`, each once, without synthetic ones."""
    assert config.data is not None
    folder = split_folder(config.data, split)
    rows = read_metadata(folder)
    if config.data_fraction > 1:
        raise UserError(f"--data_fraction {config.data_fraction}: is a share of the images, 1 at most")
    if split == "train" and config.data_fraction < 1:
        rows = fraction_of(rows, config.data_fraction, config.seed)
    if split == "train" and config.max_train_samples is not None:
        if config.max_train_samples > len(rows):
            raise UserError(f"--max_train_samples {config.max_train_samples}: {folder} has only {len(rows)} images")
        rows = first_of(rows, config.max_train_samples, config.seed)
    if not len(rows):
        raise UserError(f"{folder} has no images: its metadata.csv is empty")
    return _with_paths(rows, folder)


def fraction_of(rows: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    """A share of the rows, by whole patients, in their order; that of a smaller share is a part of it.

    The first patients of `patient_ranks` are taken until their images reach the share, at least one patient.
    """
    ranks = patient_ranks(rows, seed)
    last = np.sort(ranks)[max(0, math.ceil(share * len(rows) - 1e-9) - 1)]
    return rows[ranks <= last].reset_index(drop=True)


def first_of(rows: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    """The images of the first patients of `patient_ranks`, n of them, in their order; n - 1 are a part of them.

    All patients but the last one are whole.
    """
    chosen = np.argsort(patient_ranks(rows, seed), kind="stable")[:n]
    return rows.iloc[np.sort(chosen)].reset_index(drop=True)


def patient_ranks(rows: pd.DataFrame, seed: int) -> np.ndarray:
    """The place of each row's patient, shape (n,), in an order that depends on the seed and the patients' ids alone.

    An image without a `subject_id` is a patient of its own.
    """
    own = image_ids(rows)
    subjects = rows["subject_id"].astype(str) if "subject_id" in rows else own
    patients = subjects.where(~subjects.isin(["", "nan"]), "image " + own)
    distinct, codes = np.unique(patients.to_numpy(str), return_inverse=True)
    order = generator(seed, PATIENTS).permutation(len(distinct))
    return np.argsort(order)[codes]


def class_rows(config: TrainConfig) -> pd.DataFrame | None:
    """The rows of `--class_data_dir` as those of a split; None without prior preservation.

    Raises:
        UserError: it is no image folder, or has fewer images than asked for.
    """
    if config.class_data_dir is None:
        return None
    folder = existing_folder(config.class_data_dir, "--class_data_dir")
    rows = read_metadata(folder)
    n = config.num_class_images or max(1, len(rows))
    if n > len(rows):
        raise UserError(
            f"--num_class_images {n}: {folder} has {len(rows)}: the same generate.py command with a larger "
            "--num_images_per_prompt adds more"
        )
    return _with_paths(rows.head(n), folder)


def _with_paths(rows: pd.DataFrame, folder: Path) -> pd.DataFrame:
    paths = rows["file_name"].map(lambda name: inside(folder, name))
    return rows.assign(path=paths, id=image_ids(rows))
