"""The segmenter task: one or several structures, which may overlap (a finding in a lung), of images or volumes."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from sdcxr.backbones import classifier_base, volume_networks
from sdcxr.backbones.image_classifier import Description
from sdcxr.backbones.pipeline_files import hash_weights
from sdcxr.backbones.segmenter import MULTIPLE, Segmenter, segmenter_folder, unet, with_encoder, write_segmenter
from sdcxr.config import TrainConfig
from sdcxr.data.examples import SegmentationImages
from sdcxr.data.latents import hash_images
from sdcxr.data.stream import Examples
from sdcxr.data.volumes import SegmentationVolumes
from sdcxr.io.manifest import read_masks
from sdcxr.io.volumes import is_volume, require_packages, voxel_sizes
from sdcxr.runtime.errors import UserError
from sdcxr.tasks.base import check_resolution, training_rows
from sdcxr.tasks.network import NetworkTask, check_saved, has_colour
from sdcxr.tuning.adapter_folder import save_adapter
from sdcxr.tuning.classifiers import tune_network, with_rank

SMOOTHING = 1.0  # pixels; the soft Dice of an empty mask is 1 where nothing is predicted


class SegmenterTask(NetworkTask):
    """Binary cross-entropy plus soft Dice loss of each structure whose mask is known."""

    part = "segmenter"

    def __init__(self, config: TrainConfig):
        super().__init__()
        self.config = config
        rows = training_rows(config)
        self.structures, self.masks, known = known_masks(rows, config.structure_names)
        self.rows = rows[known].reset_index(drop=True)
        self.volumes = is_volume(self.rows["path"].iloc[0])
        if self.volumes:
            require_packages()
        self.network, self.about = self._begin()
        self.resolution = self.about.resolution
        if not self.volumes:
            check_resolution(self.resolution, MULTIPLE)
        self.tuning = with_rank(config)
        self.method = tune_network(self.network.train(), self.tuning, self.part)

    def _begin(self) -> tuple[nn.Module, Description]:
        """The network, and how it takes its images."""
        config, paths = self.config, self.rows["path"].tolist()
        if not self.volumes and not volume_networks.NETWORKS.keys().isdisjoint({config.base, config.architecture}):
            raise UserError(f"--base {config.base}: is for volumes (.nii, .nii.gz), and {config.data} has none")
        colour = not self.volumes and has_colour(paths)
        wanted = Description(
            "", self.structures, config.resolution or 0, colour=colour, channels=3 if colour else 1, mean=(0.5,),
            std=(0.5,),
        )  # fmt: skip
        self.base_sha256: dict[str, str] = {}
        self.notes: dict[str, Any] = {}
        if config.base is None or config.random_weights:
            if config.method != "full" and not config.random_weights:
                raise UserError(f"--method {config.method}: needs trained weights: name them with --base")
            if self.volumes:
                return volume_networks.untrained(config.base, self._of_volumes(wanted))
            # Without a classifier's last layer, but with its check of the name and its sizes.
            about = classifier_base.untrained(config.base, wanted)[1]
            return unet(about), about
        folder = segmenter_folder(Path(config.base).expanduser())
        if folder.name == "segmenter" and folder.is_dir():
            begun = Segmenter(folder, torch.device("cpu"))
            if begun.structures != self.structures:
                own, other = ", ".join(begun.structures), ", ".join(self.structures)
                raise UserError(f"--base {config.base} draws {own}; the masks of this data are {other}")
            if begun.about.of_volumes != self.volumes:
                raise UserError(f"--base {config.base} and {config.data}: one is of volumes, the other of images")
            self.base_sha256 = {"segmenter": hash_weights(begun.network)}
            size = classifier_base.resolution_of(begun, config)
            about = dataclasses.replace(begun.about, resolution=size, colour=colour and begun.about.channels == 3)
            if self.volumes:
                volume_networks.check_side(about)
            return begun.network, about
        if self.volumes:
            wanted = self._of_volumes(wanted)
            network, about, sha256 = volume_networks.pretrained(config.base, config.architecture, wanted)
            self.base_sha256 = {"encoder": sha256}
            return network, about
        if (classifier := classifier_base.of_run(config.base)) is not None:
            network, about, sha256 = classifier.network, classifier.about, hash_weights(classifier.network)
            size = classifier_base.resolution_of(classifier, config)
            about = dataclasses.replace(about, labels=self.structures, resolution=size)
        else:
            network, about, sha256 = classifier_base.pretrained(config.base, config.architecture, wanted)
        self.base_sha256 = {"encoder": sha256}
        about = dataclasses.replace(about, colour=colour and about.channels == 3)
        return with_encoder(about, network), about

    def _of_volumes(self, wanted: Description) -> Description:
        """The same with the size of voxels, the median of the training volumes' (Isensee et al. 2021, nnU-Net)."""
        sizes = np.median([voxel_sizes(path) for path in self.rows["path"]], axis=0)
        return dataclasses.replace(wanted, library="monai", spacing_mm=tuple(round(float(size), 4) for size in sizes))

    def examples(self) -> Examples:
        digest = hash_images([mask for masks in self.masks for mask in masks if mask is not None])
        return self._images(self.rows, self.masks, augmented=True, digest=digest)

    def validation_examples(self) -> Examples | None:
        rows = self.validation_rows()
        if rows is None:
            return None
        _, masks, known = known_masks(rows, self.structures)
        return self._images(rows[known], masks, augmented=False)

    def _images(
        self, rows: pd.DataFrame, masks: list[list[Path | None]], augmented: bool, digest: str = ""
    ) -> Examples:
        about = (rows["path"].tolist(), rows["id"].tolist(), masks, self.resolution, augmented, digest)
        if self.volumes:
            return SegmentationVolumes(*about, spacing_mm=self.about.spacing_mm)
        return SegmentationImages(*about, channels=3 if self.about.colour else 1)

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits (batch, structures, H, W), of volumes (batch, structures, X, Y, Z), float32."""
        logits: Tensor = self.network(self.about.inputs(batch["pixels"])).float()
        return logits

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return segmentation_loss(self.logits(batch), batch["masks"])

    def observe(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Loss (batch,) and Dice (batch, structures) of held-out images."""
        logits = self.logits(batch)
        return segmentation_loss(logits, batch["masks"]), dice(logits > 0, batch["masks"])

    def scores(self, examples: Examples, of_images: np.ndarray) -> dict[str, float]:
        """Mean Dice of each structure over the images that have it, and the mean of these, for validation.jsonl."""
        means = {
            f"dice/{structure}": round(float(values[np.isfinite(values)].mean()), 6)
            for structure, values in zip(self.structures, of_images.T, strict=True)
            if np.isfinite(values).any()
        }
        return {"dice": round(float(np.mean(list(means.values()))), 6)} | means if means else {}

    def save(self, run: Path) -> None:
        save_adapter(
            run / "adapter", {"segmenter": self.method}, {"segmenter": self.network}, self.tuning, self.base_sha256
        )
        write_segmenter(run / "segmenter", self.method.merge(self.network), self.about)
        saved = Segmenter(run / "segmenter", torch.device("cpu")).network
        check_saved(run / "segmenter", saved, self.network, self.about, self.method.name)


