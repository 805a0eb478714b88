"""Prepare any dataset that has a table: which columns are what is said by flags or by a mapping.

    python -m data_prep.table --table my.csv --images DIR --columns image=file,text=report --output_dir DIR
    python -m data_prep.table --table train.csv --images CheXpert-v1.0-small --mapping chexpert --output_dir DIR
    python -m data_prep.table … --columns Cardiomegaly=heart --label_values yes=1,no=0 --prompt_template "{findings}."
    python -m data_prep.table --table HAM10000_metadata --images HAM10000 --mapping ham10000 --output_dir DIR
    python -m data_prep.table --table Dataset_BUSI_with_GT --images Dataset_BUSI_with_GT --mapping busi --output_dir DIR
    python -m data_prep.table --table pathmnist.npz --images unpacked --resolution 28 --output_dir DIR

Tables: CSV, TSV, JSON, JSON lines, Parquet, Hugging Face datasets on disk, folders of texts, a folder per class, .npz
of MedMNIST; images: everything that the other commands read, found by path or by name. Shipped mappings: chexpert,
chexpert_plus, padchest, vindr_cxr, rsna, mimic_cxr_sectioned, r2gen, roentgen_v2, chexgenbench, busi, fitzpatrick17k,
ham10000, smdg, medmnist (docs/preparation.md). The same command again resumes. Exit code 1: more images were unreadable
than --max_rejected_fraction allows.
"""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from data_prep import table_mapping
from data_prep.cohort import Cohort
from data_prep.filters import hash_order, limit_reasons, reason_where, view_reasons
from data_prep.images import ImageType
from data_prep.medmnist import MEDMNIST, is_npz, refuse_enlarging
from data_prep.prompts import PromptSettings, account_for, filter_lengths, keep_persons, texts_in
from data_prep.raw_tables import image_files, unread_files
from data_prep.sources import input_states
from data_prep.splits import hash_splits
from data_prep.table_files import join_table, may_unpack, read_any_table
from data_prep.table_images import Found, find_images, find_unread, image_key, image_names
from data_prep.table_labels import check_repeats, merge_rows, parse_list, read_findings
from data_prep.table_mapping import Repeats, TableMapping, column_cells, first_group, missing_column, quoted
from data_prep.table_text import FRONTAL, split_names, template_fields, text_cells, text_of, view_of, words_of
from data_prep.writer import is_finished, recorded_settings, write_dataset
from sdcxr.io.ids import LEAST_SHARE, print_join, read_ids, read_patients
from sdcxr.io.manifest import CLASS_COLUMN, IDS, LABELS
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError
from sdcxr.text.fields import person_fields
from sdcxr.text.templates import as_list, check_dropout, check_templates, write_prompts

LONG_NUMBER = "[0-9]{19,}"  # an integer that datasets.load_dataset cannot read
PATH = "path in --images"  # a column of our own
MAPPING_FLAGS = (
    *("mapping", "columns", "prompt_template", "label_values", "repeats", "impression", "views"),
    *("image_type", "keep"),
)


