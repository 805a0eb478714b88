"""Writer of dataset folders: images in parallel, metadata.csv per split, rejected.csv, sources.csv and prep.json.

A data source filters its tables in a `Cohort`, then
    settings = recorded_settings(config, "openi")
    inputs = input_states(config.images, reports=config.reports)
    if is_finished(output_dir, settings, inputs): return 0      # before the tables are read; refuses other settings
    return write_dataset(config, settings, cohort, inputs)
"""

import dataclasses
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import PIL

import sdcxr
from data_prep.checksums import difference, expected_sums
from data_prep.cohort import Cohort
from data_prep.duplicates import (
    DuplicatePolicy,
    count_duplicates,
    describe_duplicates,
    differing_pairs,
    find_duplicates,
    surplus_copies,
)
from data_prep.filters import reason_where
from data_prep.images import Converted, ImageType, SquareMode, convert, mask_path
from data_prep.masks import COLUMN as MASKS
from data_prep.masks import find_masks
from data_prep.sources import (
    AND,
    IMAGES,
    Journal,
    State,
    changed_images,
    changed_inputs,
    check_same_images,
    edited_tables,
    read_sources,
    source_rows,
    source_state,
    table_sums,
    up_to_date,
    with_checksums,
    write_sources,
)
from data_prep.split_tables import print_counts, warn_mixed_ids, write_rejected, write_splits
from data_prep.splits import shared_patients
from data_prep.workers import in_workers, progress
from sdcxr.io.files import atomic, check_same_settings, read_json, write_json
from sdcxr.io.locks import locked
from sdcxr.io.manifest import CLASS_COLUMN, SPLITS
from sdcxr.io.png import is_colour
from sdcxr.runtime.errors import UserError
from sdcxr.text.clip_tokens import CLIP_TOKENS, describe_longer, n_longer

NOT_RECORDED = ("output_dir", "workers", "max_rejected_fraction", "masks")  # no image and no row depends on them
LEAST = {"resolution": 1, "workers": 0, "limit": 1, "max_no_finding": 0, "max_tokens": 1}
ADDED = {"text": "raw", "prompt_template": "", "field_dropout": 0.0}  # settings of sources that version 0.1 lacked
SAFE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"


@dataclass(kw_only=True)
class Settings:
    """Settings of every source, which applies `limit` and `seed` itself; --help and prep.json list them last."""

    output_dir: Path
    """dataset folder to write"""
    resolution: int = 512
    """side of the written images in pixels"""
    square: SquareMode = "crop"
    """crop the centre, or pad with black"""
    image_type: ImageType = "radiograph"
    """radiograph, other grey pictures, or colour: whether colour stays, and how strictly empty pictures are refused"""
    masks: Path | None = None
    """folder of masks for segmentation, called as the images; the last folder below it is the structure's name"""
    verify_checksums: bool = False
    """compare every source image with the collection's own SHA256SUMS.txt; one that differs is rejected"""
    limit: int | None = None
    """keep at most this many images, for a trial"""
    duplicates: DuplicatePolicy = "keep"
    """copies of a picture, exact or near, are listed in duplicates.csv; drop: keep one of each, a held-out one first"""
    seed: int = 0
    """random seed for the split and for what --limit keeps"""
    workers: int = 0
    """processes that convert images; 0: one per core"""
    max_rejected_fraction: float = 0.05
    """share of unreadable images above which the result is marked unusable (exit code 1)"""

    def __post_init__(self) -> None:
        check_settings(self)


def check_settings(config: Settings) -> None:
    """Expand ~ in the paths of a source's settings and check the ranges of those numbers that it has.

    Raises:
        UserError: a number is out of range; names the flag.
    """
    for name, value in vars(config).items():
        if isinstance(value, Path):
            setattr(config, name, value.expanduser())
        elif name in LEAST and value is not None and value < LEAST[name]:
            raise UserError(f"--{name} {value}: expected {LEAST[name]} or more")
    if not 0 <= config.max_rejected_fraction <= 1:
        raise UserError(f"--max_rejected_fraction {config.max_rejected_fraction:g}: expected 0 to 1")
    given = vars(config)
    longest = given.get("max_chars")
    if longest is not None and given["min_chars"] > longest:
        raise UserError(f"--min_chars {given['min_chars']} is more than --max_chars {given['max_chars']}")
    held_out = {name: given[name] for name in ("validation_fraction", "test_fraction") if name in given}
    if any(share < 0 for share in held_out.values()) or sum(held_out.values()) >= 1:
        flags = " and ".join(f"--{name} {share:g}" for name, share in held_out.items())
        together = " each and less than 1 together" if len(held_out) > 1 else " and less than 1"
        raise UserError(f"{flags}: expected 0 or more{together}")


