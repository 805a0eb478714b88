"""Radiology reports for phantoms from a small phrase grammar, in the layout of MIMIC-CXR's reports.

The impression names every visible finding with side and grade, and negates only findings that are absent.
"""

import textwrap
from dataclasses import dataclass, field

import numpy as np

from data_prep.phantom.anatomy import SIDES, Findings, Sides, grade

SIZES = (("small", "tiny", "trace"), ("moderate", "moderate-sized", "medium-sized"), ("large", "sizable", "massive"))
DEGREES = (("mild", "slight", "minimal"), ("moderate",), ("severe", "marked", "extensive"))
LABEL_OF = {"effusion": "Pleural Effusion", "pneumothorax": "Pneumothorax", "consolidation": "Consolidation"}
LABEL_OF |= {"atelectasis": "Atelectasis", "lesion": "Lung Lesion", "cardiomegaly": "Cardiomegaly", "edema": "Edema"}
NORMAL = (
    "No acute cardiopulmonary process.",
    "No acute cardiopulmonary abnormality.",
    "Normal chest radiograph.",
    "Normal chest.",
    "No evidence of acute disease.",
    "No acute intrathoracic process.",
    "Clear lungs. Normal heart size.",
    "No radiographic evidence of acute disease in the chest.",
    "Unremarkable chest radiograph.",
    "Lungs are clear. No effusion or pneumothorax.",
    "No acute findings.",
)
DENIED = {
    "pneumothorax": ("No pneumothorax.", "No evidence of pneumothorax."),
    "effusion": ("No pleural effusion.", "No effusion."),
    "consolidation": ("No focal consolidation.",),
    "edema": ("No pulmonary edema.", "No edema."),
    "cardiomegaly": ("Normal heart size.", "Heart size is normal."),
}
CLOSING = (
    "Follow-up radiographs are suggested if symptoms persist or change in the coming days.",
    "These results were telephoned to the referring team by ___ at the time of interpretation.",
    "Clinical correlation is advised, and short-term follow-up is at the discretion of the referring team.",
)


@dataclass
class Wording:
    """A text and the CheXpert labels that it states: 1 positive, 0 negated, -1 uncertain."""

    text: str
    labels: dict[str, float] = field(default_factory=dict)


def _pick(rng: np.random.Generator, values: tuple[str, ...]) -> str:
    # The first of each list is the most common one.
    weights = np.array([3.0] + [1.0] * (len(values) - 1))
    return values[int(rng.choice(len(values), p=weights / weights.sum()))]


def _sized(noun: str, pair: Sides, rng: np.random.Generator, plural: str | None = None) -> list[str]:
    """Phrases for a finding with side and size, such as "moderate right pleural effusion"."""
    words = {side: _pick(rng, SIZES[grade(pair.on(side))]) for side in SIDES if pair.on(side)}
    if len(words) == 2 and plural:
        if grade(pair.right) == grade(pair.left):
            return [f"{words['right']} bilateral {plural}"]
        if rng.random() < 0.5:
            return [f"bilateral {plural}, {words['right']} on the right and {words['left']} on the left"]
        larger, smaller = SIDES if pair.right > pair.left else SIDES[::-1]
        return [f"bilateral {plural}, {words[larger]} {larger} and {words[smaller]} {smaller}"]
    forms = ("{0} {1} {2}", "{0} {1} {2}", "{0} {1}-sided {2}", "{1} {2}, {0}")
    form = forms[int(rng.integers(len(forms)))]
    return [form.format(word, side, noun) for side, word in words.items()]