@dataclass
class TableConfig(PromptSettings):
    """Prepare any dataset that has a table."""

    table: Path
    """CSV, TSV, JSON, JSON lines, Parquet, .npz of MedMNIST; or a folder: a Hugging Face dataset on disk, an image
    folder, texts, or a folder of images per class"""
    images: Path
    """folder of the images or of their subfolders; images inside the table are unpacked to it"""
    join: Path | None = None
    """another table whose columns are used, too, joined by image: by a column that both have, or as the mapping says"""
    mapping: str | None = None
    """shipped mapping, such as chexpert, or a YAML file of one's own; flags override it"""
    columns: str = ""
    """ours=theirs, several joined by commas; ours: image, text, subject_id, study_id, dicom_id, view, split, class (one
    of several), labels (a list of findings), or a CheXpert label; theirs: a column, or a|b for the first that is not
    empty"""
    label_values: str = ""
    """what the cells of label columns mean: Yes=1,No=0,Unsure=-1"""
    repeats: Repeats | None = None
    """several rows of one image: refuse them, take the first, a label that any row has, or that of the majority"""
    impression: bool | None = None
    """the text is a whole report of which the impression is wanted"""
    views: str | None = None
    """views to keep: PA,AP, or frontal, or all; default: all, or what the mapping says"""
    keep: str = ""
    """columns of the table that metadata.csv gets, too, joined by commas: age,sex"""
    image_type: ImageType | None = field(default=None, kw_only=True)  # type: ignore[assignment]
    """radiograph, other grey pictures, or colour; default: radiograph, or what the mapping says"""
    min_chars: int = 1
    """shortest text to keep, in characters"""
    max_chars: int | None = None
    """longest text to keep, in characters"""
    prompt_template: list[str] | str = field(default="", kw_only=True)
    """prompt with columns in braces: "[{Age} year old {Sex}. ]{findings}."; what is in brackets is left out where one
    of its columns is empty; {findings}: the positive findings; of several, each image gets one"""
    validation_fraction: float = 0.1
    """share of the patients for validation; with a split column that has none, of those in train"""
    test_fraction: float = 0.1
    """share of the patients for testing, without a split column"""


def main(config: TableConfig) -> int:
    """Prepare the dataset; returns the exit code of `write_dataset`."""
    mapping = table_mapping.with_flags(
        table_mapping.load_mapping(config.mapping or (MEDMNIST if is_npz(config.table) else None)),
        config.columns,
        config.label_values,
        config.prompt_template,
        repeats=config.repeats,
        impression=config.impression,
        views=config.views,
        image_type=config.image_type,
        keep=[name.strip() for name in config.keep.split(",")] if config.keep else None,
    )
    check_templates(as_list(mapping.prompt_template))
    check_dropout(config.field_dropout, as_list(mapping.prompt_template))
    # How the table is read, whether flags or a file say so.
    flags = {name: value for name, value in recorded_settings(config, "table").items() if name not in MAPPING_FLAGS}
    settings = flags | table_mapping.as_settings(mapping)
    config.images, config.image_type = config.images.absolute(), mapping.image_type
    if mapping.masks_beside_images and config.masks is None:
        config.masks = config.images
    table = read_any_table(config.table, config.images) if may_unpack(config.table) else None
    files = list(image_files(config.images))
    inputs = input_states(config.images, files, table=config.table, join=config.join, masks=config.masks)
    if is_finished(config.output_dir, settings, inputs):
        return 0
    if table is None:
        table = read_any_table(config.table, config.images)
    if config.join is not None:
        table = join_table(table, config.join, mapping.join)
    if is_npz(config.table):
        refuse_enlarging(config.table, table, config.images, config.resolution)
    return write_dataset(config, settings, select(config, mapping, table, files), inputs)


