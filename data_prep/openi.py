"""Prepare the chest radiographs of Indiana University (Open-i), which are public.

    python -m data_prep.openi --images DIR --reports NLMCXR_reports.tgz --output_dir DIR
    python -m data_prep.openi --images DIR --reports ecgen-radiology --output_dir DIR --section findings --max_chars 300
    python -m data_prep.openi --images images/images_normalized --reports KAGGLE_DIR --output_dir DIR

Images are found by name at any depth of their folder. KAGGLE_DIR has indiana_reports.csv and indiana_projections.csv.
The XML reports do not tell which image is frontal; give a table that does with --views_table. The same command again
resumes. Exit code 1: more images were missing or unreadable than --max_rejected_fraction allows.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from data_prep.cohort import Cohort
from data_prep.filters import limit_reasons, reason_where
from data_prep.openi_reports import KAGGLE_PROJECTIONS, BadReport, Report, mesh_labels, read_reports
from data_prep.openi_views import FRONTAL_VIEWS, LATERAL_VIEWS, figure_views, image_key, read_views, study_views
from data_prep.prompts import PromptSettings, filter_lengths, use_templates, use_texts
from data_prep.raw_tables import index_images, warn_unnamed
from data_prep.sources import input_states
from data_prep.splits import hash_splits
from data_prep.writer import is_finished, recorded_settings, write_dataset
from sdcxr.io.ids import print_join
from sdcxr.io.manifest import LABELS
from sdcxr.runtime.cli import run
from sdcxr.text.fields import chexpert_findings, finding_fields, view_words

Views = Literal["frontal", "lateral", "all"]
UnknownViews = Literal["guess", "keep", "drop"]


@dataclass
class OpenIConfig(PromptSettings):
    """Prepare Open-i."""

    images: Path
    """folder of the images: NLMCXR_png, or Kaggle's images_normalized"""
    reports: Path
    """NLMCXR_reports.tgz, the folder of its XML files, or the folder of Kaggle's CSV tables"""
    section: Literal["impression", "findings"] = "impression"
    """section of the report to use as prompt"""
    min_chars: int = 7
    """shortest prompt to keep, in characters"""
    max_chars: int = 77
    """longest prompt to keep, in characters"""
    views: Views = "frontal"
    """views to keep"""
    unknown_views: UnknownViews = "guess"
    """images of unknown view: guess (the first figure of a report is frontal, others are lateral), keep, or drop"""
    views_table: Path | None = None
    """indiana_projections.csv (used automatically if next to indiana_reports.csv), or a table of DICOM headers with
    columns imageid and View Position, such as torchxrayvision's nlmcxr_dicom_metadata.csv.gz"""
    validation_fraction: float = 0.1
    """share of the reports for validation"""
    test_fraction: float = 0.1
    """share of the reports for testing"""
    max_rejected_fraction: float = field(default=0.05, kw_only=True)
    """share of missing or unreadable images above which the result is marked unusable (exit code 1)"""


def main(config: OpenIConfig) -> int:
    """Prepare Open-i; returns the exit code of `write_dataset`."""
    settings = recorded_settings(config, "openi")
    folder = config.images.absolute()
    images = index_images(folder, image_key)
    views = views_table(config)
    inputs = input_states(
        folder, images.by_name.values(), reports=config.reports, views_table=views, masks=config.masks
    )
    if is_finished(config.output_dir, settings, inputs):
        return 0
    cohort = select(config)
    named = pd.concat([cohort.rows["dicom_id"], cohort.rejected["dicom_id"].dropna()]).map(image_key)
    warn_unnamed(images, named, folder, f"the reports of {config.reports}")
    keys = cohort.rows["dicom_id"].map(image_key)
    print_join("images", keys, images, "images of the reports", f"--images {folder}")
    # One download has the whole collection: a missing image is a failure like an unreadable one.
    names = zip(keys, cohort.rows.pop("file"), cohort.rows["dicom_id"], strict=True)
    source = [str(images.file(key, file) or folder / f"{name}.png") for key, file, name in names]
    cohort.rows = cohort.rows.assign(source=source)
    return write_dataset(config, settings, cohort, inputs)


