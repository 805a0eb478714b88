"""Prompts of rows: fields from columns, labels and persons; one prompt for each row, or another at every draw."""

import json

import pandas as pd
import pytest

from sdcxr.runtime.errors import UserError
from sdcxr.text.prompt_writer import PromptWriter, note_on_text, prompts_of

ROWS = pd.DataFrame(
    {
        "id": ["a", "b"],
        "text": ["Mild edema.", "Normal."],
        "view": ["AP", "unknown"],
        "age": ["86.0", ""],
        "sex": ["female", "male"],
        "Edema": [1.0, 0.0],
        "Pneumonia": [1.0, None],
        "No Finding": [None, 1.0],
    }
)


def test_a_row_has_its_columns_labels_and_person_as_fields():
    templates = ["[{demographics}. ][{view} view. ]{text}"]
    assert prompts_of(ROWS, templates, 0) == ["86 year old female. AP view. Mild edema.", "Male. Normal."]
    assert prompts_of(ROWS, ["{findings}."], 0) == ["Edema and pneumonia.", "No finding."]
    assert prompts_of(ROWS.assign(findings=["x", "y"]), ["{findings}"], 0) == ["X", "Y"]  # a column comes first
    assert prompts_of(ROWS, ["a chest xray"], 0) == ["a chest xray"] * 2


@pytest.mark.slow
def test_every_name_is_another_draw_of_template_finding_and_dropped_fields():
    writer = PromptWriter(ROWS, ["[{age} years. ][{view}. ]{text}", "{finding}"], seed=3, dropout=0.5)
    drawn = [writer.prompt(0, str(n)) for n in range(400)]
    assert drawn == [writer.prompt(0, str(n)) for n in range(400)]
    assert drawn != [PromptWriter(ROWS, writer.templates, 4, 0.5).prompt(0, str(n)) for n in range(400)]
    shares = pd.Series(drawn).value_counts(normalize=True)
    rest = ["86 years. AP. Mild edema.", "86 years. Mild edema.", "AP. Mild edema.", "Mild edema."]
    assert shares.index.size == 6
    assert shares[["Edema", "Pneumonia"]].to_numpy() == pytest.approx(0.25, abs=0.07)
    assert shares[rest].to_numpy() == pytest.approx(0.125, abs=0.05)


def test_what_a_template_cannot_say_is_one_line():
    with pytest.raises(UserError, match=r"unknown field 'vew' .*did you mean \{view\}\?"):
        PromptWriter(ROWS, ["{vew}"], 0)
    with pytest.raises(UserError, match=r"'\{age\}\.': a field outside brackets is empty for b \(1 of 2\)"):
        prompts_of(ROWS, ["{age}."], 0)
    with pytest.raises(UserError, match="unknown field 'finding'"):
        PromptWriter(ROWS[["id", "text"]], ["{finding}"], 0)


def test_a_text_that_preparation_wrote_by_a_template_is_noted(tmp_path):
    assert note_on_text(tmp_path / "train", ["{text}"]) == ""
    (tmp_path / "prep.json").write_text(json.dumps({"settings": {"prompt_template": "{findings}."}}))
    assert note_on_text(tmp_path / "train", ["{view}"]) == ""
    assert "wrote by '{findings}.'" in note_on_text(tmp_path / "train", ["{view}", "{text}"])
    (tmp_path / "prep.json").write_text(json.dumps({"settings": {"prompt_template": ""}}))
    assert note_on_text(tmp_path / "train", ["{text}"]) == ""
