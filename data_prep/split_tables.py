"""Tables of a dataset folder: metadata.csv of each split, rejected.csv, and the counts that are printed."""

import sys
from pathlib import Path

import pandas as pd

from data_prep.cohort import REJECTED_COLUMNS, Cohort
from data_prep.masks import delete_masks, mask_columns
from sdcxr.io.files import atomic
from sdcxr.io.manifest import CLASS_COLUMN, COLUMNS, IDS, LABELS, SPLITS, write_metadata
from sdcxr.text.templates import PERSON_FIELDS

UNKNOWN = "unknown"


def write_splits(output_dir: Path, rows: pd.DataFrame, extra: list[str]) -> None:
    """Write metadata.csv of every split; delete what an earlier run wrote and these rows do not name.

    Args:
        output_dir: the dataset folder.
        rows: of all splits.
        extra: columns beside `COLUMNS` and those of class and masks.
    """
    masks = mask_columns(rows)
    more = (*PERSON_FIELDS, CLASS_COLUMN, *extra)
    columns = list(dict.fromkeys([*COLUMNS, *[name for name in more if name in rows], *map(str, masks)]))
    rows = rows.join(masks)
    for split in SPLITS:
        _write_split(output_dir / split, rows[rows["split"] == split], columns, list(map(str, masks)))


def _write_split(folder: Path, rows: pd.DataFrame, columns: list[str], masks: list[str]) -> None:
    """Write the split's table; delete images of an earlier run that it does not list, and an empty split's folder."""
    if not rows.empty:
        # An empty column has another type than one of words, and `load_dataset` refuses splits of different types.
        known = {name: rows[name].fillna("").replace("", UNKNOWN) for name in ("view", "race", "sex") if name in rows}
        table = rows.assign(file_name=rows["dicom_id"] + ".png", **({"view": ""} | known))
        if "age" in table:
            table["age"] = pd.to_numeric(table["age"]).astype("Float64")  # as labels: see `write_metadata`
        write_metadata(folder, table.reindex(columns=columns))
    elif not folder.is_dir():
        return
    delete_masks(folder, rows[masks].to_numpy().ravel())
    wanted = set(rows["dicom_id"] + ".png") | ({"metadata.csv"} if len(rows) else set())
    for path in folder.iterdir():
        if path.name not in wanted and (path.suffix in (".png", ".tmp") or path.name == "metadata.csv"):
            path.unlink()
    if rows.empty and not any(folder.iterdir()):
        folder.rmdir()


def warn_mixed_ids(rows: pd.DataFrame) -> None:
    """Warn of ids that are numbers in one split and names in another: `load_dataset` guesses a type for each split."""
    for column in IDS:
        numbers = rows[column].astype(str).str.fullmatch("[0-9]+").groupby(rows["split"]).all()
        if numbers.any() and not numbers.all():
            split = numbers.index[numbers][0]
            print(
                f"warning: {column} has only numbers in the split {split!r} and names in another: "
                f'datasets.load_dataset("imagefolder") needs features= with {column} as string',
                file=sys.stderr,
            )


def write_rejected(path: Path, rejected: pd.DataFrame) -> None:
    """Write rejected.csv in an order that does not depend on that of the filters or the source's tables."""
    table = rejected.astype("string").sort_values(list(REJECTED_COLUMNS), ignore_index=True)
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)


def print_counts(cohort: Cohort) -> None:
    """Print images and studies after each filter, and for each split patients, labels and classes."""
    width = max(len(str(count["filter"])) for count in cohort.counts)
    print(f"{'after':<{width}}  {'images':>9}  {'studies':>9}")
    for count in cohort.counts:
        print(f"{count['filter']:<{width}}  {count['images']:>9,}  {count['studies']:>9,}")
    for split in SPLITS:
        rows = cohort.rows[cohort.rows["split"] == split]
        if rows.empty:
            print(f"  the split {split!r} is empty")
            continue
        labelled = int(rows.reindex(columns=list(LABELS)).notna().any(axis=1).sum())
        line = f"  {split}: {len(rows):,} images of {rows['subject_id'].nunique():,} patients"
        if CLASS_COLUMN in rows:
            counts = rows[CLASS_COLUMN].value_counts().sort_index()
            print(f"{line}: {', '.join(f'{name} {n:,}' for name, n in counts.items())}")
        else:
            print(f"{line}, {labelled:,} with labels")
