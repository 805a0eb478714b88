"""Templates of prompts: optional parts, the choice among several, dropout of fields, and what is refused."""

from collections import Counter

import pytest

from sdcxr.runtime.errors import UserError
from sdcxr.text.templates import as_list, as_recorded, check_fields, check_templates, prompt_of, write_prompts

ROW = {"age": "58", "sex": "male", "findings": "edema", "report": "Clear lungs.", "view": "PA", "race": ""}


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("{age} year old {sex}. {findings}.", "58 year old male. Edema."),
        ("[{age} year old {sex}. ]{findings}.", "58 year old male. Edema."),
        ("[{race} {sex}. ]{findings}.", "Edema."),
        ("{race} {findings}", ""),
        ("[{race}][ {sex}]", "Male"),
        ("{report}", "Clear lungs."),
        ("{report}. {view}", "Clear lungs. PA"),
        ("Chest radiograph of a {sex}", "Chest radiograph of a male"),
        ("a photo of a lung xray", "a photo of a lung xray"),
        ("a photo of a lung xray[ with {findings}]", "a photo of a lung xray with edema"),
        ("a photo of a lung xray[ with {race}]", "a photo of a lung xray"),
        ("[{view} view. ]{report}", "PA view. Clear lungs."),
        ("[{demographics}. ]{report}", "58 year old male. Clear lungs."),
    ],
)
def test_templates(template, prompt):
    check_templates([template])
    assert prompt_of(ROW, [template], "a") == prompt


@pytest.mark.parametrize(
    ("age", "race", "sex", "person"),
    [
        ("86", "WHITE", "female", "86 year old WHITE female. Normal."),
        ("86", "", "female", "86 year old female. Normal."),
        ("86", "", "", "86 year old patient. Normal."),
        ("", "ASIAN", "", "ASIAN patient. Normal."),
        ("", "", "male", "Male. Normal."),
        ("", "", "", "Normal."),
    ],
)
def test_the_person_is_as_in_roentgen_v2_with_what_is_known(age, race, sex, person):
    row = {"age": age, "race": race, "sex": sex, "text": "Normal."}
    assert prompt_of(row, ["[{demographics}. ]{text}"], "a") == person


def test_each_id_keeps_its_template_and_a_seed_gives_others():
    ids = [f"i{n}" for n in range(3000)]
    fields = {"text": ["Effusion."] * len(ids)}
    first, again, other = (write_prompts(["{text}", "CXR. {text}", "normal"], fields, ids, seed) for seed in (0, 0, 1))
    assert first == again and first != other
    assert first[1::3] == write_prompts(
        ["{text}", "CXR. {text}", "normal"], {"text": fields["text"][1::3]}, ids[1::3], 0
    )
    assert all(850 < n < 1150 for n in Counter(first).values()) and len(Counter(first)) == 3


def test_optional_fields_are_dropped_independently_and_others_never():
    ids = [f"i{n}" for n in range(4000)]
    fields = {"view": ["PA"] * 4000, "sex": ["male"] * 4000, "age": ["58"] * 4000, "text": ["Edema."] * 4000}
    found = Counter(write_prompts(["[{demographics}. ][{view} view. ]{text}"], fields, ids, 0, dropout=0.25))
    persons = {"58 year old male. ": 0.5625, "58 year old patient. ": 0.1875, "Male. ": 0.1875, "": 0.0625}
    expected = {
        person + view + "Edema.": share * of_view
        for person, share in persons.items()
        for view, of_view in (("PA view. ", 0.75), ("", 0.25))
    }
    assert found.keys() == expected.keys()
    assert all(abs(found[prompt] / 4000 - share) < 0.03 for prompt, share in expected.items())
    assert set(write_prompts(["{view} {text}"], fields, ids, 0, dropout=1)) == {"PA Edema."}


@pytest.mark.parametrize("template", ["{text", "text}", "[{text}", "{text}]", "[[{text}]]", "  "])
def test_a_template_with_unmatched_braces_is_one_line(template):
    with pytest.raises(UserError, match="expected text with fields in braces") as error:
        check_templates([template])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{findigs}.", r"unknown field 'findigs' \(there are: text, findings\): did you mean {findings}\?"),
        ("{text} {xyz}", r"unknown field 'xyz' \(there are: text, findings\)$"),
        ("findings", "would be the prompt itself: a field stands in braces, {findings}"),
    ],
)
def test_an_unknown_field_is_one_line_with_those_that_there_are(template, message):
    with pytest.raises(UserError, match=message):
        check_fields([template], ["text", "findings", "The lungs are clear."])


def test_one_template_is_recorded_as_text():
    assert as_recorded(["{text}"]) == as_recorded("{text}") == "{text}" and as_recorded(["a", "b"]) == ["a", "b"]
    assert as_list("") == as_list([]) == [] and as_list("a") == as_list(["a"]) == ["a"] and as_recorded([]) == ""


def test_what_a_report_says_is_not_touched():
    assert (
        prompt_of({"text": "Wait... 3.. 4", "view": "PA"}, ["[{view} view. ]{text}"], "a") == "PA view. Wait... 3.. 4"
    )
    assert prompt_of({"text": "Edema."}, ["{text}."], "a") == "Edema."
