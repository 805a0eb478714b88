"""Validation while training: the loss of held-out images with fixed noise, and preview images."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import default_collate

from sdcxr.config import TrainConfig
from sdcxr.data.stream import Examples, generator
from sdcxr.io.run_folder import best_validation

KEYS = (1 << 63) + (1 << 62)  # of the draws of validation images, apart from positions and orderings


@torch.no_grad()
def validation_loss(task: Any, examples: Examples, seed: int, batch: int, accelerator: Accelerator) -> dict[str, float]:
    """Mean loss of the examples, each with draws that depend on its index alone; every process takes its share.

    Args:
        task: the task, prepared (its `forward` runs under the precision of the run).
        examples: held-out images; where one has a `stratum`, the means per stratum are returned too.
        seed: of the run.
        batch: images at once.
        accelerator: the processes.

    Returns:
        `loss`, and `loss_t<first timestep>` for every stratum; of a task that can `observe` also its `scores`.
    """
    n, rank, world = len(examples.ids), accelerator.process_index, accelerator.num_processes
    losses = torch.zeros(n, dtype=torch.float64)
    strata = torch.zeros(n, dtype=torch.int64)
    outputs: Tensor | None = None
    mine = range(rank, n, world)
    with evaluating(task):
        for first in range(0, len(mine), batch):
            chunk = list(mine[first : first + batch])
            values = default_collate([examples.example(i, generator(seed, KEYS + i)) for i in chunk])
            if "stratum" in values:
                strata[chunk] = values.pop("stratum")
            on_device = {name: value.to(accelerator.device) for name, value in values.items()}
            if hasattr(task, "observe"):
                loss, output = task.observe(on_device)
                outputs = torch.zeros(n, output.shape[1]) if outputs is None else outputs
                outputs[chunk] = output.float().cpu()
            else:
                loss = task.forward(on_device)
            losses[chunk] = loss.double().cpu()
    sums = torch.stack([losses, strata.double()]).to(accelerator.device, torch.float32)
    losses, firsts = accelerator.reduce(sums, reduction="sum").cpu()
    row = {"loss": losses.mean().item()}
    if len(firsts.unique()) > 1:
        row |= {f"loss_t{int(first):03d}": losses[firsts == first].mean().item() for first in firsts.unique()}
    row = {name: round(value, 6) for name, value in row.items()}
    if hasattr(task, "observe") and math.isfinite(row["loss"]):  # a run that diverged ends soon, and says so
        row |= task.scores(examples, gathered(outputs, n, accelerator))
    return row


def best_step(run: Path, task: Any, config: TrainConfig) -> int | None:
    """The step of the best validation so far; None without `--load_best_model_at_end`."""
    row = best_validation(run, task.selects_by) if config.load_best_model_at_end else None
    return None if row is None else int(row["step"])


def gathered(mine: Tensor | None, n: int, accelerator: Accelerator) -> np.ndarray:
    """The outputs of all processes (n, width), each of which has zeros for the images of the others, or none at all."""
    width = max(gather_object([0 if mine is None else mine.shape[1]]))
    mine = torch.zeros(n, width) if mine is None else mine
    return accelerator.reduce(mine.to(accelerator.device), reduction="sum").cpu().numpy()


def previews(task: Any, accelerator: Accelerator) -> list[np.ndarray]:
    """The task's preview images, uint8 (H, W) each, made by all processes; empty except on the main process."""
    mine = range(accelerator.process_index, getattr(task, "n_previews", 0), accelerator.num_processes)
    with evaluating(task), accelerator.autocast():
        tiles = task.preview(list(mine)) if len(mine) else []
    everyone = gather_object(list(zip(mine, tiles, strict=True)))
    if not accelerator.is_main_process:
        return []
    return [tile for _, tile in sorted(everyone, key=lambda pair: pair[0])]


@contextmanager
def evaluating(task: nn.Module) -> Iterator[None]:
    """Put all modules of the task in evaluation mode, and restore their modes afterwards."""
    modes = {module: module.training for module in task.modules()}
    task.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
