"""Training examples of images: for the autoencoder, with labels (classifier), with captions (CLIP); augmentation."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdcxr.io.pixels import read_pixels


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
    reach = pixels.shape[-1]
    shift = draws.integers(-reach // 32, reach // 32 + 1, size=2)
    pixels = torch.roll(pixels, shifts=tuple(int(s) for s in shift), dims=(1, 2))
    pixels = pixels * draws.uniform(0.8, 1.2) + draws.uniform(-0.2, 0.2)
    return pixels.clamp(-1, 1).float()
