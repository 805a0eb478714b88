"""Prepare MIMIC-CXR: filter and split the images, with the impressions of their reports as prompts.

    python -m data_prep.mimic_cxr --images mimic-cxr-jpg/2.1.0 --reports mimic-cxr-reports.zip --output_dir DIR
    python -m data_prep.mimic_cxr --images mimic-cxr-jpg/2.1.0 --reports reports/ --output_dir DIR --views PA,AP
    python -m data_prep.mimic_cxr --images mimic-cxr/2.1.0 --tables mimic-cxr-jpg/2.1.0 …     # from the DICOM files

The defaults are those of RoentGen: PA views, impressions of 7 to 77 characters, p10–p18 for training, p19 for testing,
512 pixels. The same command again resumes. Exit code 1: more images were unreadable than --max_rejected_fraction
allows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd

from data_prep import filters, mimic_files
from data_prep.cohort import Cohort
from data_prep.mimic_files import TableName
from data_prep.prompts import PromptSettings, filter_lengths, use_templates, use_texts
from data_prep.raw_tables import read_table
from data_prep.sources import input_states
from data_prep.splits import folder_splits, official_splits
from data_prep.writer import is_finished, recorded_settings, write_dataset
from sdcxr.io.ids import print_join, read_ids
from sdcxr.io.manifest import IDS, LABELS
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError, first_line
from sdcxr.runtime.quiet import quiet_libraries
from sdcxr.text.fields import chexpert_findings, finding_fields, person_fields, view_words


@dataclass
class MimicCxrConfig(PromptSettings):
    """Prepare MIMIC-CXR."""

    images: Path
    """folder of MIMIC-CXR-JPG, or of MIMIC-CXR with the DICOM files: the one that has p10 … p19, or one above it"""
    reports: Path
    """mimic-cxr-reports.zip, the folder that has it, or the folder it was unpacked to"""
    tables: Path | None = None
    """folder of MIMIC-CXR-JPG's tables (metadata, split, chexpert); default: next to the images"""
    patients: Path | None = None
    """table with subject_id and age, sex or race for templates, such as patients.csv of MIMIC-IV"""
    views: str = "PA"
    """view positions to keep, e.g. PA,AP; "all" keeps every image"""
    section_rules: mimic_files.SectionRules = "sdcxr"
    """rules that find the impression of a report: sdcxr, or official, those of MIMIC-CXR's parser, flaws included"""
    min_chars: int = 7
    """shortest prompt to keep, in characters"""
    max_chars: int = 77
    """longest prompt to keep, in characters"""
    max_tokens: int | None = None
    """longest prompt to keep, in tokens of --tokenizer, including start and end tokens"""
    tokenizer: str | None = None
    """tokenizer for --max_tokens: a local folder, or a name on the Hugging Face hub"""
    max_no_finding: int | None = 10005
    """maximum number of training images with the label No Finding; null: no limit"""
    split: Literal["folder", "official"] = "folder"
    """folder: p10–p18 train, p19 test; official: the split table of MIMIC-CXR-JPG"""
    validation_fraction: float = 0.02
    """share of the patients of p10–p18 that are used for validation, with --split folder"""
    seed: int = field(default=0, kw_only=True)
    """random seed for the validation patients and for what --max_no_finding and --limit keep"""

    def __post_init__(self) -> None:
        if (self.max_tokens is None) != (self.tokenizer is None):
            raise UserError("--max_tokens and --tokenizer belong together: give both or neither")
        super().__post_init__()


def main(config: MimicCxrConfig) -> int:
    """Prepare MIMIC-CXR; returns the exit code of `write_dataset`."""
    settings = recorded_settings(config, "mimic_cxr")
    roots = mimic_files.patient_roots(config.images.resolve(), "--images")
    root, reports = mimic_files.image_root(roots), mimic_files.find_reports(config.reports)
    folders = [config.tables] if config.tables else [place for one in (root, *roots) for place in (one, one.parent)]
    names: list[TableName] = ["metadata", "chexpert"]
    names += ["split"] if config.split == "official" else []
    tables = {name: mimic_files.table_path(name, folders) for name in names}
    inputs = input_states(root, reports=reports, patients=config.patients, **tables, masks=config.masks)
    if is_finished(config.output_dir, settings, inputs):
        return 0
    metadata = mimic_files.read_table("metadata", tables["metadata"])
    cohort = select(config, metadata, tables, reports)
    cohort.rows = cohort.rows.assign(source=mimic_files.find_images(root, cohort.rows, metadata))
    return write_dataset(config, settings, cohort, inputs)


