"""Checkpoints of a run: the folders checkpoints/checkpoint-<step>, and whether all files of one are there."""

import json
from pathlib import Path


def found(folder: Path) -> list[Path]:
    """All checkpoints in a folder, incomplete ones included, oldest first."""
    named = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdigit() and path.is_dir()]
    return sorted(named, key=step_of)


def existing(folder: Path) -> list[Path]:
    """Complete checkpoints in a folder, oldest first."""
    return [path for path in found(folder) if is_whole(path)]


def step_of(path: Path) -> int:
    """The optimizer step of checkpoint-<step>."""
    return int(path.name[11:])


def is_whole(path: Path) -> bool:
    """Whether all files of a checkpoint have their size."""
    try:
        sizes = json.loads((path / "state.json").read_text(encoding="utf-8"))["files"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False
    return all((path / name).is_file() and (path / name).stat().st_size == size for name, size in sizes.items())
