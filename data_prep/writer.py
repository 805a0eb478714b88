"""The one writer of dataset folders: images in parallel, a metadata.csv per split, an account of what was left out.

A caller filters its tables, then
    settings = recorded_settings(config, "openi")
    if is_finished(output_dir, settings): return 0      # before the tables are read; refuses other settings
    return write_dataset(config, settings, rows, rejected, counts)
"""

import dataclasses
import platform
import sys
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import PIL

import sdcxr
from data_prep.images import SquareMode, convert
from data_prep.workers import in_workers, progress
from sdcxr.io.files import atomic, check_same_settings, read_json, write_json
from sdcxr.io.manifest import COLUMNS, IDS, LABELS, SPLITS, write_metadata
from sdcxr.runtime.errors import UserError

REJECTED_COLUMNS = (*IDS, "reason", "detail")
NOT_RECORDED = ("output_dir", "workers", "max_rejected_fraction")  # they do not change an image or a row
LEAST = {"resolution": 1, "workers": 0, "limit": 1, "max_no_finding": 0, "max_tokens": 1}
SAFE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"


class Settings(Protocol):
    """What the settings of every source hold."""

    output_dir: Path
    resolution: int  # side of the written images in pixels
    square: SquareMode
    workers: int  # processes; 1 converts in this one, 0 takes every core that this process may use
    max_rejected_fraction: float  # the share of unusable images up to which the result counts as usable


def check_settings(config: Settings) -> None:
    """Expand ~ in the paths of a source's settings, and check the numbers that the sources share.

    Raises:
        UserError: a number makes no sense.
    """
    for name, value in vars(config).items():
        if isinstance(value, Path):
            setattr(config, name, value.expanduser())
        elif name in LEAST and value is not None and value < LEAST[name]:
            raise UserError(f"--{name} {value}: expected {LEAST[name]} or more")
    if not 0 <= config.max_rejected_fraction <= 1:
        raise UserError(f"--max_rejected_fraction {config.max_rejected_fraction:g}: expected 0 to 1")


def recorded_settings(config: Any, source: str) -> dict[str, Any]:
    """The settings that decide what the folder holds: `source` and the config dataclass, paths made absolute."""
    settings: dict[str, Any] = {"source": source}
    for name, value in dataclasses.asdict(config).items():
        if name in NOT_RECORDED:
            continue
        if isinstance(value, Path):
            value = str(value.resolve())
        settings[name] = list(value) if isinstance(value, tuple) else value
    return settings


def is_finished(output_dir: Path, settings: dict[str, Any]) -> bool:
    """Whether `output_dir` already holds the usable result of these settings; says so on stdout.

    Raises:
        UserError: the folder was made with other settings, or holds something else.
    """
    path = output_dir / "prep.json"
    if not path.exists():
        if output_dir.exists() and not output_dir.is_dir():
            raise UserError(f"--output_dir {output_dir} is a file, not a folder")
        if output_dir.exists() and any(not path.name.startswith(".") for path in output_dir.iterdir()):
            raise UserError(f"--output_dir {output_dir} holds other files: name a new or empty folder")
        return False
    prep = read_json(path)
    if not isinstance(prep, dict) or not isinstance(prep.get("settings"), dict):
        raise UserError(f"{path} was not written by data_prep: name a new or empty folder as --output_dir")
    check_same_settings(output_dir, prep["settings"], settings)
    if not prep.get("usable"):
        return False
    print(f"{output_dir} is finished: nothing to do")
    return True


def rejects(rows: pd.DataFrame, reason: str, detail: str | pd.Series = "") -> pd.DataFrame:
    """`rows` in the columns of rejected.csv, ids that `rows` lacks left empty."""
    ids = rows.reindex(columns=list(IDS))
    return ids.assign(reason=reason, detail=detail)


