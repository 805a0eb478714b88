"""Training examples of diffusion: latents, captions with caption dropout, timesteps and noise (with noise offset)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sdcxr.io.pixels import read_pixels
from sdcxr.noise.base import NoiseProcess
from sdcxr.text.prompt_writer import PromptWriter

Tokenize = Callable[[list[str]], tuple[dict[str, np.ndarray], int]]


class Source(Protocol):
    """Where latents come from: cached moments, or pixels that the task encodes in every step."""

    ids: list[str]
    shape: tuple[int, int, int]
    """(channels, h, w) of a posterior sample."""

    def fields(self, index: int) -> dict[str, Any]:
        """What a batch carries of an image."""


class Captions(Protocol):
    """Where the conditioning comes from: token ids that the task encodes, or cached outputs of a frozen encoder."""

    def fields(self, index: int | None, draws: np.random.Generator) -> dict[str, Tensor]:
        """What a batch carries of the caption of image `index`, or of the empty caption."""

    def content(self) -> dict[str, np.ndarray]:
        """Arrays that tell these captions from others."""


class TokenIds:
    """Captions as arrays of the backbone's `tokenize`, each (n, tokens)."""

    def __init__(self, tokens: dict[str, np.ndarray], empty: dict[str, np.ndarray]):
        self.tokens, self.empty = tokens, empty

    def fields(self, index: int | None, draws: np.random.Generator) -> dict[str, Tensor]:
        rows = ((name, self.empty[name][0] if index is None else ids[index]) for name, ids in self.tokens.items())
        return {name: torch.from_numpy(row) for name, row in rows}

    def content(self) -> dict[str, np.ndarray]:
        return self.tokens | {f"no_caption_{name}": row[0] for name, row in self.empty.items()}


class Together:
    """Token ids of encoders that train beside cached outputs of those that never do."""

    def __init__(self, live: Captions, cached: Captions):
        self.live, self.cached = live, cached

    def fields(self, index: int | None, draws: np.random.Generator) -> dict[str, Tensor]:
        return self.live.fields(index, draws) | self.cached.fields(index, draws)

    def content(self) -> dict[str, np.ndarray]:
        return self.live.content()


class WrittenCaptions:
    """Captions that templates write anew whenever an image is seen, as token ids.

    Args:
        writer: of the images' rows.
        tokenize: of the backbone.
        empty: its `tokenize_null`.
        texts: all that the captions are made of, see `content`.
    """

    def __init__(self, writer: PromptWriter, tokenize: Tokenize, empty: dict[str, np.ndarray], texts: list[str]):
        self.writer, self.tokenize, self.empty, self.texts = writer, tokenize, empty, texts

    def fields(self, index: int | None, draws: np.random.Generator) -> dict[str, Tensor]:
        arrays = self.empty
        if index is not None:
            arrays = self.tokenize([self.writer.prompt(index, str(draws.integers(1 << 63)))])[0]
        return {name: torch.from_numpy(ids[0]) for name, ids in arrays.items()}

    def content(self) -> dict[str, np.ndarray]:
        return {"texts": np.frombuffer("\0".join(self.texts).encode(), dtype=np.uint8)}


class DenoisingExamples:
    """Latents with their captions, for the diffusion task.

    An example holds what its source gives (mean and std, an index, or pixels), what its captions give, noise and
    posterior_noise (channels, h, w) float32, and timestep.

    Args:
        source: cached latents, or pixels.
        captions: token ids, or cached conditioning.
        process: draws the timesteps.
        caption_dropout: share of captions replaced by the empty one.
        noise_shape: (channels, h, w) of the denoiser's input.
        noise_offset: scale of noise that is constant over a channel (https://www.crosslabs.org/blog/diffusion-with-offset-noise).
        strata: if not 0, the timestep of image i lies in the i-th of this many equal parts, cyclically; for validation.
    """

    def __init__(
        self,
        source: Source,
        captions: Captions,
        process: NoiseProcess,
        caption_dropout: float,
        noise_shape: tuple[int, int, int],
        noise_offset: float = 0.0,
        strata: int = 0,
    ):
        self.ids = source.ids
        self.source, self.captions, self.process, self.noise_shape = source, captions, process, noise_shape
        self.caption_dropout, self.noise_offset, self.strata = caption_dropout, noise_offset, strata

    def content(self) -> dict[str, np.ndarray]:
        return self.captions.content()

    def example(self, index: int, draws: np.random.Generator) -> dict[str, Any]:
        dropped = draws.random() < self.caption_dropout
        part, parts = (index % self.strata, self.strata) if self.strata else (0, 1)
        example: dict[str, Any] = {
            "timestep": self.process.draw_time(draws, part, parts),
            "noise": torch.from_numpy(draws.standard_normal(self.noise_shape, dtype=np.float32)),
            "posterior_noise": torch.from_numpy(draws.standard_normal(self.source.shape, dtype=np.float32)),
        }
        if self.noise_offset:
            offset = draws.standard_normal((self.noise_shape[0], 1, 1), dtype=np.float32)
            example["noise"] += self.noise_offset * torch.from_numpy(offset)
        if self.strata:
            example["stratum"] = self.process.stratum_start(part, parts)
        # Last: noise and timestep of a sample are the same whatever its caption draws.
        caption = self.captions.fields(None if dropped else index, draws)
        return self.source.fields(index) | caption | example


PRIOR = "prior."  # of a batch's fields


class WithPrior:
    """Examples of which each comes with one of another set, drawn by its own key, in the fields "prior.*".

    Args:
        examples: what is learnt.
        prior: what the model is held to (prior preservation, Ruiz et al. 2022, arXiv 2208.12242).
        digest: hash of the images of the prior.
    """

    def __init__(self, examples: DenoisingExamples, prior: DenoisingExamples, digest: str):
        self.ids, self.source = examples.ids, examples.source
        self.examples, self.prior, self.digest = examples, prior, digest

    def content(self) -> dict[str, np.ndarray]:
        of_prior = {PRIOR + name: value for name, value in self.prior.content().items()}
        return self.examples.content() | of_prior | {PRIOR: np.frombuffer(self.digest.encode(), dtype=np.uint8)}

    def example(self, index: int, draws: np.random.Generator) -> dict[str, Any]:
        own = self.examples.example(index, draws)
        other = self.prior.example(int(draws.integers(len(self.prior.ids))), draws)
        return own | {PRIOR + name: value for name, value in other.items()}


def prior_of(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch of the prior that a batch carries; empty without one."""
    return {name.removeprefix(PRIOR): value for name, value in batch.items() if name.startswith(PRIOR)}


class Pixels:
    """Images as a source of latents: pixels (1, H, W) float32 in [-1, 1]."""

    def __init__(self, paths: list[Path], ids: list[str], resolution: int, shape: tuple[int, int, int]):
        self.paths, self.ids, self.resolution, self.shape = paths, ids, resolution, shape

    def fields(self, index: int) -> dict[str, Any]:
        return {"pixels": read_pixels(self.paths[index], self.resolution)}
