"""What a dataset folder was made from: the state of its tables and folders (prep.json) and of each image (sources.csv).

From file sizes and times alone they tell whether a folder is finished, and what has to be done where it is not.
"""

import csv
import functools
import hashlib
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from data_prep.cohort import Cohort
from data_prep.masks import COLUMN as MASKS
from data_prep.masks import mask_folders
from data_prep.raw_tables import image_files, image_stem
from sdcxr.io.content_hash import in_threads
from sdcxr.io.files import atomic, checksum
from sdcxr.io.ids import LEAST_SHARE
from sdcxr.io.image_files import is_image_name
from sdcxr.runtime.errors import UserError

SOURCES = "sources.csv"
MISSING = ("missing image", "format not read")  # reasons of images that are not there
COLUMNS = ("file_name", "source", "bytes", "mtime_ns", "reason", "detail", "digest", "phash", "png_bytes")
IMAGES = "images"  # the input whose path the column `source` is relative to
AND = "\t"  # between the paths of an image and its masks in the column `source`

State = dict[str, Any]

# ---------------------------------------------------------------------------------------------------------------------
# Inputs: the folder of images, tables, archives, folders of reports


def input_states(
    images: Path, found: Iterable[Path] = (), /, *, masks: Path | None = None, **inputs: Path | None
) -> dict[str, State]:
    """State of everything that a preparation reads, by flag, for prep.json; taken before anything is read.

    Args:
        images: folder of the images.
        found: the images in it, where new ones are to be noticed for which `SOURCES` has no row.
        masks: folder of masks, in which new ones are to be noticed.
        inputs: files, or folders of which every file counts; None is left out.
    """
    names = sorted(str(path).removeprefix(f"{images}/") for path in found)
    states: dict[str, State] = {IMAGES: {"path": str(images), "names": _digest(names)}}
    for flag, path in inputs.items():
        if path is not None:
            states[flag] = _folder_state(path.absolute()) if path.is_dir() else _file_state(path.absolute())
    if masks is not None:
        files = sorted(str(path).removeprefix(f"{masks}/") for path in image_files(masks, "--masks"))
        states["masks"] = {"path": str(masks.absolute()), "names": _digest(files)}
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
            changed.append(f"{flag} {'added' if old is None else 'left out'}")
        elif not _same(old, new):
            if old["path"] != new["path"] and flag != IMAGES:
                raise UserError(
                    f"{output_dir} was made from {old['path']}, and {new['path']} ({flag}) differs from it: "
                    "use another --output_dir, or the same path to update the folder"
                )
            changed.append(f"{flag} changed")
    return changed


def _same(old: State, new: State) -> bool:
    if all(old.get(key) == new.get(key) for key in ("bytes", "mtime_ns", "names")):
        return True
    if "sha256" not in old or old.get("bytes") != new.get("bytes"):
        return False
    return bool(old["sha256"] == checksum(Path(new["path"])))


def with_checksums(states: Mapping[str, State]) -> dict[str, State]:
    """States with the SHA-256 of each file that has not changed since: a copy has another time and the same content."""
    return {flag: _with_checksum(state) if "names" not in state else state for flag, state in states.items()}


def _with_checksum(state: State) -> State:
    path = Path(state["path"])
    digest = checksum(path)
    return state | {"sha256": digest} if _file_state(path) == state else state


