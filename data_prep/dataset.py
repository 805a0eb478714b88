"""The one writer of dataset folders: images in parallel, a metadata.csv per split, an account of what was left out.

A caller filters its tables, then
    settings = recorded_settings(config, "openi")
    if is_finished(output_dir, settings): return 0      # before the tables are read; refuses other settings
    return write_dataset(output_dir, rows, rejected, counts, settings, …)
"""

import dataclasses
import multiprocessing
import os
import platform
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pandas as pd
import PIL
from tqdm import tqdm

import sdcxr
from data_prep.images import SquareMode, convert
from sdcxr.errors import UserError
from sdcxr.files import atomic, check_same_settings, read_json, write_json
from sdcxr.manifest import COLUMNS, IDS, LABELS, SPLITS, write_metadata

REJECTED_COLUMNS = (*IDS, "reason", "detail")
NOT_RECORDED = ("output_dir", "workers", "max_rejected_fraction")  # they do not change an image or a row
LEAST = {"resolution": 1, "workers": 0, "limit": 1, "max_no_finding": 0, "max_tokens": 1}
SAFE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"


def check_numbers(config: Any) -> None:
    """Raise a `UserError` for a number, of those that the sources' settings share, that makes no sense."""
    for name, least in LEAST.items():
        value = getattr(config, name, None)
        if value is not None and value < least:
            raise UserError(f"--{name} {value}: expected {least} or more")
    if not 0 <= config.max_rejected_fraction <= 1:
        raise UserError(f"--max_rejected_fraction {config.max_rejected_fraction:g}: expected 0 to 1")


def recorded_settings(config: Any, source: str) -> dict[str, Any]:
    """The settings that decide what the folder holds: `source` and the config dataclass, paths made absolute."""
    settings: dict[str, Any] = {"source": source}
    for name, value in dataclasses.asdict(config).items():
        if name in NOT_RECORDED:
            continue
        if isinstance(value, Path):
            value = str(value.expanduser().resolve())
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
    if not isinstance(prep, dict) or "settings" not in prep:
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
    output_dir: Path,
    rows: pd.DataFrame,
    rejected: pd.DataFrame,
    counts: list[dict[str, Any]],
    settings: dict[str, Any],
    *,
    resolution: int,
    square: SquareMode,
    workers: int,
    max_rejected_fraction: float = 0.05,
) -> int:
    """Convert the images of `rows` and write the dataset folder. Killed at any moment, it goes on when called again.

    Args:
        output_dir: the folder; see `is_finished` for what it may hold.
        rows: the manifest's columns but `file_name` (missing ones are left empty), `split` (train, validation, test)
            and `source` (absolute path of the image).
        rejected: what the caller's filters dropped, in `REJECTED_COLUMNS`; see `rejects`.
        counts: what each of the caller's filters left: {"filter", "images", "studies"}.
        settings: what `recorded_settings` gave.
        resolution: side of the written images in pixels.
        square: how a rectangle becomes a square, "crop" or "pad".
        workers: processes; 1 converts in this one, 0 takes every core that this process may use.
        max_rejected_fraction: the share of unusable images up to which the result counts as usable.

    Returns:
        The exit code: 0 when the folder may be used. 1 when more images than allowed could not be read: all is
        written, but prep.json says `"usable": false`, and the same command again tries the failed images once more.

    Raises:
        UserError: no image is left.
        OSError: writing failed, here or in a worker.
    """
    if is_finished(output_dir, settings):
        return 0
    output_dir.mkdir(parents=True, exist_ok=True)
    _write_prep(output_dir, settings, counts, usable=False)
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
    results = list(_convert_all(rows["source"].astype(str).tolist(), targets, resolution, square, workers))

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
    usable = len(unusable) <= max_rejected_fraction * len(rows)
    _write_prep(output_dir, settings, counts, usable, kept, rejected)
    _print_counts(counts, kept)
    if usable:
        return 0
    print(
        f"error: {len(unusable)} of {len(rows)} images could not be used, more than --max_rejected_fraction "
        f"{max_rejected_fraction:g} allows: {output_dir / 'rejected.csv'} says why",
        file=sys.stderr,
    )
    return 1


def available_cores() -> int:
    """How many cores this process may use, which under SLURM or in a container is fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def progress(total: int | None, what: str, unit: str) -> tqdm:
    """A progress bar with the time left on stderr; in a log file a line every half minute."""
    interval_s = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(total=total, desc=what, unit=unit, mininterval=interval_s, maxinterval=max(10.0, interval_s))


def _unique(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`rows` with every dicom_id once and fit for a file name, and what was left out for that."""
    unsafe = ~rows["dicom_id"].astype(str).str.fullmatch(SAFE_NAME)
    repeated = rows["dicom_id"].duplicated() & ~unsafe
    left_out = [
        rejects(rows[unsafe], "dicom_id is no file name"),
        rejects(rows[repeated], "duplicate dicom_id", "its first row is kept"),
    ]
    return rows[~unsafe & ~repeated], pd.concat(left_out)


def _convert_all(
    sources: list[str], targets: list[str], resolution: int, square: SquareMode, workers: int
) -> Iterator[tuple[str, str] | None]:
    """The result of `convert` for every image, in order."""
    n = len(sources)
    workers = min(workers or available_cores(), n)
    with progress(n, "images", "image") as bar:
        if workers == 1:
            for source, target in zip(sources, targets, strict=True):
                yield convert(source, target, resolution, square)
                bar.update()
            return
        # Spawned, not forked: pandas has started threads by now.
        context = multiprocessing.get_context("spawn")
        executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)
        try:
            # Workers start in `map` and inherit the mask: Ctrl-C is the parent's to answer.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                results = executor.map(convert, sources, targets, [resolution] * n, [square] * n, chunksize=8)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for result in results:
                yield result
                bar.update()
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed, probably for want of memory: run the same command with fewer --workers"
            ) from None
        finally:  # also on Ctrl-C: what a worker has begun it ends, the rest is dropped
            executor.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """In a worker: end when the parent is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (wait([sentinel]), os._exit(1)), daemon=True).start()


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


def _write_prep(
    output_dir: Path,
    settings: dict[str, Any],
    counts: list[dict[str, Any]],
    usable: bool,
    kept: pd.DataFrame | None = None,
    rejected: pd.DataFrame | None = None,
) -> None:
    splits = {} if kept is None else kept["split"].value_counts().to_dict()
    reasons = {} if rejected is None else rejected["reason"].astype(str).value_counts().sort_index().to_dict()
    prep = {
        "usable": usable,
        "phantom": (Path(settings.get("images") or "") / "phantom.json").is_file(),  # drawn by data_prep.phantom
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