def select(config: TableConfig, mapping: TableMapping, table: pd.DataFrame, files: list[Path]) -> Cohort:
    """Read the columns and filter; the rows are as `write_dataset` wants them.

    Args:
        config: the settings.
        mapping: as the flags and the mapping file say it.
        table: the table.
        files: the image files.

    Raises:
        UserError: a column is missing, a cell has no meaning, or no image is found.
    """
    where = config.table.name
    mapping = table_mapping.resolve(mapping, table, where)
    mapping, table = one_image_per_row(config, mapping, table, files)
    image = image_cells(mapping, table, where)
    labels, findings = read_findings(mapping, table, where)
    words = findings.add_prefix("words of ")
    found = find_images(image, files, config.images)
    keys = found.source.str.removeprefix(f"{config.images}/")  # scan.png and scan.dcm are two, if both are there
    keys = keys.where(keys != "", image.map(image_key))
    # Without an image, each is rejected for itself.
    keys = keys.mask(keys == "", "row " + keys.index.to_series().astype(str))
    merged = merge_rows(labels.join(words), keys, mapping.repeats, where)
    for ours in ("subject_id", "split", CLASS_COLUMN):
        if ours in mapping.columns and mapping.repeats != "first" and len(merged) < len(keys):
            check_repeats(_cells(mapping, table, ours).map(words_of), keys, ours, where)
    table, image, found = table.loc[merged.index], image[merged.index], Found(*(part[merged.index] for part in found))
    labels = merged[list(labels)]
    partly = labels.columns.isin(mapping.positive_only)
    labels = labels.mask((labels == 0) & partly)  # after the vote: a radiologist's 0 counts in it
    findings = merged[list(words)].set_axis(findings.columns, axis=1)

    view = column_cells(mapping, table, mapping.columns["view"]).map(view_of) if "view" in mapping.columns else ""
    cohort = Cohort(ids_of(mapping, table, image, config).assign(view=view).join(labels), "all rows")
    use_columns(mapping, cohort, table)
    _print_columns(mapping)
    cleaned = use_prompts(config, mapping, cohort, table, findings)
    _filter(config, mapping, cohort, image, found, files, cleaned)
    split = splits(config, mapping, table.loc[cohort.rows.index], cohort.rows["subject_id"])
    cohort.rows = cohort.rows.assign(split=split)
    cohort.apply("split", reason_where(split == "", "no split"))
    if config.limit is not None:
        cohort.apply(f"limit {config.limit:,}", limit_reasons(cohort.rows, config.limit, config.seed))
    return cohort


def _filter(
    config: TableConfig,
    mapping: TableMapping,
    cohort: Cohort,
    image: pd.Series,
    found: Found,
    files: list[Path],
    cleaned: pd.Series,
) -> None:
    """Drop rows without an image or text and those of other views; adds the column `source`."""
    n_found = int((found.source != "").sum())
    unread = list(unread_files(config.images)) if n_found < len(image) else []
    _print_found(config, image, found.source, files, unread)
    if n_loose := int(found.by_name.sum()):
        print(f"images: {n_loose:,} were found by their name alone, in other folders than the table says")
    cohort.rows = cohort.rows.assign(source=found.source)
    if n_found < len(image):
        named = find_unread(image.where(found.reason == "missing image", ""), unread, config.images)
        cohort.apply("image present", found.reason.mask(named != "", "format not read"), image.mask(named != "", named))
    if mapping.views != "all":
        _check_views(mapping, cohort.rows["view"])
        wanted = FRONTAL if mapping.views == "frontal" else [view_of(view) for view in mapping.views.split(",")]
        cohort.apply(f"view {mapping.views}", view_reasons(cohort.rows["view"], wanted), cohort.rows["view"])
    empty = "no impression" if mapping.impression else "no text"
    reasons = reason_where(cohort.rows["text"] == "", empty)
    cohort.apply("text", reasons.mask(cleaned[cohort.rows.index], "empty after cleaning"))
    if CLASS_COLUMN in mapping.columns:
        cohort.apply("class", reason_where(cohort.rows[CLASS_COLUMN] == "", "no class"))
    if config.min_chars > 1 or config.max_chars is not None:
        filter_lengths(cohort, config.min_chars, config.max_chars, "text")


# ---------------------------------------------------------------------------------------------------------------------
# Columns


def one_image_per_row(
    config: TableConfig, mapping: TableMapping, table: pd.DataFrame, files: list[Path]
) -> tuple[TableMapping, pd.DataFrame]:
    """The table with a row per image: of a cell that lists several (R2Gen), or of a study whose images are in a folder.

    Raises:
        UserError: no study of the table has images.
    """
    column = mapping.columns.get("image", "")
    if column in table:
        cells = table[column].map(lambda cell: parse_list(cell) if str(cell).lstrip().startswith("[") else cell)
        if cells.map(lambda cell: isinstance(cell, list)).any():
            return mapping, table.assign(**{column: cells}).explode(column, ignore_index=True).fillna({column: ""})
    named = column or "dicom_id" in mapping.columns
    if named or "study_id" not in mapping.path_patterns or "study_id" not in mapping.columns:
        return mapping, table
    paths = pd.Series([path.relative_to(config.images).as_posix() for path in files], dtype=object)
    of_path = first_group(paths, mapping.path_patterns["study_id"])
    of_row = read_ids(_cells(mapping, table, "study_id"))
    print_join("studies with images", of_row, set(of_path), "studies", f"--images {config.images}")
    images = pd.DataFrame({PATH: paths, "_study": of_path})[of_path != ""]  # or a row without a study had them all
    table = table.assign(_study=of_row).merge(images, on="_study", how="inner").drop(columns="_study")
    return replace(mapping, columns=mapping.columns | {"image": PATH}), table


