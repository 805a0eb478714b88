"""File layout of MIMIC-CXR and MIMIC-CXR-JPG: find and read images, tables and reports."""

import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import pandas as pd

from data_prep.official_sections import official_impression
from data_prep.raw_tables import read_csv
from data_prep.report_sections import impression
from data_prep.report_text import decode
from data_prep.workers import progress
from sdcxr.io.files import existing_folder
from sdcxr.io.manifest import LABELS
from sdcxr.runtime.errors import UserError

SectionRules = Literal["sdcxr", "official"]
TableName = Literal["metadata", "split", "chexpert"]

_IMAGE_COLUMNS = ["dicom_id", "subject_id", "study_id"]
_COLUMNS: dict[TableName, list[str]] = {
    "metadata": [*_IMAGE_COLUMNS, "ViewPosition"],
    "split": ["dicom_id", "split"],
    "chexpert": ["study_id", *LABELS],
}
_OPTIONAL_COLUMNS = ["ViewCodeSequence_CodeMeaning", "PerformedProcedureStepDescription"]
_SUFFIXES = (".jpg", ".dcm", ".dcm.gz")
_REPORT_MEMBER = re.compile(r"(?:^|/)p1[0-9]/p([0-9]+)/s([0-9]+)\.txt$")

# ---------------------------------------------------------------------------------------------------------------------
# Folders


def patient_root(folder: Path, flag: str) -> Path:
    """The folder with p10 … p19: `folder` itself or one up to three levels below it.

    Raises:
        UserError: none found, or `folder` does not exist.
    """
    level = [existing_folder(folder, flag)]
    for _ in range(4):
        for candidate in level:
            if any(path.is_dir() for path in candidate.glob("p1[0-9]")):
                return candidate
        level = [path for candidate in level for path in sorted(candidate.iterdir()) if path.is_dir()]
    raise UserError(
        f"{flag} {folder}: found no patient folders in it (looked for p10 … p19, as in files/p10/p10000032, "
        "up to three levels below)"
    )


def image_suffix(root: Path) -> str:
    """Suffix of the images below a patient root: that of the first study with images.

    Raises:
        UserError: found neither JPG nor DICOM files.
    """
    for study in root.glob("p1[0-9]/p*/s*/"):
        names = sorted(path.name for path in study.iterdir())
        if found := [suffix for name in names for suffix in _SUFFIXES if name.endswith(suffix)]:
            return found[0]
    raise UserError(f"--images {root}: found no image (looked for p1?/p*/s*/*.jpg, *.dcm and *.dcm.gz)")


def image_paths(root: Path, rows: pd.DataFrame, suffix: str) -> pd.Series:
    """Path of each image: p10/p10000032/s50414267/<dicom_id>.jpg below the patient root."""
    subject = rows["subject_id"]
    study = f"{root}/p" + subject.str[:2] + "/p" + subject + "/s" + rows["study_id"]
    return study + "/" + rows["dicom_id"] + suffix


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
                return path
    raise UserError(
        f"found no mimic-cxr-2.0.0-{name}.csv or .csv.gz in {', '.join(map(str, folders))}. "
        "It comes with MIMIC-CXR-JPG; give its folder with --tables."
    )


def read_table(name: TableName, path: Path) -> pd.DataFrame:
    """Read the columns that are used: ids and texts as str, empty where missing; labels as float.

    Raises:
        UserError: not a CSV table, or a column is missing; the message suggests which table it is instead.
    """
    required = _COLUMNS[name]
    header = list(read_csv(path, nrows=0).columns)
    if missing := [column for column in required if column not in header]:
        raise UserError(_missing_columns(name, path, missing, header))
    used = [column for column in header if column in required or column in _OPTIONAL_COLUMNS]
    types = {column: float if column in LABELS else str for column in used}
    return read_csv(path, usecols=used, dtype=types, na_values=dict.fromkeys(LABELS, ""))


def _missing_columns(name: TableName, path: Path, missing: list[str], header: list[str]) -> str:
    names = " and ".join(f'"{column}"' for column in missing[:3]) + (" and others" if len(missing) > 3 else "")
    message = f"{path.name} has no column {names} (it has: {', '.join(header)})."
    columns = set(header)
    if {"study_id", "path"} <= columns:
        kind = "cxr-record-list.csv" if "dicom_id" in columns else "cxr-study-list.csv"
        return f"{message} This looks like {kind} of MIMIC-CXR; the {name} table comes with MIMIC-CXR-JPG."
    if {"study", "impression"} <= columns:
        return f"{message} This looks like mimic_cxr_sectioned.csv; the {name} table comes with MIMIC-CXR-JPG."
    for other, required in _COLUMNS.items():
        if other != name and set(required) <= columns:
            return f"{message} This looks like the {other} table."
    return f"{message} The {name} table of MIMIC-CXR-JPG is mimic-cxr-2.0.0-{name}.csv."


# ---------------------------------------------------------------------------------------------------------------------
# Reports


def find_reports(path: Path) -> Path:
    """The archive of reports, or the folder with p10 … p19, from the value of --reports.

    Raises:
        UserError: no such file or folder, or no report in the folder.
    """
    if path.is_file():
        return path
    if (path / "mimic-cxr-reports.zip").is_file():
        return path / "mimic-cxr-reports.zip"
    root = patient_root(path, "--reports")
    if next(root.glob("p1[0-9]/p*/s*.txt"), None) is None:
        raise UserError(f"--reports {root} has no reports (looked for p1?/p*/s*.txt); MIMIC-CXR-JPG comes without")
    return root


def impressions(
    reports: Path, wanted: Mapping[str, str], rules: SectionRules = "sdcxr"
) -> Iterator[tuple[str, str | None]]:
    """The impression, or None, of every wanted study that has a report; reads one report at a time.

    Args:
        reports: the result of `find_reports`.
        wanted: subject_id by study_id.
        rules: ours (`report_sections`), or those of MIMIC-CXR's own parser (`official_sections`).

    Yields:
        (study_id, impression), each study once.

    Raises:
        UserError: the archive is not a zip archive, is damaged, or has no reports.
    """
    parse = impression if rules == "sdcxr" else official_impression
    read = _from_zip if reports.is_file() else _from_folder
    for study_id, text in progress(len(wanted), "reports", "report", read(reports, wanted)):
        yield study_id, parse(decode(text))


def _from_zip(path: Path, wanted: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise UserError(f"--reports {path} is neither a folder nor a complete zip archive") from None
    with archive:
        found = [(_REPORT_MEMBER.search(member.filename), member) for member in archive.infolist()]
        reports = [(match[1], match[2], member) for match, member in found if match]
        if not reports:
            raise UserError(f"--reports {path} has no reports (looked for files/p10/p10000032/s50414267.txt etc.)")
        seen = set()
        for subject_id, study_id, member in reports:
            if wanted.get(study_id) == subject_id and study_id not in seen:
                seen.add(study_id)
                try:
                    yield study_id, archive.read(member)
                except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
                    raise UserError(f"--reports {path} is damaged at s{study_id}.txt ({error}): get it again") from None


def _from_folder(root: Path, wanted: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    for study_id, subject_id in wanted.items():
        try:
            text = (root / f"p{subject_id[:2]}" / f"p{subject_id}" / f"s{study_id}.txt").read_bytes()
        except FileNotFoundError:
            continue
        yield study_id, text
