"""Training examples of images: for the autoencoder, with labels, masks or captions (CLIP); augmentation."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdcxr.io.pixels import read_mask, read_pixels


class ImageExamples:
    """Pixels, for the autoencoder: pixels (1, H, W) float32 in [-1, 1] and posterior_noise for the latent."""

    def __init__(self, paths: list[Path], ids: list[str], resolution: int, latent_shape: tuple[int, int, int]):
        self.paths, self.ids, self.resolution, self.latent_shape = paths, ids, resolution, latent_shape

    def content(self) -> dict[str, np.ndarray]:
        return {}

    def example(self, index: int, draws: np.random.Generator) -> dict[str, Any]:
        noise = draws.standard_normal(self.latent_shape, dtype=np.float32)
        return {
            "pixels": read_pixels(self.paths[index], self.resolution),
            "posterior_noise": torch.from_numpy(noise),
        }


class LabelledImages:
    """Pixels (channels, H, W) float32 in [-1, 1] with labels (n,) float32, NaN where unknown, for the classifier.

    Args:
        paths: of the images.
        ids: of the images.
        labels: shape (images, n).
        resolution: side in pixels.
        channels: 1 (grey) or 3.
        augmented: whether `augment` changes the images, as in training.
    """

    def __init__(
        self,
        paths: list[Path],
        ids: list[str],
        labels: np.ndarray,
        resolution: int,
        channels: int = 1,
        augmented: bool = True,
    ):
        self.paths, self.ids, self.labels, self.resolution = paths, ids, labels.astype(np.float32), resolution
        self.channels, self.augmented = channels, augmented

    def content(self) -> dict[str, np.ndarray]:
        return {"labels": self.labels}

    def example(self, index: int, draws: np.random.Generator) -> dict[str, Any]:
        pixels = read_pixels(self.paths[index], self.resolution, self.channels)
        pixels = augment(pixels, draws) if self.augmented else pixels
        return {"pixels": pixels, "labels": torch.from_numpy(self.labels[index])}


class WithMasks:
    """What images and volumes with masks share.

    Args:
        paths: of the images or volumes.
        ids: of them.
        masks: path of the mask of each structure of each one, or None.
        resolution: side in pixels or voxels.
        augmented: whether examples are drawn and changed, as in training.
        digest: hash of the mask files, of examples that are to be told from others.
    """

    def __init__(
        self,
        paths: list[Path],
        ids: list[str],
        masks: list[list[Path | None]],
        resolution: int,
        augmented: bool = True,
        digest: str = "",
    ):
        self.paths, self.ids, self.masks, self.resolution = paths, ids, masks, resolution
        self.augmented, self.digest = augmented, digest

    def content(self) -> dict[str, np.ndarray]:
        there = np.array([[mask is not None for mask in masks] for masks in self.masks])
        return {"masks": there, "mask files": np.frombuffer(self.digest.encode(), dtype=np.uint8)}


class SegmentationImages(WithMasks):
    """Pixels (channels, H, W) float32 in [-1, 1] with masks (structures, H, W) of 1 and 0, NaN where one is unknown.

    Augmented, images and masks are shifted, and images exposed anew. `channels`: 1 (grey) or 3.
    """

    def __init__(self, *about: Any, channels: int = 1, **more: Any):
        super().__init__(*about, **more)
        self.channels = channels

    def example(self, index: int, draws: np.random.Generator) -> dict[str, Any]:
        pixels = read_pixels(self.paths[index], self.resolution, self.channels)
        masks = torch.full((len(self.masks[index]), self.resolution, self.resolution), torch.nan)
        for structure, path in enumerate(self.masks[index]):
            if path is not None:
                masks[structure] = torch.from_numpy(read_mask(path, self.resolution))
        if self.augmented:
            shift = draw_shift(self.resolution, draws)
            pixels, masks = expose(moved(pixels, shift), draws), moved(masks, shift)
        return {"pixels": pixels, "masks": masks}


class CaptionedImages:
    """Pixels (1, H, W) float32 in [-1, 1] with the caption's input_ids (tokens,) int64 and its number, for CLIP.

    Images with the same caption have the same caption number.
    """

    def __init__(self, paths: list[Path], ids: list[str], input_ids: np.ndarray, captions: np.ndarray, resolution: int):
        self.paths, self.ids, self.input_ids, self.captions = paths, ids, input_ids, captions
        self.resolution = resolution

    def content(self) -> dict[str, np.ndarray]:
        return {"input_ids": self.input_ids, "captions": self.captions}

    def example(self, index: int, draws: np.random.Generator) -> dict[str, Any]:
        return {
            "pixels": augment(read_pixels(self.paths[index], self.resolution), draws),
            "input_ids": torch.from_numpy(self.input_ids[index]),
            "caption": int(self.captions[index]),
        }


def augment(pixels: torch.Tensor, draws: np.random.Generator) -> torch.Tensor:
    """A square image with a small shift and change of exposure; never mirrored, the side is part of the finding."""
    return expose(moved(pixels, draw_shift(pixels.shape[-1], draws)), draws)


def draw_shift(resolution: int, draws: np.random.Generator) -> tuple[int, int]:
    """A shift of up to 1/32 of the side in either direction, in pixels."""
    down, right = draws.integers(-resolution // 32, resolution // 32 + 1, size=2)
    return int(down), int(right)


def moved(planes: torch.Tensor, shift: tuple[int, int]) -> torch.Tensor:
    """Planes (n, H, W) shifted; what leaves on one side comes back on the other."""
    return torch.roll(planes, shifts=shift, dims=(1, 2))


def expose(pixels: torch.Tensor, draws: np.random.Generator) -> torch.Tensor:
    """Pixels in [-1, 1] with another contrast and brightness."""
    return (pixels * draws.uniform(0.8, 1.2) + draws.uniform(-0.2, 0.2)).clamp(-1, 1).float()