def phrases(findings: Findings, rng: np.random.Generator) -> tuple[list[str], dict[str, float]]:
    """One phrase per finding, most important first, without capital or full stop; and the labels that they state."""
    found: list[str] = []
    labels: dict[str, float] = {}

    def say(names: list[str], **carried: float) -> None:
        found.extend(names)
        labels.update({name.replace("_", " "): float(value) for name, value in carried.items()})

    if any(findings.pneumothorax):
        say(_sized("pneumothorax", findings.pneumothorax, rng), Pneumothorax=1)
    if any(findings.effusion):
        noun = _pick(rng, ("pleural effusion", "effusion"))
        say(_sized(noun, findings.effusion, rng, noun + "s"), Pleural_Effusion=1)
    if findings.cardiomegaly:
        word = _pick(rng, (("mild", "slight"), ("moderate",), ("severe", "marked"))[grade(findings.cardiomegaly)])
        others = (f"{word} enlargement of the heart", f"{word}ly enlarged heart")
        say([_pick(rng, (f"{word} cardiomegaly", f"{word} cardiomegaly", *others))], Cardiomegaly=1)
    if findings.edema:
        word = _pick(rng, DEGREES[grade(findings.edema)])
        forms = (f"{word} pulmonary edema", f"{word} interstitial edema", f"{word} edema")
        say([_pick(rng, forms)], Edema=1, Lung_Opacity=1)
    if any(findings.consolidation):
        zone = findings.consolidation_zone
        noun = _pick(rng, (f"{zone} lung consolidation", f"{zone} zone consolidation"))
        hedge = int(rng.integers(4))
        tail = ("", ", concerning for pneumonia", ", compatible with pneumonia", "")[hedge]
        say([phrase + tail for phrase in _sided(noun, findings.consolidation)], Consolidation=1, Lung_Opacity=1)
        if tail:
            labels["Pneumonia"] = -1.0 if hedge == 1 else 1.0
    if any(findings.atelectasis):
        noun = _pick(rng, ("basilar atelectasis", "basal plate-like atelectasis", "lower lobe atelectasis"))
        doubtful = rng.random() < 0.15
        names = [f"probable {name}" if doubtful else name for name in _sided(noun, findings.atelectasis)]
        say(names, Atelectasis=-1 if doubtful else 1)
    if any(findings.lesion):
        zone = findings.lesion_zone
        noun = _pick(rng, (f"{zone} lung nodule", f"{zone} zone nodule", f"{zone} lung nodular opacity"))
        say(_sided(noun, findings.lesion), Lung_Lesion=1)
    if findings.pacemaker:
        noun = _pick(rng, ("pacemaker", "pectoral pacemaker", "chest wall pacemaker"))
        say([f"{findings.pacemaker} {noun}"], Support_Devices=1)
    if findings.tube:
        tube = ("endotracheal tube in place", "endotracheal tube in standard position", "ET tube above the carina")
        say([_pick(rng, tube)], Support_Devices=1)
    if findings.line:
        line = ("central venous line", "jugular central line", "internal jugular catheter")
        say([f"{findings.line} {_pick(rng, line)}"], Support_Devices=1)
    return found, labels


def _sided(noun: str, pair: Sides) -> list[str]:
    if pair.right and pair.left:
        return [f"bilateral {noun}"]
    return [f"{side} {noun}" for side in SIDES if pair.on(side)]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def impression(findings: Findings, rng: np.random.Generator) -> Wording:
    """The impression of a study on one line, and the labels that it states.

    Every finding and device is named; only absent findings are negated. Most impressions have 7 to 77 characters, the
    usual filter for CLIP's window of 77 tokens; some are longer.
    """
    wording = _impression(findings, rng)
    for _ in range(2):
        if len(wording.text) > 77:  # another wording may be shorter
            wording = _impression(findings, rng)
    if not findings.normal and rng.random() < 0.06:
        wording.text += " " + CLOSING[int(rng.integers(len(CLOSING)))]
    return wording


def _impression(findings: Findings, rng: np.random.Generator) -> Wording:
    names, labels = phrases(findings, rng)
    if findings.normal:
        words = _pick(rng, NORMAL)
        labels["No Finding"] = 1.0
        if "effusion or pneumothorax" in words:
            labels |= {"Pleural Effusion": 0.0, "Pneumothorax": 0.0}
        if "Normal heart size" in words:
            labels["Cardiomegaly"] = 0.0
        return Wording(" ".join([words, *(_sentence(name) for name in names)]), labels)
    sentences = [_sentence(name) for name in names]
    if len(names) > 1 and rng.random() < 0.3 and not any("," in name or " and " in name for name in names):
        sentences = [_sentence(", ".join(names[:-1]) + " and " + names[-1])]
    text = " ".join(sentences)
    absent = [name for name in DENIED if not _present(findings, name)]
    if len(sentences) > 1 and rng.random() < 0.1:
        text = " ".join(f"{i}. {sentence}" for i, sentence in enumerate(sentences, 1))
    elif absent and len(text) < 50 and rng.random() < 0.3:
        name = absent[int(rng.integers(len(absent)))]
        text += " " + _pick(rng, DENIED[name])
        labels[LABEL_OF[name]] = 0.0
    return Wording(text, labels)