def known_masks(
    rows: pd.DataFrame, wanted: list[str] | None = None
) -> tuple[list[str], list[list[Path | None]], np.ndarray]:
    """Structures, masks of each image that has one of them (None where it lacks one), and which images these are."""
    table: Any = read_masks(rows, rows["path"].map(lambda path: path.parent), wanted)
    known = table.notna().any(axis=1).to_numpy()
    masks = [[None if pd.isna(mask) else mask for mask in row] for row in table[known].itertuples(index=False)]
    if not masks:
        raise UserError(f"{rows['path'].iloc[0].parent}: no image has a mask of {', '.join(table)}")
    return list(table), masks, known


def segmentation_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy plus 1 - soft Dice (Milletari et al. 2016, arXiv 1606.04797), mean over known masks, (batch,).

    Args:
        logits: (batch, structures, H, W), or (batch, structures, X, Y, Z).
        masks: of the same shape: 1, 0, or NaN all over where a mask is unknown.
    """
    logits, masks = logits.flatten(2), masks.flatten(2)
    known = masks.isfinite().all(dim=2)
    truth = masks.nan_to_num(0.0)
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=2)
    probable = logits.sigmoid()
    both, sums = (probable * truth).sum(dim=2), (probable + truth).sum(dim=2)
    losses = entropy + 1 - (2 * both + SMOOTHING) / (sums + SMOOTHING)
    return (losses * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)


def dice(predicted: Tensor, masks: Tensor) -> Tensor:
    """Dice of each image or volume and structure (batch, structures); NaN where the mask is empty or unknown."""
    predicted, truth = predicted.flatten(2), masks.flatten(2).nan_to_num(0.0) > 0
    both, sums = (predicted & truth).sum(dim=2), predicted.sum(dim=2) + truth.sum(dim=2)
    return torch.where(truth.any(dim=2), 2 * both / sums.clamp(min=1), torch.nan)