def image_cells(mapping: TableMapping, table: pd.DataFrame, where: str) -> pd.Series:
    """What names the image of each row: the column of images, or else that of image ids."""
    ours = next((ours for ours in ("image", "dicom_id") if ours in mapping.columns), None)
    if ours is None:
        why = "which column names the images? say so with --columns image=…"
        raise UserError(missing_column("image", table.columns, why, where))
    cells = column_cells(mapping, table, mapping.columns[ours]).map(str)
    return first_group(cells, mapping.patterns["image"]) if "image" in mapping.patterns else cells


def _cells(mapping: TableMapping, table: pd.DataFrame, ours: str) -> pd.Series:
    """The cells of our column, or what its pattern takes of them."""
    cells = column_cells(mapping, table, mapping.columns[ours])
    return first_group(cells, mapping.patterns[ours]) if ours in mapping.patterns else cells


def ids_of(mapping: TableMapping, table: pd.DataFrame, image: pd.Series, config: TableConfig) -> pd.DataFrame:
    """Patient, study and image of each row; without a patient, a study is its own, and without a study an image."""
    ids = pd.DataFrame(index=table.index)
    for ours in IDS:
        cells = _cells(mapping, table, ours) if ours in mapping.columns else None
        if cells is None and ours in mapping.path_patterns:
            cells = first_group(image, mapping.path_patterns[ours])
        if cells is not None:
            read = read_patients if ours == "subject_id" else read_ids
            ids[ours] = read(cells, where=f"--table {config.table.name}")
    names, own = image_names(image), "studies" if "study_id" in ids else "images"
    ids["dicom_id"] = ids["dicom_id"].where(ids["dicom_id"] != "", names) if "dicom_id" in ids else names
    study_id = ids.get("study_id", ids["dicom_id"])
    ids["study_id"] = study_id.where(study_id != "", ids["dicom_id"])
    subject_id = ids.get("subject_id", pd.Series("", index=ids.index))
    if n_unknown := int((subject_id == "").sum()):
        print(
            f"warning: {n_unknown:,} of {len(ids):,} rows have no patient (--columns subject_id=…): each of these "
            f"{own} counts as a patient of its own, so that images of one patient may be in training and test",
            file=sys.stderr,
        )
    ids["subject_id"] = subject_id.where(subject_id != "", ids["study_id"])
    for ours in IDS:
        if ids[ours].str.fullmatch(LONG_NUMBER).any():  # of PadChest's patients
            ids[ours] = "n" + ids[ours]
    return ids[list(IDS)]


def use_columns(mapping: TableMapping, cohort: Cohort, table: pd.DataFrame) -> None:
    """Add the class of each row, "" where there is none, and the columns that are kept as they are.

    Numbers stay numbers of one type in all splits: `datasets.load_dataset` refuses splits of different types.
    """
    if CLASS_COLUMN in mapping.columns:
        names = column_cells(mapping, table, mapping.columns[CLASS_COLUMN]).map(words_of)
        cohort.rows = cohort.rows.assign(**{CLASS_COLUMN: names})
    kept = {name: column_cells(mapping, table, name).map(text_of) for name in mapping.keep}
    for name, cells in kept.items():
        numbers = pd.to_numeric(cells.mask(cells == ""), errors="coerce")
        kept[name] = numbers.astype("Float64") if numbers.notna().sum() == (cells != "").sum() else cells
    cohort.rows, cohort.extra = cohort.rows.assign(**kept), list(kept)


