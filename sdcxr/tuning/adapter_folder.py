"""The adapter folder of a run: per part a safetensors file with what the tuning method trained, and method.json."""

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
        tuned: the parts by their names in `--tune`.
    """
    states = {name: method.state(part) for name, part in tuned.items()}
    states = {name: state for name, state in states.items() if state}
    shutil.rmtree(folder, ignore_errors=True)  # of another method, where its run was not finished
    if not states:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, state in states.items():
        with atomic(folder / f"{name}.safetensors") as temporary:
            save_file({key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}, temporary)
    write_json(folder / "method.json", {"method": method.name, "parts": sorted(states)})
