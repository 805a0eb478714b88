"""Folders: raw ones of empty files, and what a preparation has written."""

from pathlib import Path

import pandas as pd

from sdcxr.io.manifest import SPLITS, read_metadata


def touch(folder: Path, *names: str) -> Path:
    """Empty files of these names, with the folders that they are in."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def metadata(output_dir: Path) -> pd.DataFrame:
    """The rows of all splits, with the column `split`."""
    splits = [split for split in SPLITS if (output_dir / split).is_dir()]
    return pd.concat([read_metadata(output_dir / split).assign(split=split) for split in splits], ignore_index=True)
