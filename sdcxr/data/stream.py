"""Stateless sampler: training examples as pure functions of (seed, position), the number of images seen before.

Every random draw of a sample (which image, timestep, noise, posterior noise, caption dropout) comes from a
counter-based generator keyed by the seed and the sample's position in the run. So the examples do not depend on the
number of processes, on the batch size, or on where a run was resumed.
"""

import os
import signal
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from sdcxr.runtime.shared_memory import data_loader, n_bytes

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
    """What a task trains on."""

    ids: list[str]
    """Of the images, in order."""

    def example(self, index: int, draws: np.random.Generator) -> dict[str, Any]:
        """The example of one image with these random draws."""

    def content(self) -> dict[str, np.ndarray]:
        """Captions or labels as arrays: a run that was begun on others is not continued."""


class Stream(Dataset[dict[str, Any]]):
    """The infinite sequence of training examples, addressed by position."""

    def __init__(self, examples: Examples, seed: int):
        self.examples, self.seed = examples, seed

    def index(self, position: int) -> int:
        """Index of the image at a position."""
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
    batches: DataLoader[dict[str, Any]] = data_loader(
        stream,
        workers=workers,
        prefetch=4,
        batch_bytes=lambda: positions.batch * n_bytes(stream[positions.start]),
        batch_sampler=positions,
        pin_memory=pin_memory,
        worker_init_fn=defer_sigterm,
    )
    return batches


def defer_sigterm(_worker: int) -> None:
    """Ignore the first SIGTERM in a worker: SLURM signals workers too, and the current step must finish."""

    def end(*_: object) -> None:
        os._exit(0)

    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, end))


def tensors(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a batch that go to the device: all but the positions, which are for messages."""
    return {name: value for name, value in batch.items() if isinstance(value, torch.Tensor) and name != "position"}