def use_prompts(
    config: TableConfig, mapping: TableMapping, cohort: Cohort, table: pd.DataFrame, findings: pd.DataFrame
) -> pd.Series:
    """Write the column `text`, "" where there is none; returns where cleaning has left nothing of it."""
    where, ids, templates = config.table.name, cohort.rows["dicom_id"], as_list(mapping.prompt_template)
    keep_persons(cohort, person_fields(table))
    if templates:
        fields, written = template_fields(templates, mapping, table, findings, ids, config.seed, where)
    else:
        fields, written = {"text": text_cells(mapping, table, where)}, ["text"]
    used = fields | {name: texts_in(fields[name], config.text) for name in written}
    if written:
        before, after = (pd.concat([columns[name] for name in written]) for columns in (fields, used))
        account_for(cohort, config.text, before, after)
    text = used.get("text", ids)
    if templates:
        text = pd.Series(
            write_prompts(templates, used, ids, config.seed, config.field_dropout), ids.index, dtype=object
        )
    cohort.rows = cohort.rows.assign(text=text)
    cleaned = [(fields[name] != "") & (used[name] == "") for name in written]
    return (text == "") & pd.concat(cleaned, axis=1).any(axis=1) if cleaned else text.map(lambda _: False)


def splits(config: TableConfig, mapping: TableMapping, table: pd.DataFrame, subject_id: pd.Series) -> pd.Series:
    """The split of each row: that of the column, or a random one by patient."""
    if "split" not in mapping.columns:
        return hash_splits(subject_id, config.validation_fraction, config.test_fraction, config.seed)
    split = split_names(_cells(mapping, table, "split"), config.table.name)
    if not (split == "validation").any():
        held_out = hash_order(subject_id, config.seed) < config.validation_fraction
        split = split.mask((split == "train") & held_out, "validation")
    return split


# ---------------------------------------------------------------------------------------------------------------------
# Words for the user


def _print_columns(mapping: TableMapping) -> None:
    """Print which column is what: some are taken because they bear our names."""
    named = {ours: theirs for ours, theirs in mapping.columns.items() if ours not in LABELS}
    named |= {"text": repr(mapping.prompt_template)} if mapping.prompt_template else {}
    n_labels = sum(ours in LABELS for ours in mapping.columns)
    told = ", ".join(f"{ours} = {theirs}" for ours, theirs in named.items())
    print(f"columns: {told}" + (f", {n_labels} label columns" if n_labels else ""))
    if "view" not in mapping.columns:
        print("views: no column tells them, so that lateral images, if there are any, are kept")


def _print_found(
    config: TableConfig, image: pd.Series, source: pd.Series, files: list[Path], unread: list[Path]
) -> None:
    """Print the share of images that were found; raise a `UserError` where none was."""
    n_found, missing = int((source != "").sum()), image[source == ""]
    line = f"images: {n_found:,} of the {len(image):,} that {config.table.name} names are in {config.images}"
    if len(missing):
        there = f"there is {files[0].relative_to(config.images).as_posix()}" if files else "it has no images"
        formats = f"; {len(unread):,} of formats that are not read, such as {unread[0].name}" if unread else ""
        line += f" (not found: {quoted(missing.iloc[0])}; {there}{formats})"
    if not n_found:
        raise UserError(line)
    if n_found < LEAST_SHARE * len(image):
        print(f"warning: {line}", file=sys.stderr)
    else:
        print(line)


def _check_views(mapping: TableMapping, found: pd.Series) -> None:
    if "view" not in mapping.columns:
        raise UserError(f"--views {mapping.views}: no column is the view: give --columns view=…, or --views all")
    wanted = FRONTAL if mapping.views == "frontal" else [view_of(view) for view in mapping.views.split(",")]
    if not found.isin(wanted).any():
        counts = found.map(lambda view: quoted(view) if view else "unknown").value_counts()
        there = ", ".join(f"{view} {n:,}" for view, n in counts.head(12).items())
        raise UserError(f"--views {mapping.views}: no image has such a view (there are: {there})")


if __name__ == "__main__":
    run(main)