def write_dataset(
    config: Settings,
    settings: dict[str, Any],
    rows: pd.DataFrame,
    rejected: pd.DataFrame,
    counts: list[dict[str, Any]],
) -> int:
    """Convert the images of `rows` and write the dataset folder. Killed at any moment, it goes on when called again.

    Args:
        config: the source's settings; see `is_finished` for what the output folder may hold.
        settings: what `recorded_settings` gave.
        rows: the manifest's columns but `file_name` (missing ones are left empty), `split` (train, validation, test)
            and `source` (absolute path of the image).
        rejected: what the caller's filters dropped, in `REJECTED_COLUMNS`; see `rejects`.
        counts: what each of the caller's filters left: {"filter", "images", "studies"}.

    Returns:
        The exit code: 0 when the folder may be used. 1 when more images than allowed could not be read: all is
        written, but prep.json says `"usable": false`, and the same command again tries the failed images once more.

    Raises:
        UserError: no image is left.
        OSError: writing failed, here or in a worker.
    """
    output_dir = config.output_dir
    output_dir.mkdir(parents=True, exist_ok=True)
    phantom = any(map(_is_phantom, rows["source"].head(1)))
    _write_prep(output_dir, settings, counts, phantom, usable=False)
    rows, repeated = _unique(rows)
    rejected = pd.concat([rejected, repeated]) if len(repeated) else rejected
    if rows.empty:
        _write_table(output_dir / "rejected.csv", _sorted(rejected))
        raise UserError(f"no image is left after the filters; {output_dir / 'rejected.csv'} says why")

    rows = rows.sort_values(["split", "dicom_id"], ignore_index=True)
    targets = [
        str(output_dir / split / f"{name}.png") for split, name in zip(rows["split"], rows["dicom_id"], strict=True)
    ]
    for split in rows["split"].unique():
        (output_dir / split).mkdir(exist_ok=True)
    sources = rows["source"].astype(str).tolist()
    converted = partial(convert, resolution_px=config.resolution, mode=config.square)
    with progress(len(rows), "images", "image") as bar:
        results = []
        for result in in_workers(converted, sources, targets, workers=config.workers):
            results.append(result)
            bar.update()

    bad = pd.Series([result is not None for result in results], index=rows.index)
    failures = [result for result in results if result is not None]
    unusable = rejects(rows[bad], "", "").assign(reason=[f[0] for f in failures], detail=[f[1] for f in failures])
    rejected = pd.concat([rejected, unusable]) if len(unusable) else rejected
    _write_table(output_dir / "rejected.csv", _sorted(rejected))
    kept = rows[~bad]
    if kept.empty:
        raise UserError(f"none of the {len(rows)} images could be used; {output_dir / 'rejected.csv'} says why")
    for split in SPLITS:
        _write_split(output_dir / split, kept[kept["split"] == split])

    counts = [*counts, {"filter": "readable image", "images": len(kept), "studies": int(kept["study_id"].nunique())}]
    usable = len(unusable) <= config.max_rejected_fraction * len(rows)
    _write_prep(output_dir, settings, counts, phantom, usable, kept, rejected)
    _print_counts(counts, kept)
    if usable:
        return 0
    print(
        f"error: {len(unusable)} of {len(rows)} images could not be used, more than --max_rejected_fraction "
        f"{config.max_rejected_fraction:g} allows: {output_dir / 'rejected.csv'} says why",
        file=sys.stderr,
    )
    return 1


def _unique(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`rows` with every dicom_id once and fit for a file name, and what was left out for that."""
    unsafe = ~rows["dicom_id"].astype(str).str.fullmatch(SAFE_NAME)
    repeated = rows["dicom_id"].duplicated() & ~unsafe
    left_out = [
        rejects(rows[unsafe], "dicom_id is no file name"),
        rejects(rows[repeated], "duplicate dicom_id", "its first row is kept"),
    ]
    return rows[~unsafe & ~repeated], pd.concat(left_out)


def _write_split(folder: Path, rows: pd.DataFrame) -> None:
    """Write the split's table and delete what an earlier run left in its folder and this table does not name."""
    if not rows.empty:
        table = rows.assign(file_name=rows["dicom_id"] + ".png").reindex(columns=list(COLUMNS))
        write_metadata(folder, table)
    elif not folder.is_dir():
        return
    wanted = set(rows["dicom_id"] + ".png") | ({"metadata.csv"} if len(rows) else set())
    for path in folder.iterdir():
        if path.name not in wanted and (path.suffix in (".png", ".tmp") or path.name == "metadata.csv"):
            path.unlink()
    if rows.empty and not any(folder.iterdir()):
        folder.rmdir()


def _is_phantom(source: str) -> bool:
    """Whether data_prep.phantom wrote this image, as files/p10/p10000032/s50414267/x.jpg beside its phantom.json.

    Not any folder above: the reports of patients, who may lie somewhere in there, too, would be taken for a phantom's.
    """
    return len(Path(source).parents) > 4 and (Path(source).parents[4] / "phantom.json").is_file()


def _write_prep(
    output_dir: Path,
    settings: dict[str, Any],
    counts: list[dict[str, Any]],
    phantom: bool,
    usable: bool,
    kept: pd.DataFrame | None = None,
    rejected: pd.DataFrame | None = None,
) -> None:
    splits = {} if kept is None else kept["split"].value_counts().to_dict()
    reasons = {} if rejected is None else rejected["reason"].astype(str).value_counts().sort_index().to_dict()
    prep = {
        "usable": usable,
        "phantom": phantom,
        "settings": settings,
        "versions": {
            "sdcxr": sdcxr.__version__,
            "python": platform.python_version(),
            "pillow": PIL.__version__,
            "pandas": pd.__version__,
        },
        "counts": counts,
        "splits": {split: int(splits[split]) for split in SPLITS if split in splits},
        "rejected": {str(reason): int(n) for reason, n in reasons.items()},
    }
    write_json(output_dir / "prep.json", prep)


def _sorted(rejected: pd.DataFrame) -> pd.DataFrame:
    columns = list(REJECTED_COLUMNS)
    return rejected.reindex(columns=columns).astype("string").sort_values(columns, ignore_index=True)


def _write_table(path: Path, table: pd.DataFrame) -> None:
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)


def _print_counts(counts: list[dict[str, Any]], kept: pd.DataFrame) -> None:
    width = max(len(str(count["filter"])) for count in counts)
    print(f"{'after':<{width}}  {'images':>9}  {'studies':>9}")
    for count in counts:
        print(f"{count['filter']:<{width}}  {count['images']:>9,}  {count['studies']:>9,}")
    for split in SPLITS:
        rows = kept[kept["split"] == split]
        if rows.empty:
            print(f"  the split {split!r} is empty")
            continue
        labelled = int(rows.reindex(columns=list(LABELS)).notna().any(axis=1).sum())
        print(f"  {split}: {len(rows):,} images of {rows['subject_id'].nunique():,} patients, {labelled:,} with labels")
