"""The adapter folder of a run: per part a safetensors file with what the tuning method trained, and method.json."""

import hashlib
import re
import shutil
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from sdcxr.io.files import atomic, write_json
from sdcxr.tuning.base import TuningMethod


def save_adapter(folder: Path, method: TuningMethod, tuned: dict[str, nn.Module]) -> None:
    """Write the folder; nothing for a method such as `full`, of which the merged weights are all there is.

    Args:
        folder: where to.
        method: what the parts were tuned with.
        tuned: the tuned parts by name.
    """
    states = {name: method.state(part) for name, part in tuned.items()}
    states = {name: state for name, state in states.items() if state}
    shutil.rmtree(folder, ignore_errors=True)  # of another method, where its run was not finished
    if not states:
        return
    folder.mkdir(parents=True, exist_ok=True)
    files = states
    if getattr(method, "file_per_tensor", False):
        files = {file_name(key): {key: value} for state in states.values() for key, value in state.items()}
    for name, state in files.items():
        with atomic(folder / f"{name}.safetensors") as temporary:
            save_file({key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}, temporary)
    write_json(folder / "method.json", {"method": method.name, "parts": sorted(states)})


def file_name(word: str) -> str:
    """A word as the name of a file: what may not be in one is left out."""
    return re.sub(r"[^\w-]+", "", word).strip("-_") or hashlib.sha256(word.encode()).hexdigest()[:8]
