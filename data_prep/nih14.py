"""Prepare ChestX-ray14 of the NIH Clinical Center, with prompts composed from its labels (it has no reports).

    python -m data_prep.nih14 --images DIR --labels Data_Entry_2017_v2020.csv --output_dir DIR
    python -m data_prep.nih14 … --prompt_template "[{demographics}. ][{view} view. ]{findings}."
    python -m data_prep.nih14 … --train_list train_val_list.txt --test_list test_list.txt    # the official split

Images are found by name at any depth of DIR. A part of the dataset is enough: missing images are listed in rejected.csv
and do not count as failures. The same command again resumes. Exit code 1: more images were unreadable than
--max_rejected_fraction allows.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from data_prep.cohort import Cohort
from data_prep.filters import hash_order, limit_reasons, reason_where, view_reasons
from data_prep.prompts import PromptSettings, use_templates
from data_prep.raw_tables import image_stem, index_images, read_table, warn_unnamed, whole_table
from data_prep.sources import input_states
from data_prep.splits import hash_splits
from data_prep.writer import is_finished, recorded_settings, write_dataset
from sdcxr.io.ids import print_join, read_ids, read_patients
from sdcxr.io.manifest import LABELS
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError
from sdcxr.text.fields import NORMAL, age_words, finding_fields, person_fields, view_words
from sdcxr.text.templates import as_recorded

# NIH label → (words of the prompt, CheXpert label or "", whether the two mean the same). Where CheXpert's label is
# wider, absence of the NIH label does not make it negative. Emphysema, fibrosis and hernia have no counterpart.
FINDINGS: dict[str, tuple[str, str, bool]] = {
    "Atelectasis": ("atelectasis", "Atelectasis", True),
    "Cardiomegaly": ("cardiomegaly", "Cardiomegaly", True),
    "Consolidation": ("consolidation", "Consolidation", True),
    "Edema": ("pulmonary edema", "Edema", True),
    "Effusion": ("pleural effusion", "Pleural Effusion", True),
    "Emphysema": ("emphysema", "", False),
    "Fibrosis": ("pulmonary fibrosis", "", False),
    "Hernia": ("hernia", "", False),
    "Infiltration": ("infiltration", "Lung Opacity", False),
    "Mass": ("lung mass", "Lung Lesion", True),
    "Nodule": ("lung nodule", "Lung Lesion", True),
    "Pleural_Thickening": ("pleural thickening", "Pleural Other", False),
    "Pneumonia": ("pneumonia", "Pneumonia", True),
    "Pneumothorax": ("pneumothorax", "Pneumothorax", True),
}
NO_FINDING = "No Finding"
_SPELLED, _SPELLED_NO_FINDING = {name.casefold(): name for name in FINDINGS}, "no_finding"
VIEWS = ("PA", "AP")
LABELS_ONLY = "{findings}."
# --prompt of version 0.1, in its order: "58 year old male. PA view. Pneumonia and infiltration."
PROMPT_PARTS = {"demographics": "[{demographics}. ]", "view": "[{view} view. ]", "labels": LABELS_ONLY}


@dataclass
class Nih14Config(PromptSettings):
    """Prepare ChestX-ray14."""

    DEPRECATED: ClassVar[dict[str, str]] = {"prompt": "prompt_template"}

    images: Path
    """folder of the images or of their subfolders"""
    labels: Path
    """Data_Entry_2017_v2020.csv, or the first edition, Data_Entry_2017.csv"""
    views: str = "PA,AP"
    """view positions to keep: PA, AP, or both"""
    train_list: Path | None = None
    """official train_val_list.txt, together with --test_list; default: a random split by patient"""
    test_list: Path | None = None
    """official test_list.txt"""
    validation_fraction: float = 0.1
    """share of the patients for validation; with the official lists, of those in train_val_list.txt"""
    test_fraction: float = 0.1
    """share of the patients for testing, without the official lists"""
    prompt_template: list[str] | str = field(default=LABELS_ONLY, kw_only=True)
    """prompt with fields in braces: findings, finding, word, view, demographics, age, sex; of several each image gets
    one"""
    max_rejected_fraction: float = field(default=0.05, kw_only=True)
    """share of unreadable images above which the result is marked unusable (exit code 1); missing ones do not count"""

    def __post_init__(self) -> None:
        if (self.train_list is None) != (self.test_list is None):
            raise UserError("--train_list and --test_list belong together: give both or neither")
        self.prompt_template = template_of_parts(as_recorded(self.prompt_template))
        super().__post_init__()
        self.known_views()
        if self.text != "raw":
            raise UserError(
                f"--text {self.text}: ChestX-ray14 has no reports, its prompts are made of labels: leave it out"
            )

    def known_views(self) -> list[str]:
        """The views of --views; an unknown one is a `UserError`."""
        views = [view.strip() for view in self.views.split(",")]
        if not set(views) <= set(VIEWS):
            raise UserError(f"--views {self.views}: expected one or more of {', '.join(VIEWS)}, joined by ','")
        return views


def main(config: Nih14Config) -> int:
    """Prepare ChestX-ray14; returns the exit code of `write_dataset`."""
    settings = recorded_settings(config, "nih14")
    folder, config.labels = config.images.absolute(), whole_table(config.labels)
    images = index_images(folder)
    lists = {"train_list": config.train_list, "test_list": config.test_list}
    inputs = input_states(folder, images.by_name.values(), labels=config.labels, **lists, masks=config.masks)
    if is_finished(config.output_dir, settings, inputs):
        return 0
    cohort = select(config, images)
    names = zip(cohort.rows["dicom_id"], cohort.rows.pop("file"), strict=True)
    cohort.rows = cohort.rows.assign(source=[str(images.file(key, name)) for key, name in names])
    return write_dataset(config, settings, cohort, inputs)


def select(config: Nih14Config, images: Collection[str]) -> Cohort:
    """Read the table and filter it; the rows lack only the column `source` of `write_dataset`; `file` is as named.

    Args:
        config: the settings.
        images: stems of the images that exist.
    """
    table = read_labels(config.labels)
    cohort = Cohort(table, "all rows")
    print_join("images", table["dicom_id"], images, "images of the table", f"--images {config.images}")
    warn_unnamed(images, table["dicom_id"], config.images, config.labels.name)
    present = [name in images for name in table["dicom_id"]]
    # Many users download some of the twelve archives only: a missing image is not a failure.
    cohort.apply("image present", reason_where(~pd.Series(present, index=table.index), "missing image"))
    incomplete = (cohort.rows["subject_id"] == "") | cohort.rows["findings"].isna()
    cohort.apply("patient and labels", reason_where(incomplete, "no patient or unknown label"), cohort.rows["given"])
    reasons = view_reasons(cohort.rows["view"], config.known_views())
    cohort.apply(f"view {config.views}", reasons, cohort.rows["view"])

    split = _splits(config, cohort.rows)
    cohort.rows = cohort.rows.assign(split=split)
    cohort.apply("split", reason_where(split == "", "in neither official list"))
    if config.limit is not None:
        cohort.apply(f"limit {config.limit:,}", limit_reasons(cohort.rows, config.limit, config.seed))

    labels = pd.DataFrame(map(chexpert_labels, cohort.rows["findings"]), index=cohort.rows.index, columns=list(LABELS))
    words = [[FINDINGS[name][0] for name in names] or [NORMAL] for names in cohort.rows["findings"]]
    fields = {"view": cohort.rows["view"].map(view_words)}
    fields |= person_fields(cohort.rows) | finding_fields(words, cohort.rows["dicom_id"], config.seed)
    use_templates(cohort, config, fields)
    cohort.rows = cohort.rows.drop(columns=["findings", "given"]).join(labels)
    return cohort


def read_labels(path: Path) -> pd.DataFrame:
    """Read either edition of the table: ids, file, view, findings (None if one is unknown), labels as given, age, sex.

    Raises:
        UserError: it cannot be read, or is another table.
    """
    hint = "The table of ChestX-ray14 is Data_Entry_2017_v2020.csv, or Data_Entry_2017.csv in the first edition."
    columns = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position")
    table = read_table(path, columns, hint)
    sex = next((table[name] for name in ("Patient Gender", "Patient Sex") if name in table), pd.Series("", table.index))
    file = read_ids(table["Image Index"], where=f"{path}, Image Index")
    name = file.map(image_stem)
    return pd.DataFrame(
        {
            "subject_id": read_patients(table["Patient ID"], where=f"{path}, Patient ID"),
            "study_id": name,  # NIH numbers the images of a patient, not the examinations
            "dicom_id": name,
            "file": file,
            "view": table["View Position"].str.strip().str.upper(),
            "given": table["Finding Labels"],
            "findings": _objects(map(parse_findings, table["Finding Labels"])),
            "age": table["Patient Age"].map(age_words),
            "sex": sex,
        }
    )


def _objects(values: Iterable[Any]) -> pd.Series:
    """A series that keeps None and int: `Series.map` would make NaN and float of them."""
    return pd.Series(list(values), dtype=object)


def parse_findings(text: str) -> list[str] | None:
    """The labels of "Effusion|Pneumonia" in the given order, each once, [] for "No Finding"; None if one is unknown."""
    given = dict.fromkeys(" ".join(name.split()).casefold().replace(" ", "_") for name in text.split("|"))
    if list(given) == [_SPELLED_NO_FINDING]:
        return []
    return [_SPELLED[name] for name in given] if given.keys() <= _SPELLED.keys() else None


def template_of_parts(templates: list[str] | str) -> list[str] | str:
    """The template that parts such as "labels+view", the former --prompt, stand for; anything else as it is."""
    given = set(templates.split("+")) if isinstance(templates, str) else set()
    if not given <= PROMPT_PARTS.keys() or "labels" not in given:
        return templates
    return "".join(template for part, template in PROMPT_PARTS.items() if part in given)


def chexpert_labels(findings: list[str]) -> dict[str, int]:
    """CheXpert labels that the NIH labels determine: 1, 0, or no entry."""
    labels = {NO_FINDING: int(not findings)}
    for name, (_, label, same) in FINDINGS.items():
        if label and name in findings:
            labels[label] = 1
        elif label and same:
            labels.setdefault(label, 0)
    return labels


def _splits(config: Nih14Config, rows: pd.DataFrame) -> pd.Series:
    """The split of each row, "" for images in neither official list."""
    if config.train_list is None or config.test_list is None:
        return hash_splits(rows["subject_id"], config.validation_fraction, config.test_fraction, config.seed)
    train, test = (_read_list(path) for path in (config.train_list, config.test_list))
    where = f"{config.train_list} and {config.test_list.name}"
    print_join("official lists", rows["dicom_id"], sorted(train | test), "images", where)
    if both := train & test:
        raise UserError(f"{config.train_list} and {config.test_list} share {len(both)} images, such as {min(both)}")
    split = pd.Series("", index=rows.index, dtype=object)
    split[rows["dicom_id"].isin(train)] = "train"
    validation = hash_order(rows["subject_id"], config.seed) < config.validation_fraction
    split[(split == "train") & validation] = "validation"
    split[rows["dicom_id"].isin(test)] = "test"
    return split


def _read_list(path: Path) -> set[str]:
    try:
        return {image_stem(line) for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()}
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a list of image names ({error})") from None


if __name__ == "__main__":
    run(main)
