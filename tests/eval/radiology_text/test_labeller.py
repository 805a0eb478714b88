"""Rule-based labels: positive, negated and uncertain mentions of findings in sentences and texts."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.radiology_text.labeller import label, label_table, sentences
from sdcxr.io.manifest import LABELS


def said(text):
    """The labels that a text has, without the absent ones."""
    return {name: value for name, value in label(text).items() if not math.isnan(value)}


def findings(text):
    return {name: value for name, value in said(text).items() if name != "No Finding"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Stated.
        ("Large left pneumothorax.", {"Pneumothorax": 1}),
        ("LARGE LEFT PNEUMOTHORAX", {"Pneumothorax": 1}),
        ("The heart is mildly enlarged.", {"Cardiomegaly": 1}),
        ("Marked enlargement of the cardiac silhouette.", {"Cardiomegaly": 1}),
        ("Widening of the mediastinum.", {"Enlarged Cardiomediastinum": 1}),
        ("Hydropneumothorax on the right.", {"Pneumothorax": 1, "Pleural Effusion": 1}),
        ("Collapse of the left lower lobe.", {"Atelectasis": 1}),
        ("Right-sided PICC line and endotracheal tube in good position.", {"Support Devices": 1}),
        ("Nodular opacity in the right apex.", {"Lung Lesion": 1}),
        ("Biapical pleural thickening.", {"Pleural Other": 1}),
        ("Old healed rib fractures.", {"Fracture": 1}),
        ("Patchy infiltrate at the left base.", {"Lung Opacity": 1}),
        ("Mild congestive heart failure.", {"Edema": 1}),
        # Denied before.
        ("No pneumothorax.", {"Pneumothorax": 0}),
        ("No evidence of pneumothorax or effusion.", {"Pneumothorax": 0, "Pleural Effusion": 0}),
        ("Without focal consolidation.", {"Consolidation": 0}),
        ("Negative for fracture.", {"Fracture": 0}),
        ("The lungs are free of edema and clear of infiltrates.", {"Edema": 0, "Lung Opacity": 0}),
        ("Neither effusion nor pneumothorax.", {"Pneumothorax": 0, "Pleural Effusion": 0}),
        ("Interval resolution of the right effusion.", {"Pleural Effusion": 0}),
        ("Interval removal of the endotracheal tube.", {"Support Devices": 0}),
        (
            "No consolidation, large effusion, or pneumothorax.",
            {"Consolidation": 0, "Pleural Effusion": 0, "Pneumothorax": 0},
        ),
        # Denied after.
        ("Pneumothorax is not seen.", {"Pneumothorax": 0}),
        ("The pneumothorax has resolved.", {"Pneumothorax": 0}),
        ("Effusion or pneumothorax is not identified.", {"Pleural Effusion": 0, "Pneumothorax": 0}),
        ("The previous effusion is no longer visible.", {"Pleural Effusion": 0}),
        ("Pneumonia has been ruled out.", {"Pneumonia": 0}),
        (
            "Consolidation, atelectasis, and effusion have cleared.",
            {"Consolidation": 0, "Atelectasis": 0, "Pleural Effusion": 0},
        ),
        ("No edema, large effusion/pneumothorax.", {"Edema": 0, "Pleural Effusion": 0, "Pneumothorax": 0}),
        # Normal structures.
        ("Heart size is within normal limits.", {"Cardiomegaly": 0}),
        ("Normal heart size.", {"Cardiomegaly": 0}),
        ("The heart is not enlarged.", {"Cardiomegaly": 0}),
        ("The cardiomediastinal silhouette is unremarkable.", {"Enlarged Cardiomediastinum": 0}),
        # Where a denial ends.
        ("No pneumothorax, small left effusion.", {"Pneumothorax": 0, "Pleural Effusion": 1}),
        ("No pneumothorax but moderate effusion.", {"Pneumothorax": 0, "Pleural Effusion": 1}),
        ("No edema; cardiomegaly.", {"Edema": 0, "Cardiomegaly": 1}),
        ("Stable cardiomegaly without edema.", {"Edema": 0, "Cardiomegaly": 1}),
        ("No pneumothorax. Effusion.", {"Pneumothorax": 0, "Pleural Effusion": 1}),
        ("Effusion is present, pneumothorax is not seen.", {"Pneumothorax": 0, "Pleural Effusion": 1}),
        ("No acute disease although there is a nodule.", {"Lung Lesion": 1}),
        ("No pneumothorax after placement of a chest tube.", {"Pneumothorax": 0, "Support Devices": 1}),
        # Denials that deny nothing about the finding.
        ("No significant change in the left effusion.", {"Pleural Effusion": 1}),
        ("No change in effusion or pneumothorax.", {"Pleural Effusion": 1, "Pneumothorax": 1}),
        ("The pneumothorax has not resolved.", {"Pneumothorax": 1}),
        ("Largely resolved effusion.", {"Pleural Effusion": 1}),
        ("Not without effusion.", {"Pleural Effusion": 1}),
        ("There is no doubt about the pneumothorax.", {"Pneumothorax": 1}),
        # Doubted.
        ("Possible pneumonia.", {"Pneumonia": -1}),
        ("Opacity that may represent atelectasis.", {"Lung Opacity": 1, "Atelectasis": -1}),
        ("Pneumonia cannot be excluded.", {"Pneumonia": -1}),
        ("Cannot exclude pneumonia.", {"Pneumonia": -1}),
        ("Pneumonia is not excluded.", {"Pneumonia": -1}),
        ("Consolidation suspicious for pneumonia.", {"Consolidation": 1, "Pneumonia": -1}),
        ("Consolidation, compatible with pneumonia.", {"Consolidation": 1, "Pneumonia": 1}),
        ("Atelectasis versus pneumonia.", {"Atelectasis": -1, "Pneumonia": -1}),
        ("Atelectasis vs. consolidation.", {"Atelectasis": -1, "Consolidation": -1}),
        ("Pneumonia is unlikely.", {"Pneumonia": -1}),
        ("Pneumonia is in the differential.", {"Pneumonia": -1}),
        ("Edema is difficult to entirely exclude.", {"Edema": -1}),
        ("Heart size at the upper limits of normal.", {"Cardiomegaly": -1}),
        ("Possible pneumonia, small effusion.", {"Pneumonia": -1, "Pleural Effusion": 1}),
        (
            "The differential includes edema, pneumonia, and atelectasis.",
            {"Edema": -1, "Pneumonia": -1, "Atelectasis": -1},
        ),
        # Stated beats doubted beats denied.
        ("No effusion on the left. Possible effusion on the right.", {"Pleural Effusion": -1}),
        ("Possible effusion on the left. Effusion on the right.", {"Pleural Effusion": 1}),
        # What only looks like a finding.
        ("Large pericardial effusion.", {}),
        ("History of pneumonia.", {}),
        ("No mass effect; subcutaneous edema.", {}),
        ("Please note that fractures may not be demonstrated.", {}),
        # Nothing to read.
        ("", {}),
        ("1. 2. 3.", {}),
    ],
)
def test_labels_of_sentences(text, expected):
    assert findings(text) == expected


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("No acute cardiopulmonary process.", True),
        ("Lungs are clear.", True),
        ("No effusion or pneumothorax.", True),
        ("Normal chest. Pacemaker in place.", True),  # devices are no finding
        ("No pneumothorax. Cardiomegaly.", False),
        ("Lungs are clear. Possible nodule.", False),
        ("Calcified granuloma. No acute disease.", False),  # another abnormality, which has no label
        ("Comparison with the last film.", False),  # says nothing
        ("Endotracheal tube has been removed.", False),
    ],
)
def test_no_finding_is_one_or_absent(text, normal):
    value = label(text)["No Finding"]
    assert value == 1 if normal else math.isnan(value)


def test_no_pneumothorax_is_not_pneumothorax():
    """The fault of labellers that search for words alone."""
    assert label("No pneumothorax.")["Pneumothorax"] == 0
    assert label("Pneumothorax.")["Pneumothorax"] == 1


def test_a_table_has_the_labels_by_name_and_a_row_per_text():
    table = label_table(["Pneumothorax.", "", "No edema; possible pneumonia."])
    assert list(table.columns) == list(LABELS)
    assert table["Pneumothorax"].tolist()[0] == 1
    assert table.iloc[1].isna().all()
    assert table["Pneumonia"].tolist()[2] == -1, "doubt stays doubt, not 0"
    assert label_table([]).shape == (0, 14)


def test_sentences_keep_numbers_and_abbreviations_together():
    assert sentences("1. Nodule of 3.5 cm. 2) Scar vs. mass.No change\n\nEffusion") == [
        "nodule of 3.5 cm",
        "scar vs mass",
        "no change",
        "effusion",
    ]


VOCABULARY = """
no not without pneumothorax effusion possible versus or and , . ; is seen heart size normal enlarged may be excluded
cannot small left ___ 1. resolved no longer consolidation nor 3.5 cm ( ) / : ? XXXX
"""
WORDS = st.sampled_from(VOCABULARY.split())


@given(st.one_of(st.text(), st.lists(WORDS, max_size=30).map(" ".join)))
def test_every_text_has_labels_whatever_its_case(text):
    found = label(text)
    assert list(found) == list(LABELS)
    assert all(value in (1, 0, -1) or math.isnan(value) for value in found.values())
    if text.isascii():
        assert repr(label(text.upper())) == repr(found) == repr(label(text.lower()))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "part", ["no ", "or ", "is, ", "-", "-a", "no effusion ", "effusion or ", "heart ", "possible "]
)
def test_repetitive_garbage_is_labelled(part):
    """Untrained generators repeat themselves; a pattern that backtracks exponentially would not end on that."""
    assert list(label("heart pleural" + part * 400 + " effusion")) == list(LABELS)
