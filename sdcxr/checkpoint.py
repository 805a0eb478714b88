"""Checkpoints of a run: written whole or not at all, safetensors only, the oldest removed.

checkpoints/checkpoint-<step>/ holds model.safetensors (the tuned parts), ema.safetensors, optimizer.safetensors and
state.json (step, images seen, and the size of each file, so that a torn copy is recognised).
"""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sdcxr.ema import EMA
from sdcxr.files import read_json, write_json


def save(
    folder: Path, step: int, task: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA | None, keep: int
) -> None:
    """Write the checkpoint of `step` below `folder`, then remove all but the newest `keep`."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"checkpoint-{step}"
    temporary = folder / f".checkpoint-{step}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        tensors = {"model": tuned_state(task), "optimizer": optimizer_state(task, optimizer)}
        if ema is not None:
            tensors["ema"] = ema.averages
        for name, values in tensors.items():
            save_file(
                {key: value.detach().contiguous() for key, value in values.items()}, temporary / f"{name}.safetensors"
            )
        sizes = {path.name: path.stat().st_size for path in temporary.iterdir()}
        write_json(temporary / "state.json", {"step": step, "files": sizes})
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in existing(folder)[:-keep]:
        shutil.rmtree(old)


def existing(folder: Path) -> list[Path]:
    """The checkpoints below a folder that are whole, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdigit() and _whole(path)]
    return sorted(found, key=lambda path: int(path.name[11:]))


def _whole(path: Path) -> bool:
    state = path / "state.json"
    if not state.is_file():
        return False
    sizes = read_json(state)["files"]
    return all((path / name).is_file() and (path / name).stat().st_size == size for name, size in sizes.items())


def load(path: Path, task: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA | None) -> int:
    """Put a checkpoint back into the task, the optimizer and the average, and return its step.

    Raises:
        ValueError: it does not fit: names or shapes differ, or the average is missing.
    """
    try:
        own = task.state_dict()
        saved = load_file(path / "model.safetensors")
        if saved.keys() != tuned_state(task).keys() or any(saved[name].shape != own[name].shape for name in saved):
            raise ValueError(f"{path} is of another model")
        for name, tensor in saved.items():
            own[name].copy_(tensor)
        _load_optimizer(task, optimizer, load_file(path / "optimizer.safetensors"))
        if ema is not None:
            ema.load(load_file(path / "ema.safetensors"))
    except (SafetensorError, FileNotFoundError, KeyError) as error:
        raise ValueError(f"{path} is damaged or of another run ({error})") from None
    return int(read_json(path / "state.json")["step"])


def tuned_state(task: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of every part that trains at least one parameter, by their names in the task."""
    roots = {name.split(".")[0] for name, p in task.named_parameters() if p.requires_grad}
    return {name: value for name, value in task.state_dict().items() if name.split(".")[0] in roots}


def optimizer_state(task: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors as `<parameter>/<field>`, independent of the order of the parameters."""
    names = {id(p): name for name, p in task.named_parameters()}
    fields: dict[str, Tensor] = {}
    for parameter, state in optimizer.state.items():
        for field, value in state.items():
            fields[f"{names[id(parameter)]}/{field}"] = value.cpu() if value.ndim == 0 else value
    return fields


def _load_optimizer(task: nn.Module, optimizer: torch.optim.Optimizer, fields: dict[str, Tensor]) -> None:
    parameters = {name: p for name, p in task.named_parameters() if p.requires_grad}
    state: dict[str, dict[str, Any]] = {}
    for key, value in fields.items():
        name, field = key.rsplit("/", 1)
        if field != "step" and value.shape != parameters[name].shape:
            raise KeyError(f"{name} has another shape")
        state.setdefault(name, {})[field] = value
    for name, values in state.items():
        parameter = parameters[name]
        for field, value in values.items():
            if field == "step":  # fused AdamW counts on the device
                like = parameter.new_tensor(float(value), dtype=torch.float32)
                optimizer.state[parameter][field] = like
            else:
                tensor = torch.empty_like(parameter)
                optimizer.state[parameter][field] = tensor.copy_(value)