def select(config: OpenIConfig) -> Cohort:
    """Read the reports and filter them; the rows lack only the column `source`; `file` is as named."""
    table = views_table(config)
    views = read_views(table) if table else {}
    rows, broken = _read(config.reports, config.section, views)
    if table:
        print_join("views", rows["dicom_id"][rows["dicom_id"] != ""].map(image_key), views, "images", str(table))
    cohort = Cohort(rows, "all reports")
    cohort.reject(pd.DataFrame(index=range(len(broken))), "broken report", pd.Series(broken, dtype=object))
    cohort.apply("one report per uid", reason_where(rows["repeated"], "duplicate report"))
    cohort.apply(config.section, reason_where(cohort.rows["text"] == "", f"no {config.section}"))
    cohort.apply("report with images", reason_where(cohort.rows["dicom_id"] == "", "report without images"))

    reasons = _view_reasons(cohort.rows, config.views, config.unknown_views)
    cohort.apply(f"{config.views} views", reasons, cohort.rows["view"])

    use_texts(cohort, config.text)
    fields = {"text": cohort.rows["text"], "view": cohort.rows["view"].map(view_words)}
    findings = finding_fields(chexpert_findings(cohort.rows), cohort.rows["dicom_id"], config.seed)
    use_templates(cohort, config, fields | findings)
    filter_lengths(cohort, config.min_chars, config.max_chars, "prompt" if config.templates else config.section)

    if config.limit is not None:
        cohort.apply(f"limit {config.limit:,}", limit_reasons(cohort.rows, config.limit, config.seed))
    subjects = cohort.rows["subject_id"]
    split = hash_splits(subjects, config.validation_fraction, config.test_fraction, config.seed)
    cohort.rows = cohort.rows.drop(columns=["guess", "repeated"]).assign(split=split)
    return cohort


def views_table(config: OpenIConfig) -> Path | None:
    """The table of views: as given, or Kaggle's beside its reports."""
    if config.views_table is not None:
        return config.views_table
    projections = (config.reports if config.reports.is_dir() else config.reports.parent) / KAGGLE_PROJECTIONS
    return projections if projections.is_file() else None


def _read(source: Path, section: str, views: dict[str, str]) -> tuple[pd.DataFrame, list[str]]:
    """One row per image, or one for a report without images; and a message for each broken report."""
    rows: list[dict[str, Any]] = []
    broken: list[str] = []
    seen: set[str] = set()
    for where, report in read_reports(source):
        if isinstance(report, BadReport):
            broken.append(f"{where}: {report}")
            continue
        rows += _image_rows(report, section, views, repeated=report.uid in seen)
        seen.add(report.uid)
    columns = ["subject_id", "study_id", "dicom_id", "file", "text", "view", "guess", "repeated", *LABELS]
    return pd.DataFrame(rows, columns=columns), broken


def _image_rows(report: Report, section: str, views: dict[str, str], repeated: bool) -> Iterator[dict[str, Any]]:
    of_report = {
        "subject_id": report.uid,
        "study_id": report.uid,
        "text": report.sections.get(section, ""),
        "repeated": repeated,
        **mesh_labels(report.majors),
    }
    if not report.images:
        yield {**of_report, "dicom_id": "", "file": "", "view": "", "guess": ""}
    columns = (report.images, study_views(report.images, views), figure_views(report.figures))
    for name, view, guess in zip(*columns, strict=True):
        yield {**of_report, "dicom_id": name.split(".")[0], "file": name, "view": view, "guess": guess}


def _view_reasons(rows: pd.DataFrame, views: Views, unknown_views: UnknownViews) -> pd.Series:
    """Drop images of other views, and unknown ones according to `unknown_views`."""
    reasons = pd.Series("", index=rows.index, dtype=object)
    unknown = rows["view"] == ""
    if views != "all":
        wanted = FRONTAL_VIEWS if views == "frontal" else LATERAL_VIEWS
        reasons[~unknown & ~rows["view"].isin(wanted)] = "view not wanted"
        if unknown_views == "guess":
            reasons[unknown & ~rows["guess"].isin(wanted)] = "view not wanted, by guess"
    if unknown_views == "drop":
        reasons[unknown] = "view unknown"
    return reasons


if __name__ == "__main__":
    run(main)
