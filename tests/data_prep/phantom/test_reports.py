"""The phantom's reports: the words say what the picture shows, in MIMIC-CXR's layout."""

import re

import numpy as np
import pytest

from data_prep.phantom.anatomy import Findings, Sides, grade
from data_prep.phantom.reports import NORMAL, findings_section, impression, report
from data_prep.phantom.sampling import sample_findings

SEEDS = range(600)
KEYWORDS = {
    "pneumothorax": "pneumothorax",
    "effusion": "effusion",
    "cardiomegaly": "cardiomegaly|enlargement of the heart|enlarged heart",
    "edema": "edema",
    "consolidation": "consolidation",
    "atelectasis": "atelectasis",
    "lesion": "nodul",
    "pacemaker": "pacemaker",
    "tube": "endotracheal|ET tube",
    "line": "central venous line|central line|jugular catheter",
}
GRADE_WORDS = (
    "small|tiny|trace|mild|slight|minimal|mildly|slightly",
    "moderate|moderate-sized|medium-sized|moderately",
    "large|sizable|massive|severe|marked|extensive|severely|markedly",
)
Said = set[tuple[str, str, int | None]]


def read(text: str) -> tuple[Said, set[str]]:
    """The findings that a text of the grammar names, as (name, side, grade), and the names that it denies."""
    said: Said = set()
    denied: set[str] = set()
    for sentence in re.split(r"\.(?:\s|$)", re.sub(r"\b\d\. ", "", text)):
        clauses = [sentence]
        if not re.search(r"ilateral .*, [\w-]+ (on the )?(right|left) and ", sentence):  # of both sides
            clauses = re.split(r", (?=[\w-]+ \w)(?!concerning|compatible)| and ", sentence)
        for clause in clauses:
            names = [name for name, words in KEYWORDS.items() if re.search(f"(?i){words}", clause)]
            if re.match(r"No ", clause) or "or pneumothorax" in clause:
                denied.update(names)
                continue
            if re.search(r"[Nn]ormal", clause) and re.search(r"[Hh]eart", clause):
                denied.add("cardiomegaly")
            for name in names:
                said |= read_clause(name, clause)
    return said, denied


def read_clause(name: str, clause: str) -> Said:
    grades = [(m.start(), g) for g, words in enumerate(GRADE_WORDS) for m in re.finditer(rf"(?i)\b({words})\b", clause)]
    order = [g for _, g in sorted(grades)]
    if "ilateral" not in clause:
        side = re.search(r"(?i)\b(right|left)\b", clause)
        return {(name, side[1].lower() if side else "", order[0] if order else None)}
    sides = re.findall(r"\b(right|left)\b", clause) or ["right", "left"]
    graded = order if len(order) == 2 else (order or [None]) * 2
    return set(zip([name] * 2, sides, graded, strict=True))


def shown(findings: Findings) -> Said:
    """What the picture shows, in the terms of `read`."""
    said: Said = set()
    for name in ("effusion", "pneumothorax", "consolidation", "atelectasis", "lesion"):
        pair = getattr(findings, name)
        graded = name in ("effusion", "pneumothorax")
        said |= {(name, side, grade(pair.on(side)) if graded else None) for side in ("right", "left") if pair.on(side)}
    for name in ("cardiomegaly", "edema"):
        if severity := getattr(findings, name):
            said.add((name, "", grade(severity)))
    said |= {(name, side, None) for name in ("pacemaker", "line") if (side := getattr(findings, name))}
    return said | ({("tube", "", None)} if findings.tube else set())


def drawn(seed: int) -> tuple[Findings, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return sample_findings(rng), rng


@pytest.mark.parametrize("write", [impression, findings_section])
def test_texts_name_every_finding_with_side_and_grade_and_nothing_else(write) -> None:  # type: ignore[no-untyped-def]
    for seed in SEEDS:
        findings, rng = drawn(seed)
        text = write(findings, rng).text
        said, denied = read(text)
        assert said == shown(findings), text
        assert not denied & {name for name, _, _ in said}, text


def test_labels_are_what_the_words_say() -> None:
    label_of = {"effusion": "Pleural Effusion", "pneumothorax": "Pneumothorax", "lesion": "Lung Lesion"}
    label_of |= {"pacemaker": "Support Devices", "tube": "Support Devices", "line": "Support Devices"}
    seen = set()
    for seed in SEEDS:
        findings, rng = drawn(seed)
        wording = impression(findings, rng)
        said, denied = read(wording.text)
        present = {label_of.get(name, name.capitalize()) for name, _, _ in said}
        for label, value in wording.labels.items():
            seen.add((label, value))
            if label in ("Pneumonia", "Lung Opacity", "No Finding"):
                continue
            assert (label in present) == (value != 0), wording
            assert ("probable" in wording.text.lower()) or value != -1
        absent = {label_of.get(name, name.capitalize()) for name in denied}
        assert all(wording.labels.get(label, 0) == 0 for label in absent), wording
        assert present <= set(wording.labels)
        assert (wording.labels.get("No Finding") == 1) == findings.normal
    assert {("Pneumonia", -1), ("Pneumonia", 1), ("Atelectasis", -1), ("Pneumothorax", 0)} <= seen


def test_bilateral_effusions_keep_their_own_grades() -> None:
    findings = Findings(effusion=Sides(0.1, 0.9))
    for seed in range(30):
        text = impression(findings, np.random.default_rng(seed)).text
        assert read(text)[0] == {("effusion", "right", 0), ("effusion", "left", 2)}, text


def test_most_impressions_fit_77_characters_and_normal_ones_vary() -> None:
    lengths = []
    normal = set()
    for seed in SEEDS:
        findings, rng = drawn(seed)
        text = impression(findings, rng).text
        lengths.append(len(text))
        if findings == Findings(consolidation_zone=findings.consolidation_zone, lesion_zone=findings.lesion_zone):
            normal.add(text)
    assert np.mean([7 <= length <= 77 for length in lengths]) >= 0.75
    assert normal == set(NORMAL)


def test_reports_keep_mimic_s_layout_and_its_pitfalls_occur() -> None:
    texts = []
    for seed in SEEDS:
        findings, rng = drawn(seed)
        texts.append(report(findings, rng, "AP" if seed % 3 else "PA").text)
    for text in texts:
        lines = text.split("\n")
        assert lines.pop() == ""
        assert any(line == " " * 33 + "FINAL REPORT" for line in lines)
        assert all(line.startswith(" ") and len(line) <= 79 for line in lines), text
    for pitfall in (
        r"(?s)\A WET READ:.*\n _{70,}\n \n +FINAL REPORT\n",
        r"(?s)\A ADDENDUM:.*\n _{70,}\n",
        r"\n Impression: ",
        r"\n CONCLUSION: ",
        r"\n FINDINGS AND IMPRESSION: ",
        r"\n IMPRESSION:  None\.\n",
        r"(?s)\n IMPRESSION:.*\n IMPRESSION:",
        r"___",
    ):
        assert any(re.search(pitfall, text) for text in texts), pitfall
    without = [text for text in texts if not re.search("(?i)impression|conclusion", text)]
    assert 0.03 < len(without) / len(texts) < 0.15
