"""Training examples as pure functions of (seed, position), position being the number of images seen before.

Every random draw of a sample (which image, timestep, noise, posterior noise, caption dropout) comes from a
counter-based generator keyed by the seed and the sample's position in the run. So the examples do not depend on the
number of processes, on the batch size, or on where a run was resumed.
"""

import os
import signal
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from sdcxr.io.pixels import read_pixels

ORDER = 1 << 63  # keys of the orderings, apart from those of the positions


def generator(seed: int, position: int) -> np.random.Generator:
    """The random generator that belongs to one sample of a run (Philox, Salmon et al. 2011)."""
    # uint64 by name: of a list, numpy makes floats where a key passes 2^63, and neighbouring keys become one.
    return np.random.Generator(np.random.Philox(key=np.array([seed, position], dtype=np.uint64)))


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order in which the n images are seen in an epoch, shape (n,)."""
    return generator(seed, ORDER + epoch).permutation(n)


class Examples(Protocol):
    """What a task trains on: a length, and an example for (index of the image, its random draws)."""

    ids: list[str]

    def example(self, index: int, draws: np.random.Generator) -> dict[str, Any]: ...


class Stream(Dataset[dict[str, Any]]):
    """The infinite sequence of training examples, addressed by position."""

    def __init__(self, examples: Examples, seed: int):
        self.examples, self.seed = examples, seed

    def index(self, position: int) -> int:
        """Which image stands at a position."""
        epoch, offset = divmod(position, len(self.examples.ids))
        return int(permutation(self.seed, epoch, len(self.examples.ids))[offset])

    def __getitem__(self, position: int) -> dict[str, Any]:
        example = self.examples.example(self.index(position), generator(self.seed, position))
        return example | {"position": position}


class Positions(Sampler[list[int]]):
    """The positions of this process, one list per micro-step: the global batch of a step is one block of positions."""

    def __init__(self, start: int, stop: int, batch: int, rank: int, world: int):
        self.start, self.stop, self.batch, self.rank, self.world = start, stop, batch, rank, world

    def __len__(self) -> int:
        return (self.stop - self.start) // (self.batch * self.world)

    def __iter__(self) -> Iterator[list[int]]:
        for block in range(self.start, self.stop, self.batch * self.world):
            first = block + self.rank * self.batch
            yield list(range(first, first + self.batch))


def loader(stream: Stream, positions: Positions, workers: int, pin_memory: bool) -> DataLoader[dict[str, Any]]:
    """Batches of the stream for this process, in order."""
    return DataLoader(
        stream,
        batch_sampler=positions,
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        worker_init_fn=defer_sigterm,
    )


def defer_sigterm(_worker: int) -> None:
    """Let this worker ignore a first SIGTERM: a scheduler's goes to all processes, and a step is still to be ended."""

    def end(*_: object) -> None:
        os._exit(0)

    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, end))


class Source(Protocol):
    """Where latents come from: ids, the shape (channels, h, w) of a latent, and what a batch needs to have them."""

    ids: list[str]

    @property
    def shape(self) -> tuple[int, int, int]: ...

    def fields(self, index: int) -> dict[str, Any]: ...


class DenoisingExamples:
    """Latents with their captions, for the diffusion task.

    An example holds what its source gives (mean and std, an index, or pixels), noise and posterior_noise (channels,
    h, w) float32, input_ids (tokens,) int64 and timestep int64.

    Args:
        source: cached latents, or pixels.
        input_ids: token ids of the captions, (n, tokens).
        no_caption: those of the empty caption, (tokens,).
        timesteps: how many there are.
        dropout: share of captions replaced by the empty one.
        noise_offset: scale of noise that is constant over a channel (https://www.crosslabs.org/blog/diffusion-with-offset-noise).
        strata: if not 0, the timestep of image i lies in the i-th of this many equal parts, cyclically; for validation.
    """

    def __init__(
        self,
        source: Source,
        input_ids: np.ndarray,
        no_caption: np.ndarray,
        timesteps: int,
        dropout: float,
        noise_offset: float = 0.0,
        strata: int = 0,
    ):
        self.ids = source.ids
        self.source, self.input_ids, self.no_caption = source, input_ids, no_caption
        self.timesteps, self.dropout, self.noise_offset, self.strata = timesteps, dropout, noise_offset, strata

    def example(self, index: int, draws: np.random.Generator) -> dict[str, Any]:
        shape = self.source.shape
        dropped = draws.random() < self.dropout
        first, last = 0, self.timesteps
        if self.strata:
            stratum = index % self.strata
            first, last = (self.timesteps * part // self.strata for part in (stratum, stratum + 1))
        example: dict[str, Any] = {
            "timestep": draws.integers(first, last),
            "noise": torch.from_numpy(draws.standard_normal(shape, dtype=np.float32)),
            "posterior_noise": torch.from_numpy(draws.standard_normal(shape, dtype=np.float32)),
            "input_ids": torch.from_numpy(self.no_caption if dropped else self.input_ids[index]),
        }
        if self.noise_offset:
            offset = draws.standard_normal((shape[0], 1, 1), dtype=np.float32)
            example["noise"] += self.noise_offset * torch.from_numpy(offset)
        if self.strata:
            example["stratum"] = first
        return self.source.fields(index) | example


class Pixels:
    """Images as a source of latents: pixels (1, H, W) float32 in [-1, 1], which the task encodes in every step."""

    def __init__(self, paths: list[Path], ids: list[str], resolution: int, latent_shape: tuple[int, int, int]):
        self.paths, self.ids, self.resolution, self.shape = paths, ids, resolution, latent_shape

    def fields(self, index: int) -> dict[str, Any]:
        return {"pixels": read_pixels(self.paths[index], self.resolution)}


class ImageExamples:
    """Pixels, for the autoencoder: pixels (1, H, W) float32 in [-1, 1] and posterior_noise for the latent."""

    def __init__(self, paths: list[Path], ids: list[str], resolution: int, latent_shape: tuple[int, int, int]):
        self.paths, self.ids, self.resolution, self.latent_shape = paths, ids, resolution, latent_shape

    def example(self, index: int, draws: np.random.Generator) -> dict[str, Any]:
        noise = draws.standard_normal(self.latent_shape, dtype=np.float32)
        return {
            "pixels": read_pixels(self.paths[index], self.resolution),
            "posterior_noise": torch.from_numpy(noise),
        }


class LabelledImages:
    """Pixels (1, H, W) float32 in [-1, 1] with labels (n,) float32, NaN where unknown, for the classifier."""

    def __init__(self, paths: list[Path], ids: list[str], labels: np.ndarray, resolution: int):
        self.paths, self.ids, self.labels, self.resolution = paths, ids, labels.astype(np.float32), resolution

    def example(self, index: int, draws: np.random.Generator) -> dict[str, Any]:
        pixels = augment(read_pixels(self.paths[index], self.resolution), draws)
        return {"pixels": pixels, "labels": torch.from_numpy(self.labels[index])}


class CaptionedImages:
    """Pixels (1, H, W) float32 in [-1, 1] with the caption's input_ids (tokens,) int64 and its number, for CLIP.

    Images with the same caption have the same caption number.
    """

    def __init__(self, paths: list[Path], ids: list[str], input_ids: np.ndarray, captions: np.ndarray, resolution: int):
        self.paths, self.ids, self.input_ids, self.captions = paths, ids, input_ids, captions
        self.resolution = resolution

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
