"""File layout of MIMIC-CXR and MIMIC-CXR-JPG: find and read images, tables and reports."""

import re
import sys
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

import pandas as pd

from data_prep.official_sections import official_impression
from data_prep.raw_tables import (
    OTHER_TABLE,
    check_not_empty,
    format_rank,
    image_stem,
    known_table,
    read_csv,
    warn_unnamed,
    whole_table,
)
from data_prep.report_sections import impression
from data_prep.report_text import decode
from data_prep.workers import progress
from sdcxr.io.files import existing_folder
from sdcxr.io.ids import print_join, read_ids, read_patients
from sdcxr.io.image_files import IMAGE_SUFFIXES, looks_like_image
from sdcxr.io.manifest import LABELS, with_labels
from sdcxr.runtime.errors import UserError

SectionRules = Literal["sdcxr", "official"]
TableName = Literal["metadata", "split", "chexpert"]
Study = tuple[str, str]  # subject_id, study_id

_IMAGE_COLUMNS = ["dicom_id", "subject_id", "study_id"]
_COLUMNS: dict[TableName, list[str]] = {
    "metadata": [*_IMAGE_COLUMNS, "ViewPosition"],
    "split": ["dicom_id", "split"],
    "chexpert": ["study_id", *LABELS],
}
_OPTIONAL_COLUMNS = ["subject_id", "ViewCodeSequence_CodeMeaning", "PerformedProcedureStepDescription"]
_ID_PREFIXES = {"subject_id": "p", "study_id": "s", "dicom_id": ""}
_REPORT_MEMBER = re.compile(r"(?:^|/)p1[0-9]/p([0-9]+)/s([0-9]+)\.txt$")

# ---------------------------------------------------------------------------------------------------------------------
# Folders


def patient_roots(folder: Path, flag: str) -> list[Path]:
    """The folders with p10 … p19: `folder` itself, or those up to three levels below it.

    Raises:
        UserError: none found, or `folder` does not exist.
    """
    level, roots = [existing_folder(folder, flag)], []
    for _ in range(4):
        roots += [candidate for candidate in level if any(path.is_dir() for path in candidate.glob("p1[0-9]"))]
        below = [candidate for candidate in level if candidate not in roots]
        level = [path for candidate in below for path in sorted(candidate.iterdir()) if path.is_dir()]
    if not roots:
        raise UserError(
            f"{flag} {folder}: found no patient folders in it (looked for p10 … p19, as in files/p10/p10000032, "
            "up to three levels below)"
        )
    return roots


def image_root(roots: list[Path]) -> Path:
    """The patient root that holds images; of several, one without DICOM files, which is said on stdout.

    Raises:
        UserError: none holds an image.
    """
    first = {root: name for root in roots if (name := _first_image(root))}
    if not first:
        there = " and ".join(map(str, roots))
        raise UserError(f"--images {there}: found no image (looked for p1?/p*/s*/*.jpg, *.png, *.dcm and *.dcm.gz)")
    root = next((root for root, name in first.items() if ".dcm" not in name.lower()), next(iter(first)))
    if len(first) > 1:
        others = ", ".join(str(other) for other in first if other != root)
        print(f"images: {root} is used, not {others}")
    return root


def _first_image(root: Path) -> str:
    for study in root.glob("p1[0-9]/p*/s*/"):
        if found := next((path.name for path in sorted(study.iterdir()) if looks_like_image(path)), None):
            return found
    return ""


def find_images(root: Path, rows: pd.DataFrame, metadata: pd.DataFrame) -> pd.Series:
    """Path of each image in p10/p10000032/s50414267 below the patient root, of any suffix; .jpg where it is missing.

    Warns on stderr of images and patients that are there and that the metadata table does not name.

    Raises:
        UserError: none of the images is there.
    """
    subject = rows["subject_id"]
    folders = f"{root}/p" + subject.str[:2] + "/p" + subject + "/s" + rows["study_id"]
    there: dict[str, dict[str, str]] = {folder: _images_in(folder) for folder in folders.unique()}
    stems = [stem for images in there.values() for stem in images]
    print_join("images", rows["dicom_id"], stems or [image_stem(_first_image(root))], "images", f"--images {root}")
    warn_unnamed(stems, metadata["dicom_id"], root, "the metadata table")
    named = set("p" + metadata["subject_id"])
    patients = [path.name for path in sorted(root.glob("p1[0-9]/p*/")) if path.name not in named]
    if patients:
        print(
            f"warning: {len(patients):,} patient folders in {root} are not named in the metadata table, such as "
            f"{patients[0]}: is the table whole?",
            file=sys.stderr,
        )
    names = [there[folder].get(name, f"{name}.jpg") for folder, name in zip(folders, rows["dicom_id"], strict=True)]
    return folders + "/" + pd.Series(names, index=rows.index, dtype=object)


def _images_in(folder: str) -> dict[str, str]:
    """Names of the image files of a folder by stem; of several formats the first of `IMAGE_SUFFIXES`."""
    try:
        images = [path for path in Path(folder).iterdir() if looks_like_image(path)]
    except OSError:
        return {}
    return {image_stem(path.name): path.name for path in sorted(images, key=format_rank, reverse=True)}


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def table_path(name: TableName, folders: list[Path]) -> Path:
    """Path of mimic-cxr-2.0.0-<name>.csv or .csv.gz (or a later version) in the first folder that has it.

    Raises:
        UserError: no folder has it.
    """
    for folder in folders:
        for pattern in (f"mimic-cxr-2.*-{name}.csv", f"mimic-cxr-2.*-{name}.csv.gz"):
            for path in sorted(folder.glob(pattern)):
                return whole_table(path)
    raise UserError(
        f"found no mimic-cxr-2.0.0-{name}.csv or .csv.gz in {', '.join(map(str, dict.fromkeys(folders)))}. "
        "It comes with MIMIC-CXR-JPG; give its folder with --tables."
    )