def _present(findings: Findings, name: str) -> bool:
    value = getattr(findings, name)
    return any(value) if isinstance(value, Sides) else bool(value)


def findings_section(findings: Findings, rng: np.random.Generator) -> Wording:
    """The findings section: the same findings in other words, and absent ones."""
    names, labels = phrases(findings, rng)
    volumes = ("The lungs are well inflated.", "Lung volumes are within the usual range.")
    opening = _pick(rng, (*volumes, "There is adequate penetration."))
    sentences = [opening, *(f"There is {_article(name)}{name}." for name in names)]
    for name, denials in DENIED.items():
        if not _present(findings, name) and rng.random() < 0.6:
            sentences.append(_pick(rng, denials))
            labels[LABEL_OF[name]] = 0.0
    if rng.random() < 0.5:
        sentences.append("No acute osseous abnormality is seen.")
    return Wording(" ".join(sentences), labels)


def _article(name: str) -> str:
    mass = ("edema", "atelectasis", "cardiomegaly", "consolidation", "enlargement")
    if "bilateral" in name or "in place" in name or any(word in name for word in mass):
        return ""
    return "an " if name[0] in "aeioE" else "a "


def report(findings: Findings, rng: np.random.Generator, view: str = "PA") -> Wording:
    """A whole report in MIMIC-CXR's layout, and the labels of its impression (of its findings if it has none).

    Every body line starts with one space, blank lines consist of one, lines have at most 79 characters. As in real
    reports, a few per cent have no impression, another heading for it, or a wet read or addendum at the top.
    """
    final, detail = impression(findings, rng), findings_section(findings, rng)
    kind = rng.random()
    labels = final.labels
    examination = "CHEST (PORTABLE AP)" if view == "AP" else "CHEST (PA AND LAT)"
    reason = ("cough and fever", "shortness of breath", "chest pain", "preoperative evaluation", "follow-up", "fall")
    blocks = [("EXAMINATION", f"{examination}.")]
    if rng.random() < 0.9:
        blocks.append(("INDICATION", f"___ year old patient with {_pick(rng, reason)}. // Evaluate for acute process."))
    technique = "Single frontal portable view" if view == "AP" else "Frontal and lateral views"
    if rng.random() < 0.7:
        blocks.append(("TECHNIQUE", f"{technique} of the chest."))
    blocks.append(("COMPARISON", _pick(rng, ("None.", "___.", "Chest radiograph ___."))))
    body = [("FINDINGS", detail.text)] if rng.random() < 0.85 else []
    above: list[str] = []
    ending: list[tuple[str, str]] = [("IMPRESSION", final.text)]
    if kind < 0.06:  # findings only
        body, ending, labels = [("FINDINGS", detail.text)], [], detail.labels
    elif kind < 0.08:  # a last paragraph without a header
        body, ending, labels = [], [("", detail.text)], detail.labels
    elif kind < 0.10:  # no heading in capitals: the official parser leaves the text in the section above
        ending = [("", f"Impression: {final.text}")]
    elif kind < 0.13:
        ending = [("CONCLUSION", final.text)]
    elif kind < 0.15:
        body, ending = [], [("FINDINGS AND IMPRESSION", final.text)]
    elif kind < 0.18:
        above = _wrap("WET READ", f"___ ___ {final.text}")
    elif kind < 0.21:
        above = _wrap("ADDENDUM", "The study was reviewed with the referring team on ___.")
        above += [" ", *_wrap("IMPRESSION", "Unchanged from the original interpretation below.")]
    elif kind < 0.22:
        ending = [("IMPRESSION", "Please see below."), ("IMPRESSION", final.text)]
    elif kind < 0.24:
        ending.append(("RECOMMENDATION(S)", "Routine follow-up."))
    elif kind < 0.25 and findings.normal and not (findings.pacemaker or findings.tube or findings.line):
        ending = [("IMPRESSION", "None.")]
    lines = [*above, " ", " " + "_" * 78, " "] if above else []
    lines += [" " * 33 + "FINAL REPORT"]
    for header, text in [*blocks, *body, *ending]:
        lines += [*_wrap(header, text), " "]
    return Wording("\n".join(lines) + "\n", labels)


def _wrap(header: str, text: str) -> list[str]:
    """Lines of a section: one space in front, at most 79 characters."""
    start = f"{header}:  " if header else ""
    return textwrap.wrap(start + text, 78, initial_indent=" ", subsequent_indent=" ", break_long_words=False)
