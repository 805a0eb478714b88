"""The optimizer and the course of the learning rate."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError
from sdcxr.training.optimizer import build_optimizer, learning_rate_factor


@pytest.mark.parametrize(
    ("scheduler", "warmup", "factors"),
    [
        ("constant", 0, [1, 1, 1, 1]),
        ("constant", 2, [1 / 2, 1, 1, 1]),
        ("constant", 9, [1 / 4, 2 / 4, 3 / 4, 1]),
        ("linear", 0, [1, 3 / 4, 2 / 4, 1 / 4]),
        ("linear", 2, [1 / 2, 1, 1, 1 / 2]),
        ("cosine", 0, [1, (1 + 0.5**0.5) / 2, 1 / 2, (1 - 0.5**0.5) / 2]),
        ("cosine", 2, [1 / 2, 1, 1, 1 / 2]),
    ],
)
def test_learning_rate_over_four_steps(scheduler, warmup, factors):
    config = TrainConfig(lr_scheduler=scheduler, lr_warmup_steps=warmup, max_train_steps=4)
    assert [learning_rate_factor(step, config) for step in range(4)] == pytest.approx(factors)


def steps_of(config: TrainConfig) -> torch.Tensor:
    """A parameter after five steps towards zero."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(80, 80))
    optimizer = build_optimizer([{"name": "w", "params": [weight], "lr": 1e-2}], config, weight.device)
    for _ in range(5):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize("fused", [True, False])
def test_adams_settings_are_those_of_the_run(fused):
    config = TrainConfig(
        adam_beta1=0.8, adam_beta2=0.95, adam_weight_decay=0.3, adam_epsilon=1e-4, fused_optimizer=fused
    )
    weight = torch.nn.Parameter(torch.ones(1))
    (group,) = build_optimizer([{"name": "w", "params": [weight], "lr": 1e-2}], config, weight.device).param_groups
    assert (group["betas"], group["weight_decay"], group["eps"], group["lr"]) == ((0.8, 0.95), 0.3, 1e-4, 1e-2)


def test_one_kernel_or_many_make_the_same_steps():
    fused, plain = steps_of(TrainConfig()), steps_of(TrainConfig(fused_optimizer=False))
    torch.testing.assert_close(fused, plain, rtol=1e-6, atol=1e-7)


def test_8_bit_states_make_nearly_the_same_steps():
    pytest.importorskip("bitsandbytes")
    difference = (steps_of(TrainConfig(use_8bit_adam=True)) - steps_of(TrainConfig())).abs()
    assert 0 < difference.mean() < 0.02 * 5e-2  # of the way of five steps


def test_8_bit_states_without_the_package_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(UserError, match="--use_8bit_adam needs bitsandbytes: pip install"):
        steps_of(TrainConfig(use_8bit_adam=True))


def test_a_run_with_8_bit_states_resumes_exactly(train_micro, tmp_path):
    """Only tensors of 4096 values and more are kept in 8 bits; the micro base has some."""
    pytest.importorskip("bitsandbytes")
    settings: dict[str, Any] = {"tune": "unet", "use_8bit_adam": True, "checkpointing_steps": 2, "logging_steps": 2}
    assert train_micro(tmp_path / "whole", max_train_steps=4, **settings) == 0
    assert train_micro(tmp_path / "parts", max_train_steps=2, **settings) == 0
    assert train_micro(tmp_path / "parts", max_train_steps=4, **settings) == 0

    def state(run: Path) -> dict[str, torch.Tensor]:
        return load_file(run / "checkpoints" / "checkpoint-4" / "optimizer.safetensors")

    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert any(tensor.dtype == torch.uint8 for tensor in whole.values())
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)
