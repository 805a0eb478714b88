"""Dice and Hausdorff distance of a segmenter on the images of a dataset that has masks.

    python -m eval.segmentation --model RUN --real DATASET/test --output scores.json

The segmenter is a run of `train.py --tune segmenter`. Images whose mask is empty have no Dice: for these there is
`false_positive_share`, the share of them in which something is drawn. Hausdorff distances are the 95th percentile, in
pixels of the network's resolution; a structure that is there and of which nothing is drawn counts as the diagonal.
Intervals resample patients. Volumes (NIfTI) are measured whole, with voxels of the network's size; their distances are
in mm.
"""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from eval.command import check_at_least
from eval.inputs.folders import ImageFolder, read_folder
from eval.metrics.bootstrap import mean, percentiles, resampled
from eval.metrics.segmentation import dice, hausdorff95
from eval.scores import Result, Rows, publish, score_row, value_text
from sdcxr.io.manifest import read_masks
from sdcxr.io.volumes import is_volume, read_with_masks
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.memory import out_of_memory

if TYPE_CHECKING:
    from sdcxr.backbones.segmenter import Segmenter

VERSION = 2  # of the rows: raise it when a value changes for the same images


@dataclass
class SegmentationConfig:
    """What to measure."""

    model: str
    """Run folder of `train.py --tune segmenter`."""
    real: str
    """Split of a dataset folder with masks."""
    _: KW_ONLY
    output: str | None = None
    """JSON file of score rows. Default: the table is printed only."""
    batch_size: int = 16
    """Images at once."""
    device: str | None = None
    """cpu, cuda, … Default: a GPU where there is one."""
    seed: int = 0
    """Seed of the bootstrap."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "batch_size")


def main(config: SegmentationConfig) -> int:
    images = read_folder(config.real, "--real")
    publish(evaluate(images, config), config.output, table)
    return 0


def evaluate(images: ImageFolder, config: SegmentationConfig) -> Result:
    """Score rows of a segmenter, by structure and their mean.

    Raises:
        UserError: the folder has no masks of what the segmenter draws, or images or masks are unreadable.
    """
    import torch

    from sdcxr.backbones.segmenter import Segmenter

    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    segmenter = Segmenter(Path(config.model).expanduser(), device)
    try:
        masks = read_masks(images.rows, images.folder, segmenter.structures)
    except UserError as error:
        raise UserError(f"--real {config.real}: {error}") from None
    volumes = segmenter.about.of_volumes
    if is_volume(images.paths[0]) != volumes:
        wanted = "volumes (.nii, .nii.gz)" if volumes else "images"
        raise UserError(f"--real {config.real}: --model {config.model} is a segmenter of {wanted}, and these are none")
    distance, spacing = ("hausdorff95_mm", segmenter.about.spacing_mm) if volumes else ("hausdorff95", None)
    values = {name: np.full(masks.shape, np.nan) for name in ("dice", distance, "false_positive_share")}
    first = 0
    batches = _volumes(segmenter, images, masks) if volumes else _batches(segmenter, images, masks, config.batch_size)
    for predicted, truth, known in batches:
        rows = slice(first, first := first + len(predicted))
        for structure in range(masks.shape[1]):
            there = known[:, structure]
            if not there.any():
                continue
            pair = predicted[there, structure], truth[there, structure]
            drawn, present = (each.reshape(len(each), -1).any(axis=1) for each in pair)
            measured = {
                "dice": dice(*pair),
                distance: hausdorff95(*pair, spacing),
                "false_positive_share": np.where(present, np.nan, drawn),
            }
            for name, of_images in measured.items():
                values[name][rows, structure][there] = of_images
    return Result(score_structures(values, segmenter.structures, images.groups, segmenter.resolution, config.seed))


def _batches(
    segmenter: "Segmenter", images: ImageFolder, masks: pd.DataFrame, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """What is drawn and the masks, bool (batch, structures, H, W), and which masks are known (batch, structures)."""
    import torch
    from tqdm import tqdm

    from sdcxr.io.pixels import read_mask, read_pixels

    side, channels = segmenter.resolution, 3 if segmenter.about.colour else 1
    for first in tqdm(range(0, len(images), size), desc="segmentation", unit="batch"):
        chunk = masks.iloc[first : first + size]
        pixels = torch.stack([read_pixels(path, side, channels) for path in images.paths[first : first + size]])
        truth = np.zeros((*chunk.shape, side, side), bool)
        for row, paths in enumerate(chunk.itertuples(index=False)):
            for structure, path in enumerate(paths):
                if path is not None:
                    truth[row, structure] = read_mask(path, side)
        with out_of_memory(f"lower --batch_size (now {size})"):
            predicted = segmenter.predict(pixels)
        yield predicted, truth, chunk.notna().to_numpy()


def _volumes(
    segmenter: "Segmenter", images: ImageFolder, masks: pd.DataFrame
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The same of volumes, one at a time, as their sizes differ."""
    from tqdm import tqdm

    for path, of_structures in zip(tqdm(images.paths, desc="segmentation"), masks.to_numpy().tolist(), strict=True):
        volume, truth = read_with_masks(path, of_structures, segmenter.about.spacing_mm)
        known = truth.flatten(1).isfinite().all(dim=1)
        with out_of_memory(f"the volume {path.name} does not fit: use another --device"):
            predicted = segmenter.predict(volume[None])
        yield predicted, (truth > 0)[None].numpy(), known[None].numpy()


def score_structures(
    values: dict[str, np.ndarray], structures: list[str], groups: list[str], resolution: int, seed: int
) -> Rows:
    """Rows of values per image and structure (images, structures), NaN where there is none, and of their mean."""
    rows: Rows = []
    for metric, of_images in values.items():
        statistics = [(lambda counts, column=column: mean(np.repeat(column, counts))) for column in of_images.T]
        drawn = resampled(statistics, groups, seed=seed)
        columns = dict(zip(structures, zip(of_images.T, drawn.T, strict=True), strict=True))
        for structure, (column, draws) in columns.items():
            known = np.isfinite(column)
            if known.any():
                counts: dict[str, Any] = {
                    "n_real": int(known.sum()),
                    "n_real_groups": len(np.unique(np.array(groups)[known])),
                }
                rows.append(
                    score_row(metric, mean(column), percentiles(draws), label=structure, images="real", **counts)
                )
        present = [name for name, (column, _) in columns.items() if np.isfinite(column).any()]
        if len(present) > 1:
            value = float(np.mean([mean(columns[name][0]) for name in present]))
            draws = np.mean([columns[name][1] for name in present], axis=0)
            n_real = int(np.isfinite(of_images).any(axis=1).sum())
            rows.append(score_row(metric, value, percentiles(draws), images="real", n_real=n_real))
    return [row | {"resolution": resolution} for row in rows]


def table(rows: Rows) -> str:
    """The rows as text."""
    width = max((len(row["metric"]) for row in rows), default=0)
    return "\n".join(
        f"{row['metric']:<{width}}  {row['label'] or 'mean':<16} {value_text(row)}  ({row['n_real']} images)"
        for row in rows
    )


if __name__ == "__main__":
    run(main)