def _file_state(path: Path) -> State:
    try:
        stat = path.stat()
    except OSError:  # whoever reads the file says what is wrong
        return {"path": str(path), "bytes": None, "mtime_ns": None, "names": ""}
    return {"path": str(path), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _folder_state(path: Path) -> State:
    """State of all files at any depth but images, which have their own record, and earlier results."""
    n_bytes, newest, names = 0, 0, []
    for root, folders, files in os.walk(path):
        if "prep.json" in files:
            folders.clear()
            continue
        for name in files:
            if not is_image_name(name):
                size, mtime_ns = (int(number or 0) for number in source_state(f"{root}/{name}"))
                n_bytes, newest = n_bytes + size, max(newest, mtime_ns)
                names.append(f"{root[len(str(path)) :]}/{name} {size}")
    return {"path": str(path), "bytes": n_bytes, "mtime_ns": newest, "names": _digest(sorted(names))}


# ---------------------------------------------------------------------------------------------------------------------
# Tables that were written


def table_sums(output_dir: Path, splits: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the metadata.csv of each split by its name in `output_dir`, for prep.json."""
    return {name: checksum(output_dir / name) for name in (f"{split}/metadata.csv" for split in splits)}


def edited_tables(output_dir: Path, recorded: Mapping[str, str]) -> list[str]:
    """The tables that are no longer as they were written, in words; a missing one is left to the caller."""
    there = {name: output_dir / name for name in recorded if (output_dir / name).is_file()}
    edited = [name for name, path in there.items() if checksum(path) != recorded[name]]
    return [f"{name} was edited and is written again" for name in edited]


def _digest(names: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# Images


def read_sources(output_dir: Path) -> pd.DataFrame:
    """`SOURCES` of a folder as str, in `COLUMNS`, indexed by file_name; empty where there is none or it is damaged.

    An interrupted preparation may have left half a row at the end.
    """
    try:
        whole, _, _ = (output_dir / SOURCES).read_bytes().rpartition(b"\n")
        table = pd.read_csv(io.BytesIO(whole), dtype=str, keep_default_na=False)
    except (OSError, ValueError):
        table = pd.DataFrame()
    if list(table.columns) != list(COLUMNS):
        table = pd.DataFrame(columns=list(COLUMNS), dtype=str)
    return table.drop_duplicates("file_name", keep="last").set_index("file_name", drop=False)


def write_sources(output_dir: Path, rows: pd.DataFrame) -> None:
    """Write `SOURCES` atomically, in the order of file_name."""
    with atomic(output_dir / SOURCES) as temporary:
        rows[list(COLUMNS)].sort_values("file_name").to_csv(temporary, index=False)


class Journal:
    """Appends rows to `SOURCES` while images are converted, so that an interrupted preparation resumes."""

    def __init__(self, output_dir: Path) -> None:
        self._file = (output_dir / SOURCES).open("a", encoding="utf-8", newline="", buffering=1)
        self._writer = csv.writer(self._file, lineterminator="\n")

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, row: Iterable[str]) -> None:
        """Append one row of `COLUMNS`."""
        self._writer.writerow(row)


def source_state(path: str) -> tuple[str, str]:
    """Size in bytes and mtime in ns of a file, as `SOURCES` has them; empty if it does not exist.

    Of an image with masks, paths joined by `AND`: the sum of the sizes, and the latest time.
    """
    try:
        # os.stat: a Path for each of 300,000 images takes as long as the call.
        stats = [os.stat(one) for one in path.split(AND)]  # noqa: PTH116
    except OSError:
        return "", ""
    return str(sum(stat.st_size for stat in stats)), str(max(stat.st_mtime_ns for stat in stats))


def whole_sources(rows: pd.DataFrame) -> pd.Series:
    """The paths of each image and its masks, joined by `AND`."""
    if MASKS not in rows:
        return rows["source"].astype(str)
    pairs = zip(rows["source"], rows[MASKS], strict=True)
    joined = [AND.join([str(source), *(path for paths in masks.values() for path in paths)]) for source, masks in pairs]
    return pd.Series(joined, index=rows.index, dtype=object)


def written_bytes(output_dir: Path, names: Iterable[str]) -> list[str]:
    """Size in bytes of each written image and its masks together, "" if the image is missing."""
    folders = functools.cache(lambda split: [str(path) for path in mask_folders(output_dir / split)])

    def size(name: str) -> str:
        image = source_state(f"{output_dir}/{name}")[0]
        split, _, file = name.partition("/")
        masks = [source_state(f"{folder}/{file}")[0] for folder in folders(split)] if image else []
        return str(int(image) + sum(map(int, filter(None, masks)))) if masks else image

    return in_threads(size, list(names))


def changed_images(output_dir: Path, images: str, n_written: int) -> tuple[int, list[str]]:
    """Compare `SOURCES` with the files: number of rows, and what differs, in words with numbers.

    Args:
        output_dir: a dataset folder.
        images: folder of the images, which may have moved.
        n_written: number of images in the dataset.
    """
    rows = read_sources(output_dir).astype(object)
    paths = [AND.join(os.path.join(images, one) for one in source.split(AND)) for source in rows["source"]]  # noqa: PTH118
    now, pngs = in_threads(source_state, paths), written_bytes(output_dir, rows["file_name"])
    stems_in = functools.cache(_image_stems)  # a missing image may have come under another suffix
    counts = dict.fromkeys(("new or changed", "gone", "PNG"), 0)
    known = zip(rows["bytes"], rows["mtime_ns"], rows["reason"], rows["png_bytes"], strict=True)
    for path, state, png, (n_bytes, mtime_ns, reason, png_bytes) in zip(paths, now, pngs, known, strict=True):
        if state != (n_bytes, mtime_ns):
            counts["new or changed" if state[0] else "gone"] += 1
        elif not state[0] and image_stem(path) in stems_in(os.path.dirname(path)):  # noqa: PTH120
            counts["new or changed"] += 1
        elif not reason and png != png_bytes:
            counts["PNG"] += 1
    words = {
        "new or changed": "{:,} source images are new or changed",
        "gone": "{:,} source images are gone",
        "PNG": "{:,} PNGs are missing or damaged",
    }
    incomplete = [f"{SOURCES} is incomplete"] if (rows["reason"] == "").sum() != n_written else []
    return len(rows), incomplete + [words[kind].format(n) for kind, n in counts.items() if n]


def _image_stems(folder: str) -> set[str]:
    try:
        return {image_stem(name) for name in os.listdir(folder) if is_image_name(name)}  # noqa: PTH208
    except OSError:
        return set()


def source_rows(rows: pd.DataFrame, images: str) -> pd.DataFrame:
    """The columns of `SOURCES` that are known before the conversion, as str; index of `rows`."""
    prefix = images.rstrip("/") + "/"
    paths = whole_sources(rows)
    states = pd.DataFrame(in_threads(source_state, paths.tolist()), columns=["bytes", "mtime_ns"], dtype=object)
    return pd.DataFrame(
        {
            "file_name": rows["split"] + "/" + rows["dicom_id"] + ".png",
            "source": paths.map(lambda path: AND.join(one.removeprefix(prefix) for one in path.split(AND))),
            "bytes": states["bytes"].set_axis(rows.index),
            "mtime_ns": states["mtime_ns"].set_axis(rows.index),
        },
        dtype=object,
    )


def up_to_date(output_dir: Path, now: pd.DataFrame, earlier: pd.DataFrame) -> pd.DataFrame:
    """Rows of `earlier` whose source is as it was and whose PNG is complete; with the index and `source` of `now`."""
    rows = now.join(earlier.drop(columns=["file_name", "source", "bytes", "mtime_ns"]), on="file_name")
    was = earlier[["bytes", "mtime_ns"]].reindex(now["file_name"]).set_axis(now.index)
    same = (rows["reason"] == "") & (was["bytes"] == rows["bytes"]) & (was["mtime_ns"] == rows["mtime_ns"])
    rows = rows[same]
    sizes = written_bytes(output_dir, rows["file_name"])
    whole = [now == size for now, size in zip(sizes, rows["png_bytes"], strict=True)]
    return rows[pd.Series(whole, index=rows.index, dtype=bool)]


def check_same_images(output_dir: Path, cohort: Cohort, was: str, now: str, allowed: float) -> None:
    """Refuse to rewrite a dataset from other images: a disk may be detached, or --images be another collection.

    Args:
        output_dir: the dataset folder.
        cohort: its rows have the new `source`.
        was: the folder of images that it was made from.
        now: the folder of images.
        allowed: share of the dataset's images that may be missing now.

    Raises:
        UserError: more are missing, or the folder is another one and fewer than half of its images are the same.
    """
    earlier = read_sources(output_dir)
    used = earlier[earlier["reason"] == ""]
    if used.empty:
        return
    ids = used["file_name"].map(lambda name: Path(name).stem)
    paths = whole_sources(cohort.rows)
    sizes = {name: source_state(path)[0] for name, path in zip(cohort.rows["dicom_id"], paths, strict=True)}
    sizes |= dict.fromkeys(cohort.rejected["dicom_id"][cohort.rejected["reason"].isin(MISSING)], "")
    sizes_now = ids.map(sizes)
    gone = ids[sizes_now == ""]
    told = f"of the {len(used):,} images that {output_dir} was made from"
    if len(gone) > allowed * len(used):
        raise UserError(
            f"{len(gone):,} {told} are missing in {now} (first: {gone.iloc[0]}): nothing is changed; give the folder "
            "that has them, or another --output_dir"
        )
    other = ids[sizes_now.notna() & (sizes_now != used["bytes"])]
    if was != now and len(other) > LEAST_SHARE * len(used):
        raise UserError(
            f"{len(other):,} {told}, {was}, are others in {now} (first: {other.iloc[0]}): use another --output_dir"
        )
