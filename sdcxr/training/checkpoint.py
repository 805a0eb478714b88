"""Checkpoints of a run: atomic, safetensors only, the oldest removed; resumed by `loop.Run.resume`.

checkpoints/checkpoint-<step>/ holds model.safetensors (what trains), ema.safetensors, optimizer.safetensors and
state.json (step, losses not logged yet, fp16's scaler, and the size of each file, so that a torn copy is recognised).
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sdcxr.io.checkpoint_folder import existing, found, is_whole
from sdcxr.io.files import read_json, write_json
from sdcxr.training.ema import EMA
from sdcxr.tuning.base import trained_tensors


def save(
    folder: Path,
    step: int,
    task: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: EMA | None,
    keep: int,
    losses: Sequence[float] = (),
    scaler: torch.amp.GradScaler | None = None,
    best: int | None = None,
) -> None:
    """Write the checkpoint of `step` below `folder`, then remove all but the newest `keep` and that of the step `best`.

    `losses` are those since the last log row, so that a resumed run logs the whole interval.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left_behind in folder.glob(".checkpoint-*.tmp"):  # by a killed process
        shutil.rmtree(left_behind)
    final = folder / f"checkpoint-{step}"
    temporary = folder / f".checkpoint-{step}.{os.getpid()}.tmp"
    try:
        temporary.mkdir()
        tensors = {"model": trained_tensors(task), "optimizer": optimizer_state(task, optimizer)}
        if ema is not None:
            tensors["ema"] = ema.averages
        for name, values in tensors.items():
            save_file(
                {key: value.detach().contiguous() for key, value in values.items()}, temporary / f"{name}.safetensors"
            )
        state: dict[str, Any] = {"step": step, "losses": list(losses)}
        if scaler is not None:
            state["scaler"] = scaler.state_dict()
        state["files"] = {path.name: path.stat().st_size for path in temporary.iterdir()}
        write_json(temporary / "state.json", state)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    # This one in any case: newer ones are those that could not be loaded.
    kept = {*existing(folder)[-keep:], final, folder / f"checkpoint-{best}"}
    for old in found(folder):  # also half of one, whose removal was cut short
        if old not in kept:
            shutil.rmtree(old)


def load(
    path: Path,
    task: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: EMA | None,
    scaler: torch.amp.GradScaler | None = None,
) -> tuple[int, list[float]]:
    """Restore a checkpoint; return its step and the losses not logged yet.

    Raises:
        ValueError: it does not fit: names or shapes differ, or the average is missing. Nothing was changed then.
    """
    if not is_whole(path):
        raise ValueError(f"{path} is damaged (a file is missing or cut short)")
    own = trained_tensors(task)
    parameters = {name: p for name, p in task.named_parameters() if p.requires_grad}
    # Checkpoints before version 0.2 also hold what does not train of the tuned parts.
    surplus = {*task.state_dict(), *(name for name, _ in task.named_buffers())} - own.keys()
    try:
        saved = load_file(path / "model.safetensors")
        fields = load_file(path / "optimizer.safetensors")
        averages = load_file(path / "ema.safetensors") if ema is not None else {}
        state = read_json(path / "state.json")
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(f"{path} is damaged ({error})") from None
    saved, averages = ({n: v for n, v in tensors.items() if n not in surplus} for tensors in (saved, averages))
    if (
        _shapes(saved) != _shapes(own)
        or not {key.rsplit("/", 1)[0] for key in fields} <= parameters.keys()
        or (ema is not None and _shapes(averages) != _shapes(ema.averages))
        or not {"step", "losses"} <= state.keys()
    ):
        raise ValueError(f"{path} is of another run")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])
    _load_optimizer(parameters, optimizer, fields)
    if ema is not None:
        ema.load(averages)
    if scaler is not None and state.get("scaler"):
        scaler.load_state_dict(state["scaler"])
    return int(state["step"]), list(state["losses"])


def _shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def optimizer_state(task: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors as `<parameter>/<field>`, independent of the order of the parameters."""
    names = {id(p): name for name, p in task.named_parameters()}
    fields: dict[str, Tensor] = {}
    for parameter, state in optimizer.state.items():
        for field, value in state.items():
            tensor = value if isinstance(value, Tensor) else torch.tensor(value)  # 8-bit AdamW counts in an int
            if tensor.shape != parameter.shape:  # small; safetensors refuses 8-bit AdamW's shared tables
                tensor = tensor.cpu().clone()
            fields[f"{names[id(parameter)]}/{field}"] = tensor
    return fields


def _load_optimizer(
    parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, fields: dict[str, Tensor]
) -> None:
    for key, value in fields.items():
        name, field = key.rsplit("/", 1)
        parameter, state = parameters[name], optimizer.state[parameters[name]]
        if value.ndim == 0:  # the count of steps: fused AdamW's is a float on the device
            state[field] = value.to(parameter.device) if value.is_floating_point() else int(value)
        elif value.shape == parameter.shape and value.dtype == parameter.dtype:
            state[field] = torch.empty_like(parameter, requires_grad=False).copy_(value)  # in its memory layout
        else:
            state[field] = value.to(parameter.device)
