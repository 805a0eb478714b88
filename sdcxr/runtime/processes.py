"""This process among those that `accelerate launch` or torchrun started together."""

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


def on_cpu() -> bool:
    """Whether to compute on the CPU: because the launch says so, or for want of anything else."""
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def native_precision() -> str:
    """bf16 where this device computes in it (GPUs from Ampere on, CPUs with AVX512-BF16 or AMX), else no."""
    if on_cpu():
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        native = any(getattr(torch.cpu, check, lambda: False)() for check in checks)
    else:
        native = not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if native else "no"


def processes() -> PartialState:
    """Number and rank of the processes. Bare `PartialState()` takes those of a launch on CPUs for single ones."""
    return PartialState(cpu=on_cpu())


def leave() -> None:
    """Close gloo's connections at the end of a command: left open, they aborted 4 of 24 launches of two processes.

    NCCL's close by themselves; asked to, they would wait for processes that have more to do.
    """
    group = torch.distributed.is_available() and torch.distributed.is_initialized()
    if group and torch.distributed.get_backend() == "gloo":
        torch.distributed.destroy_process_group()
