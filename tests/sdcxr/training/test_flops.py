"""The count of operations against published figures, and that counting leaves no trace."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import architectures
from sdcxr import backbones, tasks
from sdcxr.backbones.stable_diffusion import StableDiffusion
from sdcxr.config import TrainConfig
from sdcxr.data.stream import Stream
from sdcxr.training.flops import flop_counter, measured_peak, training_flops

META = torch.device("meta")


@cache
def on_meta(name: architectures.Name) -> StableDiffusion:
    with META:
        return architectures.random_weights(name)


class Loss(nn.Module):
    """A part alone, called with the batch's values."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.part(*batch.values())[0]


def latent_batch(size: int, channels: int = 4, images: int = 1) -> dict[str, Tensor]:
    latent = torch.zeros(images, channels, size, size)
    return {
        "mean": latent,
        "std": latent,
        "noise": latent,
        "posterior_noise": latent,
        "timestep": torch.zeros(images, dtype=torch.int64),
        "input_ids": torch.zeros(images, 77, dtype=torch.int64),
    }


def gigaflops(part: nn.Module, batch: dict[str, Tensor]) -> tuple[float, float]:
    """Forward alone, and with backward."""
    inputs = [value.to(META) for value in batch.values()]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        part(*inputs)
    return counter.get_total_flops() / 1e9, training_flops(Loss(part.requires_grad_()), batch) / 1e9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side_px", "forward", "both"),
    [("sd15", 512, 803.3, 2406.8), ("sd15", 256, 180.1, 537.3), ("sd21", 512, 804.3, 2408.7)],
)
def test_unets_cost_what_is_known(name, side_px, forward, both):
    parts = on_meta(name)
    batch = {
        "latent": torch.zeros(1, 4, side_px // 8, side_px // 8),
        "timestep": torch.zeros(1),
        "context": torch.zeros(1, 77, parts.unet.config.cross_attention_dim),
    }
    assert gigaflops(parts.unet, batch) == pytest.approx((forward, both), rel=5e-3)


@pytest.mark.parametrize("groups", [1, 4, 8])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_convolution_costs_three_times_its_forward_pass_also_in_groups(kind, groups):
    """Input and weight gradient as much as the output each: 2 * 8 * 8/groups * 3*3 * 6*6 positions."""
    layer = kind(8, 8, 3, padding=1, groups=groups).to(META)
    x = torch.empty(1, 8, 6, 6, device=META, requires_grad=True)
    with flop_counter() as counter:
        layer(x).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 8 * (8 // groups) * 9 * 36


def test_the_text_encoder_costs_what_is_known():
    batch = {"input_ids": torch.zeros(1, 77, dtype=torch.int64)}
    assert gigaflops(on_meta("sd15").parts["text"], batch) == pytest.approx((13.3, 39.9), rel=5e-3)


@pytest.mark.parametrize(("name", "millions"), [("sd15", (859.5, 83.65, 123.06)), ("sd21", (865.9, 83.65, 340.4))])
def test_architectures_have_the_published_numbers_of_parameters(name, millions):
    parts = on_meta(name)
    counts = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (parts.unet, parts.vae, parts.parts["text"])]
    assert counts == pytest.approx(millions, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tune", "checkpointing", "expected"),
    [("unet", False, 2420), ("unet+text", True, 2450), ("text", False, 1709)],
)
def test_a_step_of_stable_diffusion_costs_what_is_known(tune, checkpointing, expected, monkeypatch):
    monkeypatch.setattr(backbones, "load", lambda *_: on_meta("sd15"))
    monkeypatch.setattr("sdcxr.tasks.diffusion.hash_base", lambda _: {})  # on meta there are no values
    config = TrainConfig(
        tune=tune, base="sd15", validation_steps=0, learning_rate=1e-5, gradient_checkpointing=checkpointing
    )
    task = tasks.build(config, META)
    try:
        assert training_flops(task, latent_batch(64, images=2)) / 2e9 == pytest.approx(expected, rel=5e-3)
        assert task.unet.is_gradient_checkpointing == checkpointing
    finally:
        task.unet.disable_gradient_checkpointing()
        encoder = task.text_encoder
        getattr(encoder, "activation_checkpointing_disable", encoder.gradient_checkpointing_disable)()


def batch_of(task: Any) -> dict[str, Tensor]:
    stream = Stream(task.examples(), 0)
    batch = torch.utils.data.default_collate([stream[i] for i in range(3)])
    return {name: value for name, value in batch.items() if isinstance(value, Tensor)}


SETTINGS = [
    {"tune": "unet"},
    {"tune": "text"},
    {"tune": "unet+text", "mixed_precision": "bf16"},
    {"tune": "unet+text", "gradient_checkpointing": True},
    {"tune": "vae"},
    {"tune": "vae", "vae_part": "all"},
    {"tune": "classifier"},
    {"tune": "clip"},
    {"tune": "unet", "cache_latents": False},
]


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())))
def test_every_task_is_counted_and_left_as_it_was(settings, micro_base: Path, micro_dataset: Path, tmp_path: Path):
    base = None if settings["tune"] in ("classifier", "clip") else str(micro_base)
    config = TrainConfig(
        **settings,
        base=base,
        data=str(micro_dataset),
        validation_steps=0,
        learning_rate=1e-3,
        **({} if base is None or settings["tune"] == "vae" else {"latents_dir": str(tmp_path)}),
    )
    task = tasks.build(config, torch.device("cpu"))
    batch = batch_of(task)
    before = copy.deepcopy(task.state_dict())
    modes = [(module.training, getattr(module, "gradient_checkpointing", None)) for module in task.modules()]
    random_state = torch.get_rng_state()

    counted = training_flops(task, batch)

    assert torch.equal(torch.get_rng_state(), random_state)
    assert modes == [(module.training, getattr(module, "gradient_checkpointing", None)) for module in task.modules()]
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    assert all(parameter.grad is None and parameter.device.type == "cpu" for parameter in task.parameters())
    # The same operations, this time done.
    for module in task.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.gradient_checkpointing = False
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        task(batch).mean().backward()
    assert counted == counter.get_total_flops() > 0
    if settings in ({"tune": "unet"}, {"tune": "classifier"}):
        one = {name: value[:1] for name, value in batch.items()}
        assert training_flops(task, one) == pytest.approx(counted / 3, rel=1e-5)


def test_a_frozen_part_that_the_task_does_not_own_counts(micro_base: Path):
    """Without a latents cache, the VAE encodes in every step."""

    class Naive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbones.load(str(micro_base))
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            with torch.no_grad():
                mean = self.backbone.vae.encode(batch["pixels"]).latent_dist.mean
            return self.weight * mean

    batch = {"pixels": torch.zeros(1, 3, 32, 32)}
    task = Naive()
    with FlopCounterMode(display=False) as counter:
        task(batch)
    assert training_flops(task, batch) == counter.get_total_flops() > 0
    assert next(task.backbone.vae.parameters()).device.type == "cpu"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_peak_is_a_plausible_speed(dtype):
    assert 1e8 < measured_peak(torch.device("cpu"), dtype) < 1e15
