"""What a dataset folder was made from: the state of its tables and folders (prep.json) and of each image (sources.csv).

From file sizes and times alone they tell whether a folder is finished, and what has to be done where it is not.
"""

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from data_prep.raw_tables import IMAGE_SUFFIXES
from sdcxr.io.files import atomic, checksum
from sdcxr.runtime.errors import UserError

SOURCES = "sources.csv"
COLUMNS = ("file_name", "source", "bytes", "mtime_ns", "reason", "detail", "digest", "phash", "png_bytes")
IMAGES = "images"  # the input whose path the column `source` is relative to

State = dict[str, Any]

# ---------------------------------------------------------------------------------------------------------------------
# Inputs: the folder of images, tables, archives, folders of reports


def input_states(images: Path, names: Iterable[str] = (), **inputs: Path | None) -> dict[str, State]:
    """State of everything that a preparation reads, by flag, for prep.json; taken before anything is read.

    Args:
        images: folder of the images.
        names: relative paths of the images in it, where new ones are to be noticed that no row of `SOURCES` has.
        inputs: files, or folders of which every file counts; None is left out.
    """
    states: dict[str, State] = {IMAGES: {"path": str(images), "names": _digest(sorted(names))}}
    for flag, path in inputs.items():
        if path is not None:
            states[flag] = _folder_state(path.absolute()) if path.is_dir() else _file_state(path.absolute())
    return states


def changed_inputs(output_dir: Path, recorded: Mapping[str, State], now: Mapping[str, State]) -> list[str]:
    """The inputs that differ from those that `output_dir` was made from; an empty list if none does.

    Files that lie elsewhere and have the same content are the same.

    Raises:
        UserError: an input lies elsewhere and is another one: the folder would become another dataset.
    """
    changed = []
    for flag in dict.fromkeys([*recorded, *now]):
        old, new = recorded.get(flag), now.get(flag)
        if old is None or new is None:
            changed.append(f"--{flag} is {'new' if old is None else 'gone'}")
        elif not _same(old, new):
            if old["path"] != new["path"] and flag != IMAGES:
                raise UserError(
                    f"{output_dir} was made from {old['path']}, which differs from --{flag} {new['path']}: "
                    "use another --output_dir, or the same path to update the folder"
                )
            changed.append(f"--{flag} has changed")
    return changed


def _same(old: State, new: State) -> bool:
    if all(old.get(key) == new.get(key) for key in ("bytes", "mtime_ns", "names")):
        return True
    if "sha256" not in old or old.get("bytes") != new.get("bytes"):
        return False
    return bool(old["sha256"] == checksum(Path(new["path"])))


def with_checksums(states: Mapping[str, State]) -> dict[str, State]:
    """States with the SHA-256 of each file: a copy has another time and the same content."""
    return {flag: dict(state) if "names" in state else state | {"sha256": checksum(Path(state["path"]))}
            for flag, state in states.items()}  # fmt: skip


def _file_state(path: Path) -> State:
    try:
        stat = path.stat()
    except OSError:  # whoever reads the file says what is wrong
        return {"path": str(path), "bytes": None, "mtime_ns": None, "names": ""}
    return {"path": str(path), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _folder_state(path: Path) -> State:
    n_bytes, newest, names = 0, 0, []
    for root, _, files in os.walk(path):
        for name in files:
            stat = os.stat(os.path.join(root, name))  # noqa: PTH116, PTH118: many files
            n_bytes, newest = n_bytes + stat.st_size, max(newest, stat.st_mtime_ns)
            names.append(f"{root[len(str(path)) :]}/{name} {stat.st_size}")
    return {"path": str(path), "bytes": n_bytes, "mtime_ns": newest, "names": _digest(sorted(names))}


def _digest(names: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()
