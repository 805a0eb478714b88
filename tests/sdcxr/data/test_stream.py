"""Training examples are functions of (seed, position): no split over processes and no restart changes them."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdcxr.data.denoising import DenoisingExamples, TokenIds
from sdcxr.data.examples import ImageExamples, LabelledImages
from sdcxr.data.stream import (
    ORDER,
    Positions,
    Stream,
    generator,
    loader,
    permutation,
)
from sdcxr.io.pixels import read_pixels
from sdcxr.noise.ddpm import Ddpm
from sdcxr.training import loop, validation

DDPM = Ddpm(torch.linspace(0.99, 0.01, 1000), "epsilon")


class Latents:
    """Moments that tell which image they are of."""

    def __init__(self, n: int):
        self.ids = [str(i) for i in range(n)]

    shape = (2, 3, 3)

    def fields(self, index: int) -> dict[str, Any]:
        return {"mean": torch.full((2, 3, 3), index).half(), "std": torch.ones(2, 3, 3).half()}


def stream(n: int = 11, seed: int = 5, dropout: float = 0.1) -> Stream:
    captions = TokenIds({"input_ids": np.arange(n * 7).reshape(n, 7)}, {"input_ids": np.full((1, 7), -1)})
    return Stream(DenoisingExamples(Latents(n), captions, DDPM, dropout, Latents.shape), seed)


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_every_epoch_shows_every_image_once_in_an_order_of_its_own(seed):
    examples = stream(seed=seed)
    epochs = [[examples.index(epoch * 11 + i) for i in range(11)] for epoch in range(20)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 20


def test_seeds_differ_in_order_and_draws():
    assert permutation(0, 0, 50).tolist() != permutation(1, 0, 50).tolist()
    keys = [(0, 0), (0, 1), (1, 0), (2**53, 0), (2**53 + 1, 0), (0, 2**63), (0, 2**63 + 1), (0, 2**63 - 1)]
    assert len({generator(seed, position).random() for seed, position in keys}) == len(keys)


def examples_of(split: list[tuple[int, int]], start: int, stop: int, workers: int = 0) -> list[dict[str, Any]]:
    """Examples by position, put together from all processes of one or several splits (world, batch)."""
    found: dict[int, dict[str, Any]] = {}
    (world, batch), *_ = split
    for rank in range(world):
        for micro in loader(stream(), Positions(start, stop, batch, rank, world), workers, False):
            for i, position in enumerate(micro["position"].tolist()):
                assert position not in found
                found[position] = {name: value[i] for name, value in micro.items()}
    return [found[position] for position in range(start, stop)]


@pytest.mark.parametrize("split", [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_examples_do_not_depend_on_processes_batch_or_start(split):
    whole = examples_of([(1, 8)], 0, 48)
    for start in (0, 8, 24):
        for one, other in zip(whole[start:], examples_of([split], start, 48), strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[name], other[name]) for name in one)


def test_workers_change_nothing():
    for one, other in zip(examples_of([(1, 4)], 8, 16), examples_of([(1, 4)], 8, 16, workers=1), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("world", "batch", "micro_steps"), [(1, 8, 1), (2, 4, 1), (2, 2, 2), (1, 2, 4), (4, 2, 1)])
def test_an_optimizer_step_takes_one_block_of_positions(world, batch, micro_steps):
    of_ranks = [list(Positions(16, 32, batch, rank, world)) for rank in range(world)]
    assert all(len(own) == len(Positions(16, 32, batch, 0, world)) == 2 * micro_steps for own in of_ranks)
    first_step = [position for own in of_ranks for micro in own[:micro_steps] for position in micro]
    assert sorted(first_step) == list(range(16, 24))


def test_all_that_is_drawn_for_other_ends_has_keys_apart_from_positions_and_each_other():
    many = 1 << 60  # positions, steps, epochs or images
    first = [(0, many), (loop.DROPOUT, many), (ORDER, many), (validation.KEYS, many)]
    ranges = sorted((begin, begin + length) for begin, length in first)
    assert all(end < begin for (_, end), (begin, _) in pairwise(ranges))
    assert ranges[-1][1] < 1 << 64


@given(st.integers(0, 2**62), st.integers(0, 2**62))
def test_a_position_gives_the_same_draws_again(seed, position):
    assert generator(seed, position).random() == generator(seed, position).random()


def test_the_share_of_dropped_captions_is_as_asked():
    for dropout in (0.0, 0.1, 1.0):
        examples = stream(dropout=dropout)
        dropped = np.mean([examples[i]["input_ids"][0].item() == -1 for i in range(2000)])
        assert abs(dropped - dropout) < 4 * np.sqrt(dropout * (1 - dropout) / 2000) + 1e-9


def test_captions_that_stay_belong_to_their_image():
    examples = stream(dropout=0.5)
    for i in range(40):
        row = examples[i]
        assert row["input_ids"][0] in (-1, 7 * int(row["mean"][0, 0, 0]))


def test_noise_is_standard_normal_and_independent_of_the_posteriors():
    rows = [stream(dropout=0.1)[i] for i in range(500)]
    noise = torch.stack([row["noise"] for row in rows]).flatten()
    posterior = torch.stack([row["posterior_noise"] for row in rows]).flatten()
    assert noise.dtype == torch.float32
    for values in (noise, posterior):
        assert abs(values.mean()) < 0.05 and abs(values.std() - 1) < 0.05
    assert abs((noise * posterior).mean()) < 0.05
    timesteps = [int(row["timestep"]) for row in rows]
    assert min(timesteps) >= 0 and max(timesteps) <= 999 and abs(np.mean(timesteps) - 499.5) < 60


@pytest.fixture
def picture(micro_dataset: Path) -> Path:
    return micro_dataset / "train" / "train0.png"


def test_images_for_the_autoencoder_are_never_changed(picture):
    examples = ImageExamples([picture], ["a"], 64, (4, 8, 8))
    for position in range(30):
        row = examples.example(0, generator(0, position))
        assert torch.equal(row["pixels"], read_pixels(picture, 64))
        assert row["posterior_noise"].shape == (4, 8, 8)


def test_no_image_for_the_classifier_is_mirrored(picture):
    """The disc stays in the half where the radiograph has it."""
    pixels = read_pixels(picture, 64)
    examples = LabelledImages([picture], ["a"], np.array([[1.0]]), 64)
    assert correlation(pixels, pixels.flip(-1)) < 0.9
    for position in range(200):
        seen = examples.example(0, generator(0, position))["pixels"]
        assert seen.shape == (1, 64, 64) and seen.dtype == torch.float32 and seen.abs().max() <= 1
        shifted = [torch.roll(seen, (dy, dx), (1, 2)) for dy in range(-2, 3) for dx in range(-2, 3)]
        assert max(correlation(pixels, one) for one in shifted) > 0.97
        assert max(correlation(pixels.flip(-1), one) for one in shifted) < 0.9


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


def test_unknown_labels_stay_unknown(picture):
    examples = LabelledImages([picture], ["a"], np.array([[1.0, np.nan, 0.0]]), 64)
    labels = examples.example(0, generator(0, 0))["labels"]
    assert labels.dtype == torch.float32
    np.testing.assert_array_equal(labels, [1, np.nan, 0])