def recorded_settings(config: Any, source: str) -> dict[str, Any]:
    """The settings that determine the content of the folder: `source` and the config's fields, but no paths.

    Paths tell where the data are, not what they are: see `data_prep.sources.input_states`.
    """
    settings: dict[str, Any] = {"source": source}
    for field in sorted(dataclasses.fields(config), key=lambda field: bool(field.kw_only)):
        value = getattr(config, field.name)
        if field.name not in NOT_RECORDED and not isinstance(value, Path):
            settings[field.name] = list(value) if isinstance(value, tuple) else value
    return settings


def begun(output_dir: Path, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The JSON file `name` of an earlier run with the same settings in `output_dir`; {} in a new or empty folder.

    Raises:
        UserError: the folder was begun with other settings, or has other files.
    """
    path = output_dir / name
    if not path.exists():
        if output_dir.exists() and not output_dir.is_dir():
            raise UserError(f"--output_dir {output_dir} is a file, not a folder")
        if output_dir.exists() and any(not path.name.startswith(".") for path in output_dir.iterdir()):
            raise UserError(f"--output_dir {output_dir} is not empty (it has other files): name a new or empty folder")
        return {}
    state = read_json(path)
    if not isinstance(state, dict) or not isinstance(state.get("settings"), dict):
        raise UserError(f"{path} was not written by data_prep: name a new or empty folder as --output_dir")
    # Version 0.1 recorded paths among the settings, and had fewer of them.
    defaults = {name: value for name, value in ADDED.items() if name in settings}
    defaults |= {field.name: field.default for field in dataclasses.fields(Settings) if field.name in settings}
    old = defaults | {key: value for key, value in state["settings"].items() if key in settings or not _is_path(value)}
    check_same_settings(output_dir, old, settings)
    return state


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and Path(value).is_absolute()


def is_finished(output_dir: Path, settings: dict[str, Any], inputs: Mapping[str, State]) -> bool:
    """Whether `output_dir` is the usable result of these settings and inputs; prints so, or what is to be done.

    Args:
        output_dir: the dataset folder.
        settings: the result of `recorded_settings`.
        inputs: the result of `input_states`.

    Raises:
        UserError: as `begun` and `changed_inputs`; or another process is writing to the folder.
    """
    state = begun(output_dir, "prep.json", settings)
    if not state:
        return False
    if "inputs" not in state:
        print(f"{output_dir} has no record of its sources (version 0.1): its images are converted again")
    else:
        changes = changed_inputs(output_dir, state["inputs"], inputs)
        if state.get("usable"):
            n_images, of_images = changed_images(output_dir, inputs[IMAGES]["path"], sum(state["splits"].values()))
            tables = [*(f"{split}/metadata.csv" for split in state["splits"]), "rejected.csv"]
            changes += [f"{name} is missing" for name in tables if not (output_dir / name).is_file()] + of_images
            changes += edited_tables(output_dir, state.get("tables", {}))
            if not changes:
                print(f"{output_dir} is finished: nothing to do (compared with {n_images:,} source images)")
                return True
        if changes:
            print(f"{output_dir} is updated: {'; '.join(changes)}")
    with locked(output_dir):  # known before the tables are read
        return False


def write_dataset(config: Settings, settings: dict[str, Any], cohort: Cohort, inputs: Mapping[str, State]) -> int:
    """Convert the images of a cohort and write the dataset folder. Killed at any moment, it resumes when called again.

    Images that are there and whose sources are unchanged are not converted again.

    Args:
        config: the source's settings; see `is_finished` for what the output folder may contain.
        settings: the result of `recorded_settings`.
        cohort: its rows have `dicom_id`, `study_id`, `subject_id`, `text`, any other column of metadata.csv, `split`
            (train, validation or test) and `source` (absolute path of the image), and may have `class` and those that
            `cohort.extra` names. Unusable images are dropped from it.
        inputs: the result of `input_states`, from before anything was read.

    Returns:
        The exit code: 0 when the folder may be used. 1 when more images than allowed could not be read: everything is
        written, but prep.json has `"usable": false`, and the same command tries the failed images again.

    Raises:
        UserError: no image is left, a patient is in more than one split, another process is writing to the folder, or
            most of the sources that it was made from are gone.
        OSError: writing failed, here or in a worker.
    """
    if shared := shared_patients(cohort.rows):
        raise UserError(
            f"{len(shared)} patients are in more than one split (the first: {shared[0]}): check the tables or lists"
        )
    config.output_dir.mkdir(parents=True, exist_ok=True)
    with locked(config.output_dir):
        return _write(config, settings, cohort, with_checksums(inputs))


def _write(config: Settings, settings: dict[str, Any], cohort: Cohort, inputs: Mapping[str, State]) -> int:
    output_dir, rejected_csv = config.output_dir, config.output_dir / "rejected.csv"
    images, was = inputs[IMAGES]["path"], begun(output_dir, "prep.json", settings).get("inputs", inputs)[IMAGES]["path"]
    if config.masks is not None:
        cohort.rows = cohort.rows.assign(**{MASKS: find_masks(config.masks, cohort.rows)})
    check_same_images(output_dir, cohort, was, images, config.max_rejected_fraction)
    phantom = any(map(_is_phantom, cohort.rows["source"].head(1)))
    prep = {"settings": settings, "inputs": inputs, "phantom": phantom}
    _write_prep(output_dir, prep, cohort, usable=None)
    unsafe = ~cohort.rows["dicom_id"].astype(str).str.fullmatch(SAFE_NAME)
    cohort.drop(reason_where(unsafe, "name with a blank or other characters than A–Z, a–z, 0–9, '.', '_', '-'"))
    cohort.drop(reason_where(cohort.rows["dicom_id"].duplicated(), "duplicate dicom_id"), "its first row is kept")
    if cohort.rows.empty:
        write_rejected(rejected_csv, cohort.rejected)
        raise UserError(f"no image is left after the filters: {rejected_csv} has the reasons")

    cohort.rows = cohort.rows.sort_values(["split", "dicom_id"], ignore_index=True)
    n_images = len(cohort.rows) + int(unsafe.sum())
    sources = _convert_images(config, cohort.rows, source_rows(cohort.rows, images))
    cohort.apply("readable image", sources["reason"], sources["detail"])
    n_unusable = n_images - len(cohort.rows)
    duplicates = _account_for_duplicates(config, cohort, sources)
    left_out = ~sources.index.isin(cohort.rows.index) & (sources["reason"] == "")
    write_sources(output_dir, sources.assign(reason=sources["reason"].mask(left_out, "left out")))
    write_rejected(rejected_csv, cohort.rejected)
    kept = cohort.rows
    if kept.empty:
        raise UserError(f"none of the {n_images} images can be used: {rejected_csv} has the reasons")
    write_splits(output_dir, kept, cohort.extra)
    warn_mixed_ids(kept)

    usable = n_unusable <= config.max_rejected_fraction * n_images
    n_cut = n_longer(kept["text"])
    cut = {"cut": n_cut, "of": len(kept), "tokens": CLIP_TOKENS}
    tables = table_sums(output_dir, [split for split in SPLITS if (kept["split"] == split).any()])
    prep |= {"channels": channels(config, kept), "duplicates": duplicates, "captions": cut, "tables": tables}
    _write_prep(output_dir, prep, cohort, usable)
    print_counts(cohort)
    print(describe_duplicates(duplicates, config.duplicates))
    print(describe_longer(n_cut, len(kept)), end="")
    if usable:
        return 0
    print(
        f"error: {n_unusable} of {n_images} images cannot be used, more than --max_rejected_fraction "
        f"{config.max_rejected_fraction:g} allows: {rejected_csv} has the reasons",
        file=sys.stderr,
    )
    return 1


def _account_for_duplicates(config: Settings, cohort: Cohort, sources: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Write duplicates.csv, drop copies from the cohort if the settings say so, and return the counts for prep.json."""
    images = cohort.rows[["subject_id", "split"]].join(sources[["file_name", "digest", "phash"]])
    pairs = find_duplicates(images)
    with atomic(config.output_dir / "duplicates.csv") as temporary:
        pairs.to_csv(temporary, index=False)
    kept = surplus_copies(pairs)
    classes = cohort.rows.get(CLASS_COLUMN)
    if classes is not None and (n_odd := differing_pairs(pairs, images["file_name"], classes)):
        print(f"warning: {n_odd:,} pairs of copies are of different classes (duplicates.csv)", file=sys.stderr)
    copies = images["file_name"].map(lambda name: kept.get(name, "")).astype(object)
    if config.duplicates == "drop":
        cohort.apply("without duplicates", reason_where(copies != "", "duplicate picture"), "of " + copies)
    return count_duplicates(pairs, len(kept))


def _convert_images(config: Settings, rows: pd.DataFrame, now: pd.DataFrame) -> pd.DataFrame:
    """Write the images that are not there yet or whose source has changed; the rows of sources.csv, index of `rows`."""
    output_dir = config.output_dir
    masks = rows.get(MASKS, pd.Series([{}] * len(rows), index=rows.index))
    for split in rows["split"].unique():
        for structure in {structure for one in masks[rows["split"] == split] for structure in one}:
            Path(mask_path(f"{output_dir}/{split}/x", structure)).parent.mkdir(parents=True, exist_ok=True)
        (output_dir / split).mkdir(exist_ok=True)
    done = up_to_date(output_dir, now, read_sources(output_dir))
    write_sources(output_dir, done)
    todo = now[~now.index.isin(done.index)]
    if len(done):
        print(f"images: {len(todo):,} to convert, {len(done):,} are up to date")
    options = {"resolution_px": config.resolution, "mode": config.square, "image_type": config.image_type}
    convert_one = partial(_convert_one, options=options)
    targets = [f"{output_dir}/{name}" for name in todo["file_name"]]
    files = rows["source"][todo.index].astype(str).tolist()
    sums = [""] * len(files)
    if config.verify_checksums:
        sums = expected_sums(files)
        print(f"checksums: {len(files) - sums.count(''):,} images are listed, {sums.count(''):,} are not")
    results = in_workers(convert_one, files, targets, sums, masks[todo.index].tolist(), workers=config.workers)
    outcomes = []
    with Journal(output_dir) as journal:
        known = zip(todo["file_name"], todo["source"], todo["bytes"], todo["mtime_ns"], strict=True)
        for state, outcome in zip(known, progress(len(todo), "images", "image", results), strict=True):
            journal.add([*state, *outcome])
            outcomes.append(outcome)
    columns = [*Converted._fields, "png_bytes"]
    new = todo.join(pd.DataFrame(outcomes, columns=columns, index=todo.index, dtype=object))
    return pd.concat([done, new]).reindex(rows.index)


def _convert_one(
    source: str, target: str, sha256: str, masks: dict[str, list[str]], options: dict[str, Any]
) -> tuple[str, ...]:
    """`convert`, unless another `sha256` is listed for the source, and the size in bytes of what it wrote."""
    if differs := difference(source, sha256):
        return *Converted("checksum differs", differs), ""
    converted = convert(source, target, masks=masks, **options)
    written = AND.join([target, *(mask_path(target, structure) for structure in masks)])
    return *converted, "" if converted.reason else source_state(written)[0]


def channels(config: Settings, rows: pd.DataFrame) -> int:
    """Channels of the written images: 3 if one of them is in colour."""
    names = rows["split"] + "/" + rows["dicom_id"] + ".png"
    colour = config.image_type == "colour" and any(is_colour(config.output_dir / name) for name in names)
    return 3 if colour else 1


def _is_phantom(source: str) -> bool:
    """Whether data_prep.phantom wrote this image: its path is files/p10/p10000032/s50414267/x.jpg beside phantom.json.

    phantom.json further up does not count: real images below it would pass as phantoms, and their reports as public.
    """
    return len(Path(source).parents) > 4 and (Path(source).parents[4] / "phantom.json").is_file()


def _write_prep(output_dir: Path, record: dict[str, Any], cohort: Cohort, usable: bool | None) -> None:
    """Write prep.json: `record`, counts, versions; `usable` is None before the images are converted."""
    splits = cohort.rows["split"].value_counts().to_dict() if usable is not None else {}
    reasons = cohort.rejected["reason"].astype(str).value_counts().sort_index().to_dict() if usable is not None else {}
    prep = {
        "usable": bool(usable),
        **record,
        "versions": {
            "sdcxr": sdcxr.__version__,
            "python": platform.python_version(),
            "pillow": PIL.__version__,
            "pandas": pd.__version__,
        },
        "counts": cohort.counts,
        **({"texts": cohort.texts} if cohort.texts else {}),
        "splits": {split: int(splits[split]) for split in SPLITS if split in splits},
        "rejected": {str(reason): int(n) for reason, n in reasons.items()},
    }
    write_json(output_dir / "prep.json", prep)
