"""Device, precision and rank of this process under `accelerate launch` or torchrun."""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from sdcxr.runtime.cli import AFTER_MAIN


def on_cpu() -> bool:
    """Whether to compute on the CPU: the launch says so, or there is no accelerator."""
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def native_precision() -> str:
    """bf16 on devices that compute in it (GPUs from Ampere on, CPUs with AVX512-BF16 or AMX), else no."""
    if on_cpu():
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        native = any(getattr(torch.cpu, check, lambda: False)() for check in checks)
    else:
        native = not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if native else "no"


def processes() -> PartialState:
    """Number of processes and rank of this one. A bare `PartialState()` does not see the others of a launch on CPUs."""
    return PartialState(cpu=on_cpu())


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Inside, products are computed in the type of their inputs. On the meta device nothing is computed, or cast."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def environment_alone() -> dict[str, str]:
    """Environment for `python -m MODULE` of this project, from any folder, as one process however this was launched."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    alone = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return alone | {"PYTHONPATH": path}


def close_gloo() -> None:
    """Close the process group of gloo at the end of a command: its open threads aborted 4 of 24 launches of two ranks.

    NCCL closes by itself; destroying its group would wait for ranks that are still busy.
    """
    group = torch.distributed.is_available() and torch.distributed.is_initialized()
    if group and torch.distributed.get_backend() == "gloo":
        torch.distributed.destroy_process_group()


AFTER_MAIN.append(close_gloo)