def read_table(name: TableName, path: Path) -> pd.DataFrame:
    """Read the columns that are used: ids and texts as str, empty where missing; labels as float.

    Raises:
        UserError: not a CSV table, one without rows or without a column (the message suggests which table it is
            instead), an id has lost digits, or a label is none (the message names its row).
    """
    required = _COLUMNS[name]
    header = list(read_csv(path, nrows=0).columns)
    if missing := [column for column in required if column not in header]:
        raise UserError(_missing_columns(name, path, missing, header))
    used = [column for column in header if column in required or column in _OPTIONAL_COLUMNS]
    table = read_csv(path, usecols=used)
    check_not_empty(table, path)
    for column, prefix in _ID_PREFIXES.items():
        if column in table:
            read = read_patients if column == "subject_id" else read_ids
            table[column] = read(table[column], prefix, f"{path}, {column}")
    if "dicom_id" in table and table["dicom_id"].str.lower().str.endswith(IMAGE_SUFFIXES).any():
        table["dicom_id"] = table["dicom_id"].map(image_stem)
    return with_labels(table, "study " + table["study_id"], str(path)) if name == "chexpert" else table


def _missing_columns(name: TableName, path: Path, missing: list[str], header: list[str]) -> str:
    names = " and ".join(f'"{column}"' for column in missing[:3]) + (" and others" if len(missing) > 3 else "")
    message = f"{path.name} has no column {names} (it has: {', '.join(header)})."
    columns = set(header)
    if {"study_id", "path"} <= columns:
        kind = "cxr-record-list.csv" if "dicom_id" in columns else "cxr-study-list.csv"
        return f"{message} This looks like {kind} of MIMIC-CXR; the {name} table comes with MIMIC-CXR-JPG."
    if {"study", "impression"} <= columns:
        return f"{message} This looks like mimic_cxr_sectioned.csv; the {name} table comes with MIMIC-CXR-JPG."
    if other_table := known_table(columns):
        return f"{message} {other_table}"
    for other, required in _COLUMNS.items():
        if other != name and set(required) <= columns:
            return f"{message} This looks like the {other} table."
    return f"{message} The {name} table of MIMIC-CXR-JPG is mimic-cxr-2.0.0-{name}.csv."


# ---------------------------------------------------------------------------------------------------------------------
# Reports


def find_reports(path: Path) -> Path:
    """The archive of reports, or the folder with p10 … p19, from the value of --reports.

    Raises:
        UserError: no such file or folder, a table, or no report in the folder.
    """
    if path.is_file():
        if path.name.lower().endswith((".csv", ".csv.gz", ".json", ".jsonl", ".tsv", ".parquet")):
            raise UserError(f"--reports {path} is a table: give mimic-cxr-reports.zip, or its folder; {OTHER_TABLE}")
        return path
    if (path / "mimic-cxr-reports.zip").is_file():
        return path / "mimic-cxr-reports.zip"
    roots = patient_roots(path, "--reports")
    root = next((root for root in roots if next(root.glob("p1[0-9]/p*/s*.txt"), None)), None)
    if root is None:
        raise UserError(f"--reports {roots[0]} has no reports (looked for p1?/p*/s*.txt); MIMIC-CXR-JPG comes without")
    return root


def impressions(
    reports: Path, wanted: Collection[Study], rules: SectionRules = "sdcxr"
) -> Iterator[tuple[Study, str | None]]:
    """The impression, or None, of every wanted study that has a report; reads one report at a time.

    Args:
        reports: the result of `find_reports`.
        wanted: (subject_id, study_id): a report belongs to both.
        rules: ours (`report_sections`), or those of MIMIC-CXR's own parser (`official_sections`).

    Yields:
        (study, impression), each study once.

    Raises:
        UserError: the archive is not a zip archive, is damaged, or has no reports.
    """
    parse = impression if rules == "sdcxr" else official_impression
    read = _from_zip if reports.is_file() else _from_folder
    for study, text in progress(len(wanted), "reports", "report", read(reports, wanted)):
        yield study, parse(decode(text))


def first_report(reports: Path) -> Study:
    """The first study that has a report."""
    if reports.is_file():
        with zipfile.ZipFile(reports) as archive:
            found = next(match for name in archive.namelist() if (match := _REPORT_MEMBER.search(name)))
    else:
        found = next(match for path in reports.glob("p1[0-9]/p*/s*.txt") if (match := _REPORT_MEMBER.search(str(path))))
    return found[1], found[2]


def _from_zip(path: Path, wanted: Collection[Study]) -> Iterator[tuple[Study, bytes]]:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise UserError(f"--reports {path} is neither a folder nor a complete zip archive") from None
    with archive:
        found = [(_REPORT_MEMBER.search(member.filename), member) for member in archive.infolist()]
        reports = [((match[1], match[2]), member) for match, member in found if match]
        if not reports:
            raise UserError(f"--reports {path} has no reports (looked for files/p10/p10000032/s50414267.txt etc.)")
        left = set(wanted)
        for study, member in reports:
            if study in left:
                left.remove(study)
                try:
                    yield study, archive.read(member)
                except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
                    raise UserError(f"--reports {path} is damaged at s{study[1]}.txt ({error}): get it again") from None


def _from_folder(root: Path, wanted: Collection[Study]) -> Iterator[tuple[Study, bytes]]:
    for subject_id, study_id in wanted:
        try:
            text = (root / f"p{subject_id[:2]}" / f"p{subject_id}" / f"s{study_id}.txt").read_bytes()
        except FileNotFoundError:
            continue
        yield (subject_id, study_id), text
