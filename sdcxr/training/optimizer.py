"""AdamW over the tuned parts, and the learning rate schedule: warm-up, constant, linear or cosine."""

import math
from collections import Counter
from typing import Any

import torch

from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError


def build_optimizer(groups: list[dict[str, Any]], config: TrainConfig, device: torch.device) -> torch.optim.Optimizer:
    """AdamW from the settings.

    Args:
        groups: parameter groups with `name`, `params` and `lr`.
        config: the settings.
        device: where the parameters are.

    Raises:
        UserError: 8-bit states are asked for and bitsandbytes is not installed.
    """
    betas = (config.adam_beta1, config.adam_beta2)
    if config.use_8bit_adam:
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError:
            raise UserError("--use_8bit_adam needs bitsandbytes: pip install 'sdcxr[8bit]'") from None
        eight_bit: torch.optim.Optimizer = AdamW8bit(
            groups, betas=betas, weight_decay=config.adam_weight_decay, eps=config.adam_epsilon
        )
        return eight_bit
    return torch.optim.AdamW(
        groups,
        betas=betas,
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
        fused=config.fused_optimizer or None,  # None is torch's own choice
    )


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """The learning rate of optimizer step `step` (from 0) over its base value: linear warm-up, then the schedule."""
    steps = config.max_train_steps or 1
    warmup = min(config.lr_warmup_steps or 0, steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    if config.lr_scheduler == "linear":
        return 1 - progress
    if config.lr_scheduler == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0


def sizes(groups: list[dict[str, Any]]) -> str:
    """What trains, in words: the number of parameters by the groups' names."""
    counts: Counter[str] = Counter()
    for group in groups:
        counts[group["name"]] += sum(p.numel() for p in group["params"])
    return ", ".join(f"{name} {count / 1e6:.4g} M" for name, count in counts.items())
