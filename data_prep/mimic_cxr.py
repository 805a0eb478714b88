"""Prepare MIMIC-CXR: images with their impressions as prompts, filtered and split, in one dataset folder.

    python -m data_prep.mimic_cxr --images mimic-cxr-jpg/2.1.0 --reports mimic-cxr-reports.zip --output_dir DIR
    python -m data_prep.mimic_cxr --images mimic-cxr-jpg/2.1.0 --reports reports/ --output_dir DIR --views PA,AP
    python -m data_prep.mimic_cxr --images mimic-cxr/2.1.0 --tables mimic-cxr-jpg/2.1.0 …     # from the DICOM files

The defaults are RoentGen's: PA views, impressions of 7 to 77 characters, p10–p18 to train and p19 to test, 512 pixels.
The same command again resumes. Exit code 1: more images than --max_rejected_fraction allows could not be read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from data_prep import filters
from data_prep.filters import Cohort
from data_prep.images import SquareMode
from data_prep.mimic_files import (
    find_reports,
    image_paths,
    image_suffix,
    impressions,
    patient_root,
    read_table,
    table_path,
)
from data_prep.writer import check_settings, is_finished, recorded_settings, write_dataset
from sdcxr.io.manifest import IDS, LABELS
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.quiet import quiet_libraries


@dataclass
class MimicCxrConfig:
    """Prepare MIMIC-CXR."""

    images: Path
    """MIMIC-CXR-JPG's folder, or MIMIC-CXR's with the DICOM files: any level down to the one that holds p10 … p19"""
    reports: Path
    """mimic-cxr-reports.zip, its folder, or the folder it was unpacked to"""
    output_dir: Path
    """dataset folder to write"""
    tables: Path | None = None
    """folder of the metadata, split and chexpert tables of MIMIC-CXR-JPG; default: beside the images"""
    views: str = "PA"
    """view positions to keep, e.g. PA,AP; "all" keeps every image"""
    min_chars: int = 7
    """shortest impression to keep, in characters"""
    max_chars: int = 77
    """longest impression to keep, in characters"""
    max_tokens: int | None = None
    """longest impression to keep, in tokens of --tokenizer, start and end tokens counted"""
    tokenizer: str | None = None
    """tokenizer for --max_tokens: a local folder, or a name on the Hugging Face hub"""
    max_no_finding: int | None = 10005
    """most training images with the label No Finding; null for no cap"""
    split: Literal["folder", "official"] = "folder"
    """folder: p10–p18 train, p19 test; official: the split table of MIMIC-CXR-JPG"""
    validation_fraction: float = 0.02
    """share of the patients of p10–p18 set aside for validation, with --split folder"""
    resolution: int = 512
    """side of the written images in pixels"""
    square: SquareMode = "crop"
    """crop the centre, or pad with black"""
    limit: int | None = None
    """keep at most this many images, for a trial"""
    seed: int = 0
    """chooses the validation patients and what the caps keep"""
    workers: int = 0
    """processes that convert images; 0: one per core"""
    max_rejected_fraction: float = 0.05
    """share of unreadable images above which the result counts as unusable (exit code 1)"""

    def __post_init__(self) -> None:
        if (self.max_tokens is None) != (self.tokenizer is None):
            raise UserError("--max_tokens and --tokenizer belong together: name both or neither")
        if not 0 <= self.validation_fraction < 1:
            raise UserError(f"--validation_fraction {self.validation_fraction}: expected 0 or more and less than 1")
        if self.min_chars > self.max_chars:
            raise UserError(f"--min_chars {self.min_chars} is more than --max_chars {self.max_chars}")
        check_settings(self)


def main(config: MimicCxrConfig) -> int:
    """Prepare MIMIC-CXR as `config` says; returns the exit code of `write_dataset`."""
    settings = recorded_settings(config, "mimic_cxr")
    if is_finished(config.output_dir, settings):
        return 0
    root = patient_root(config.images.resolve(), "--images")
    suffix = image_suffix(root)
    reports = find_reports(config.reports)
    folders = [config.tables] if config.tables else [root, root.parent]
    cohort = select(config, folders, reports)
    rows = cohort.rows.assign(source=image_paths(root, cohort.rows, suffix))
    return write_dataset(config, settings, rows, cohort.rejected, cohort.counts)


def select(config: MimicCxrConfig, table_folders: list[Path], reports: Path) -> Cohort:
    """Join the tables and the reports, and filter. What is left has every column but `source`."""
    metadata_path = table_path("metadata", table_folders)
    labels_path = table_path("chexpert", table_folders)  # missed now, not after the reports are read
    cohort = Cohort(_read_metadata(metadata_path), "all images")
    incomplete = (cohort.rows[list(IDS)] == "").any(axis=1)
    if incomplete.any():
        cohort.apply("complete ids", filters.reason_where(incomplete, "row without an id"))

    if config.views != "all":
        views = [view.strip().upper() for view in config.views.split(",")]
        _check_views(views, cohort.rows["view"])
        cohort.apply(f"view {config.views}", filters.view_reasons(cohort.rows["view"], views), cohort.rows["view"])

    if config.split == "official":
        table = read_table("split", table_path("split", table_folders))
        split = filters.official_splits(cohort.rows["dicom_id"], table)
        missing = "not in the split table"
    else:
        split = filters.folder_splits(cohort.rows["subject_id"], config.validation_fraction, config.seed)
        missing = "patient of no folder p10 … p19"
    cohort.rows = cohort.rows.assign(split=split)
    cohort.apply(f"{config.split} split", split.map(lambda name: "" if name else missing))

    patients = cohort.rows.drop_duplicates("study_id")
    wanted = dict(zip(patients["study_id"], patients["subject_id"], strict=True))
    found = dict(impressions(reports, wanted))
    text = cohort.rows["study_id"].map(found)
    has_report = cohort.rows["study_id"].isin(found)
    cohort.rows = cohort.rows.assign(text=text)
    cohort.apply("report", has_report.map({True: "", False: "no report"}))
    cohort.apply("impression", cohort.rows["text"].notna().map({True: "", False: "no impression"}))

    length = cohort.rows["text"].str.len()
    reasons = filters.length_reasons(cohort.rows["text"], config.min_chars, config.max_chars)
    name = f"{config.min_chars} to {config.max_chars} characters"
    cohort.apply(name, reasons, length.astype(str) + " characters")
    if config.max_tokens is not None and config.tokenizer is not None:
        n_tokens = count_tokens(cohort.rows["text"], config.tokenizer)
        reasons = (n_tokens > config.max_tokens).map({True: "too many tokens", False: ""})
        cohort.apply(f"up to {config.max_tokens} tokens", reasons, n_tokens.astype(str) + " tokens")

    labels = read_table("chexpert", labels_path).drop_duplicates("study_id")
    cohort.rows = cohort.rows.merge(labels[["study_id", *LABELS]], on="study_id", how="left")
    if config.max_no_finding is not None:
        reasons = filters.cap_reasons(cohort.rows, config.max_no_finding, config.seed)
        cohort.apply(f"No Finding cap {config.max_no_finding:,}", reasons)
    if config.limit is not None:
        cohort.apply(f"limit {config.limit:,}", filters.limit_reasons(cohort.rows, config.limit, config.seed))

    shared = filters.shared_patients(cohort.rows)
    if shared:
        raise UserError(f"{len(shared)} patients are in more than one split (the first: {shared[0]}): check the tables")
    return cohort


def count_tokens(text: pd.Series, tokenizer: str) -> pd.Series:
    """The tokens of each text, start and end tokens included, as the text encoder's window counts them.

    Raises:
        UserError: there is no such tokenizer here, and none could be fetched.
    """
    from transformers import AutoTokenizer

    folder = Path(tokenizer).expanduser()
    if (folder / "tokenizer").is_dir():  # a whole Stable Diffusion pipeline
        folder = folder / "tokenizer"
    counts: list[int] = []
    texts = text.tolist()
    with quiet_libraries():  # else the tokenizer warns of each text beyond its window
        try:
            encode = AutoTokenizer.from_pretrained(str(folder) if folder.is_dir() else tokenizer)
        except (OSError, ValueError) as error:
            first_line = str(error).strip().splitlines()[0]
            raise UserError(
                f"--tokenizer {tokenizer}: neither a local folder with a tokenizer nor one that could be fetched from "
                f"the Hugging Face hub ({first_line})"
            ) from None
        for start in range(0, len(texts), 1000):
            counts += [len(ids) for ids in encode(texts[start : start + 1000])["input_ids"]]
    return pd.Series(counts, index=text.index, dtype=int)


def _read_metadata(path: Path) -> pd.DataFrame:
    metadata = read_table("metadata", path)
    return metadata[list(IDS)].assign(view=filters.repaired_views(metadata))


def _check_views(views: list[str], found: pd.Series) -> None:
    n_images = found.value_counts()
    unknown = [view for view in views if view not in n_images]
    if unknown:
        there = ", ".join(f"{view or 'unknown'} {n:,}" for view, n in n_images.items())
        raise UserError(f"--views {','.join(views)}: no image has the view {', '.join(unknown)} (there are: {there})")


if __name__ == "__main__":
    run(main)
