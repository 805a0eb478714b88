"""ChestX-ray14: prompts and labels of findings and persons."""

from pathlib import Path

import pytest

from data_prep.nih14 import (
    FINDINGS,
    chexpert_labels,
    read_labels,
    select,
    template_of_parts,
)
from sdcxr.io.manifest import LABELS
from tests.data_prep.nih14_collection import SECOND_EDITION, config_for, write_collection


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    return write_collection(tmp_path)


def prompt_of_row(folder: Path, findings: list[str], age: str, sex: str, view: str, parts: list[str]) -> str:
    labels = "|".join(findings) or "No Finding"
    (folder / "labels.csv").write_text(SECOND_EDITION + f"00000001_000.png,{labels},0,1,{age},{sex},{view},1,1,1,1\n")
    return select(config_for(folder, prompt_template="+".join(parts)), {"00000001_000"}).rows["text"].iloc[0]


@pytest.mark.parametrize(
    ("given", "template"),
    [
        ("labels", "{findings}."),
        ("labels+view", "[{view} view. ]{findings}."),
        ("demographics+labels", "[{demographics}. ]{findings}."),
        ("a photo of a lung xray", "a photo of a lung xray"),
        (["{word}", "{findings}."], ["{word}", "{findings}."]),
    ],
)
def test_the_former_parts_of_a_prompt_are_templates(given, template):
    assert template_of_parts(given) == template


@pytest.mark.parametrize(
    ("findings", "parts", "prompt"),
    [
        ([], ["labels"], "No finding."),
        (["Pneumonia", "Infiltration"], ["labels"], "Pneumonia and infiltration."),
        (["Effusion", "Mass", "Nodule"], ["labels"], "Pleural effusion, lung mass and lung nodule."),
        ([], ["labels", "view", "demographics"], "58 year old male. PA view. No finding."),
    ],
)
def test_prompt(tmp_path, findings, parts, prompt):
    assert prompt_of_row(tmp_path, findings, "58", "M", "PA", parts) == prompt


@pytest.mark.parametrize(
    ("age", "sex", "view", "prompt"),
    [
        ("3", "", "AP", "3 year old patient. AP view. No finding."),
        ("58", "Male", "PA", "58 year old male. PA view. No finding."),
        ("411", " f ", "PA", "Female. PA view. No finding."),
        ("58", "unknown", "PA", "58 year old patient. PA view. No finding."),
    ],
)
def test_prompt_leaves_out_what_is_unknown(tmp_path, age, sex, view, prompt):
    assert prompt_of_row(tmp_path, [], age, sex, view, ["labels", "view", "demographics"]) == prompt


def test_one_of_several_findings_and_the_single_word(collection):
    rows = select(
        config_for(collection, prompt_template="{word}"), set(read_labels(collection / "labels.csv")["dicom_id"])
    ).rows
    assert rows["text"].value_counts().index.sort_values().tolist() == ["Normal", "Pleural effusion", "Pneumonia"]


def test_labels_of_a_normal_image_negate_only_what_nih_labels():
    labels = chexpert_labels([])
    assert labels["No Finding"] == 1
    assert {name for name, value in labels.items() if value == 0} == {
        "Atelectasis",
        "Cardiomegaly",
        "Consolidation",
        "Edema",
        "Lung Lesion",
        "Pleural Effusion",
        "Pneumonia",
        "Pneumothorax",
    }


@pytest.mark.parametrize(
    ("finding", "label"),
    [
        ("Effusion", "Pleural Effusion"),
        ("Mass", "Lung Lesion"),
        ("Nodule", "Lung Lesion"),
        ("Infiltration", "Lung Opacity"),
        ("Pleural_Thickening", "Pleural Other"),
        ("Edema", "Edema"),
    ],
)
def test_labels_of_a_finding(finding, label):
    assert {name for name, value in chexpert_labels([finding]).items() if value == 1} == {label}


@pytest.mark.parametrize("finding", FINDINGS)
def test_an_image_with_a_finding_is_not_no_finding(finding):
    labels = chexpert_labels([finding])
    assert labels["No Finding"] == 0 and set(labels) <= set(LABELS)
