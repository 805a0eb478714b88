"""Folders and features without images, and the rows of fidelity on them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from eval import fid
from eval.extractors.cache import Features
from eval.inputs.folders import ImageFolder
from eval.metrics.presets import Preset

PLAIN = Preset("stub", k=3)


def folder_of(synthetic: bool = False, **columns: Sequence[object]) -> ImageFolder:
    """A folder without files, of the rows of these columns."""
    n = len(next(iter(columns.values())))
    return ImageFolder(
        Path("nowhere"), pd.DataFrame({"file_name": [f"{i}.png" for i in range(n)]} | columns), synthetic
    )


def side(n: int, per_group: int = 2, **columns: object) -> ImageFolder:
    return folder_of(**{"subject_id": [f"p{i // per_group}" for i in range(n)]} | columns)


def features(values: np.ndarray, **about: object) -> Features:
    return Features(values, [f"{i}.png" for i in range(len(values))], about)


def normal(n: int, d: int = 4, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) + shift


def evaluate(*sides: object, **options: object) -> list[dict]:
    return fid.evaluate(*sides, **options).rows


def scores(real: np.ndarray, synthetic: np.ndarray, preset: Preset = PLAIN, **options: object) -> dict[str, dict]:
    rows = evaluate(side(len(real)), side(len(synthetic)), features(real), features(synthetic), preset, **options)
    return {row["metric"]: row for row in rows}