def select(config: MimicCxrConfig, metadata: pd.DataFrame, tables: Mapping[TableName, Path], reports: Path) -> Cohort:
    """Join tables and reports, and filter; the rows lack only the column `source` of `write_dataset`."""
    cohort = Cohort(metadata[list(IDS)].assign(view=filters.repaired_views(metadata)), "all images")
    incomplete = (cohort.rows[list(IDS)] == "").any(axis=1)
    if incomplete.any():
        cohort.apply("complete ids", filters.reason_where(incomplete, "row without an id"))

    if config.views != "all":
        views = [view.strip().upper() for view in config.views.split(",")]
        _check_views(views, cohort.rows["view"])
        cohort.apply(f"view {config.views}", filters.view_reasons(cohort.rows["view"], views), cohort.rows["view"])

    if config.split == "official":
        table = mimic_files.read_table("split", tables["split"])
        print_join("split", cohort.rows["dicom_id"], table["dicom_id"], "images", str(tables["split"]))
        split = official_splits(cohort.rows["dicom_id"], table)
        missing = "not in the split table"
    else:
        split = folder_splits(cohort.rows["subject_id"], config.validation_fraction, config.seed)
        missing = "patient of no folder p10 … p19"
    cohort.rows = cohort.rows.assign(split=split)
    cohort.apply(f"{config.split} split", filters.reason_where(split == "", missing))

    studies = list(zip(cohort.rows["subject_id"], cohort.rows["study_id"], strict=True))
    found = dict(mimic_files.impressions(reports, set(studies), config.section_rules))
    known = found or [mimic_files.first_report(reports)]
    names = pd.Series(studies, dtype=object).map(_study_name)
    print_join("reports", names, [_study_name(study) for study in known], "studies", f"--reports {reports}")
    texts = pd.Series([found.get(study) for study in studies], index=cohort.rows.index, dtype=object)
    missing_report = pd.Series([study not in found for study in studies], index=cohort.rows.index, dtype=bool)
    cohort.rows = cohort.rows.assign(text=texts)
    cohort.apply("report", filters.reason_where(missing_report, "no report"))
    cohort.apply("impression", filters.reason_where(cohort.rows["text"].isna(), "no impression"))

    use_texts(cohort, config.text)

    labels = mimic_files.read_table("chexpert", tables["chexpert"])
    print_join("chexpert", metadata["study_id"], labels["study_id"], "studies", str(tables["chexpert"]))
    keys = [name for name in ("subject_id", "study_id") if name in labels]
    cohort.rows = cohort.rows.merge(labels[[*keys, *LABELS]].drop_duplicates(keys), on=keys, how="left")
    use_templates(cohort, config, _fields(config, cohort.rows))
    filter_lengths(cohort, config.min_chars, config.max_chars, "prompt" if config.templates else "impression")
    if config.max_tokens is not None and config.tokenizer is not None:
        n_tokens = count_tokens(cohort.rows["text"], config.tokenizer)
        reasons = filters.reason_where(n_tokens > config.max_tokens, "too many tokens")
        cohort.apply(f"up to {config.max_tokens} tokens", reasons, n_tokens.astype(str) + " tokens")

    if config.max_no_finding is not None:
        reasons = filters.cap_reasons(cohort.rows, config.max_no_finding, config.seed)
        cohort.apply(f"No Finding cap {config.max_no_finding:,}", reasons)
    if config.limit is not None:
        cohort.apply(f"limit {config.limit:,}", filters.limit_reasons(cohort.rows, config.limit, config.seed))
    return cohort


def _fields(config: MimicCxrConfig, rows: pd.DataFrame) -> dict[str, pd.Series]:
    """What a template can name: text, view, findings, and with --patients the person."""
    fields = {"text": rows["text"], "view": rows["view"].map(view_words)}
    fields |= finding_fields(chexpert_findings(rows), rows["dicom_id"], config.seed)
    if config.patients is not None:
        table = read_table(config.patients, ("subject_id",))
        table = table.assign(subject_id=read_ids(table["subject_id"], "p", where=f"{config.patients}, subject_id"))
        table = table.drop_duplicates("subject_id").set_index("subject_id")
        print_join("patients", rows["subject_id"], table.index, "images", f"--patients {config.patients}")
        people = person_fields(table)
        fields |= {name: rows["subject_id"].map(words).fillna("") for name, words in people.items()}
    return fields


def count_tokens(text: pd.Series, tokenizer: str) -> pd.Series:
    """Number of tokens of each text, including start and end tokens, which count for the text encoder's window.

    Raises:
        UserError: the tokenizer is neither a local folder nor on the hub.
    """
    from transformers import AutoTokenizer

    folder = Path(tokenizer).expanduser()
    if (folder / "tokenizer").is_dir():  # a whole Stable Diffusion pipeline
        folder = folder / "tokenizer"
    counts: list[int] = []
    texts = text.tolist()
    with quiet_libraries():  # the tokenizer warns about texts beyond its window
        try:
            encode = AutoTokenizer.from_pretrained(str(folder) if folder.is_dir() else tokenizer)
        except (OSError, ValueError) as error:
            raise UserError(
                f"--tokenizer {tokenizer}: neither a local folder with a tokenizer nor one that could be fetched from "
                f"the Hugging Face hub ({first_line(error)})"
            ) from None
        for start in range(0, len(texts), 1000):
            counts += [len(ids) for ids in encode(texts[start : start + 1000])["input_ids"]]
    return pd.Series(counts, index=text.index, dtype=int)


def _study_name(study: mimic_files.Study) -> str:
    return f"p{study[0]}/s{study[1]}"


def _check_views(views: list[str], found: pd.Series) -> None:
    n_images = found.value_counts()
    if unknown := [view for view in views if view not in n_images]:
        there = ", ".join(f"{view or 'unknown'} {n:,}" for view, n in n_images.items())
        raise UserError(f"--views {','.join(views)}: no image has the view {', '.join(unknown)} (there are: {there})")


if __name__ == "__main__":
    run(main)
