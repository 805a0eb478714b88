"""Real and synthetic images in one training: how many of either, which ones, and whose they may be.

What is drawn here does not depend on the seed of the run: runs of several seeds see the same images.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from sdcxr.config import TrainConfig
from sdcxr.data.stream import generator
from sdcxr.io.files import existing_folder, inside
from sdcxr.io.manifest import read_metadata, split_folder
from sdcxr.io.patients import check_prompts, check_splits, prompt_ids
from sdcxr.runtime.errors import UserError

DRAW = (1 << 63) - 3  # key of both draws, apart from positions and orderings
HELD_OUT = ("validation", "test")


def mixed(rows: pd.DataFrame, config: TrainConfig) -> pd.DataFrame:
    """The real training images `--real_repeat` times, then `--synthetic_ratio` synthetic ones for each of them.

    Args:
        rows: of the real images, each once, with `path` and `id`.
        config: the settings.

    Returns:
        The rows of an epoch; with `--synthetic` also a column `synthetic`.

    Raises:
        UserError: there are too few synthetic images.
    """
    repeated = rows.iloc[np.sort(_order(rows["id"], round(config.real_repeat * len(rows))))]
    if config.synthetic is None:
        return repeated.reset_index(drop=True)
    samples = sample_rows(config)
    n = round(config.synthetic_ratio * len(rows))
    if not 0 < n <= len(samples):
        raise UserError(
            f"--synthetic_ratio {config.synthetic_ratio:g}: asks for {n} synthetic images ({len(rows)} real ones) and "
            f"{config.synthetic} has {len(samples)}: generate more, or change it"
        )
    # The first n of one order: a larger ratio has those of a smaller one.
    chosen = samples.iloc[np.sort(_order(samples["file_name"], n))]
    parts = [part for part in (repeated.assign(synthetic=False), chosen.assign(synthetic=True)) if len(part)]
    columns = dict.fromkeys([*rows.columns, *chosen.columns, "synthetic"])
    return pd.concat(parts, ignore_index=True).reindex(columns=list(columns))


def _order(names: pd.Series, n: int) -> np.ndarray:
    """Indices of n rows, each as often as the others or once more, in an order that depends on the names alone."""
    by_name = np.argsort(names.to_numpy(str), kind="stable")
    return np.resize(by_name[generator(0, DRAW).permutation(len(names))], n)


def sample_rows(config: TrainConfig) -> pd.DataFrame:
    """Rows of the samples folder with `path` and `id`, that of the prompt.

    Raises:
        UserError: it is no samples folder, or lies in the dataset folder.
    """
    folder = existing_folder(str(config.synthetic), "--synthetic")
    if folder.resolve().is_relative_to(Path(str(config.data)).resolve()):
        raise UserError(f"--synthetic {config.synthetic}: lies in --data {config.data}")
    rows = read_metadata(folder)
    paths = rows["file_name"].map(lambda name: inside(folder, name))
    return rows.assign(path=paths, id=prompt_ids(rows))


def check_mixture(config: TrainConfig) -> str:
    """Refuse synthetic images of patients who judge the classifier, and patients of two splits; a warning, or "".

    Raises:
        UserError: see `sdcxr.io.patients`.
    """
    if config.synthetic is None:
        return ""
    there = [name for name in HELD_OUT if (Path(str(config.data)) / name / "metadata.csv").is_file()]
    train, *others = (read_metadata(split_folder(str(config.data), name)) for name in ("train", *there))
    held_out = dict(zip(there, others, strict=True))
    check_splits({"train": train, **held_out})
    samples = sample_rows(config)
    unknown = check_prompts(samples, train, held_out)
    about = f"warning: {unknown} of {len(samples)} prompts are not of --data: whose they are cannot be checked"
    return about if unknown else ""
