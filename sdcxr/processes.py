"""This process among those that `accelerate launch` or torchrun started together."""

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


def on_cpu() -> bool:
    """Whether to compute on the CPU: because the launch says so, or for want of anything else."""
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def processes() -> PartialState:
    """Number and rank of the processes. Bare `PartialState()` takes those of a launch on CPUs for single ones."""
    return PartialState(cpu=on_cpu())
