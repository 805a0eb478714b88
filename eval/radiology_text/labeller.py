"""Rule-based report labeller: CheXpert's 14 findings as positive, negated, uncertain or not mentioned, without weights.

Rules in the manner of NegBio with words of its own; neither CheXbert nor the CheXpert labeller. A mention of a finding
is negated or uncertain if it lies in the scope of such a cue; over a text positive beats uncertain beats negated. For
its agreement with human labels see `docs/decisions.md`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from itertools import pairwise

import numpy as np
import pandas as pd

from sdcxr.io.manifest import LABELS

PRESENT, NEGATED, UNCERTAIN, ABSENT = 1.0, 0.0, -1.0, float("nan")
REACH = 300  # characters on either side of a finding that are searched for a cue


def read_patterns(text: str) -> dict[str, re.Pattern[str]]:
    """The sections of labeller_words.txt, which explains its form, each as one pattern of its alternatives."""
    found: dict[str, list[str]] = {}
    alternatives: list[str] = []
    for line in text.splitlines():
        if line.startswith("["):
            alternatives = found.setdefault(line[1:-1], [])
        elif line.startswith("  "):
            alternatives[-1] += line[2:]
        elif line and not line.startswith("#"):
            alternatives.append(line)
    patterns: dict[str, str] = {}
    for name, alternatives in found.items():
        pattern = "|".join(f"(?:{one})" for one in alternatives)
        for other, meaning in patterns.items():
            pattern = pattern.replace(f"<{other}>", f"(?:{meaning})")
        patterns[name] = pattern
    return {name: re.compile(pattern) for name, pattern in patterns.items()}


WORDS = read_patterns(files("eval.radiology_text").joinpath("labeller_words.txt").read_text(encoding="utf-8"))
FINDINGS = {name.partition(": ")[2]: word for name, word in WORDS.items() if name.startswith("finding: ")}
NORMAL_STRUCTURES = {
    name.partition(": ")[2]: word for name, word in WORDS.items() if name.startswith("normal structure")
}
_ALTERNATIVES = re.compile(r"\b(?:or|nor|versus|vs|and/or)\b|/(?=[a-z])")
_LISTED = re.compile(r"\b(?:or|nor|and)\b")
_COMMA = re.compile(
    rf"(?:,|\band\b|\bwith\b|/)(?=\s*(?:(?:an?|the|there (?:is|are)|some)\s+)*(?:{WORDS['affirming'].pattern})\b)"
)


@dataclass(frozen=True)
class Mention:
    """A finding's name in a sentence."""

    finding: str
    start: int
    end: int
    anchor: int
    """Start of its last word; "not" precedes it in "the heart is not enlarged"."""
    status: float | None = None
    """Set if the words themselves determine it ("normal heart size")."""


def label(text: str) -> dict[str, float]:
    """The labels of one report or impression.

    "No Finding" is 1 if no finding (except devices) and no other abnormality is positive or uncertain, and the text
    negates a finding or calls something normal; otherwise NaN, never 0.

    Args:
        text: English report text, of any length; case does not matter.

    Returns:
        For each of the 14 names of `LABELS`: 1 positive, 0 negated, -1 uncertain, NaN not mentioned.
    """
    said: dict[str, set[float]] = {}
    normal = False
    for sentence in sentences(text):
        normal |= bool(WORDS["normal statement"].search(sentence))
        for mention in mentions(sentence):
            said.setdefault(mention.finding, set()).add(status(sentence, mention))
    strongest = {
        name: next(value for value in (PRESENT, UNCERTAIN, NEGATED) if value in values) for name, values in said.items()
    }
    abnormal = [name for name, value in strongest.items() if value != NEGATED and name != "Support Devices"]
    denied = any(value == NEGATED for name, value in strongest.items() if name != "Support Devices")
    if not abnormal and (normal or denied):
        strongest["No Finding"] = PRESENT
    return {name: strongest.get(name, ABSENT) for name in LABELS}


def label_table(texts: Iterable[str]) -> pd.DataFrame:
    """Labels of texts (rows) for all names of `LABELS` (columns)."""
    return pd.DataFrame([label(text) for text in texts], columns=list(LABELS), dtype=np.float64)


def sentences(text: str) -> list[str]:
    """Split a text into lower-case sentences without list numbers; numbers and abbreviations keep their full stops."""
    text = re.sub(r"\n\s*\n", ". ", text.lower())
    text = re.sub(r"\b(?:vs|dr|approx|i\.e|e\.g|a\.m|p\.m)\.", lambda match: match[0].replace(".", ""), text)
    text = re.sub(r"(?:^|(?<=[\s.:;]))\d{1,2}[.)](?=\s|[a-z])", ". ", " ".join(text.split()))
    return [part.strip() for part in re.split(r"[.!?;]+(?=\s|$|[a-z])", text) if part.strip(" .,:")]


@lru_cache(maxsize=4096)
def mentions(sentence: str) -> tuple[Mention, ...]:
    """Mentions of findings in a sentence in the order of `FINDINGS`, and of other abnormalities as ""."""
    masked = WORDS["not a mention"].sub(lambda match: "_" * len(match[0]), sentence)
    found = []
    for finding, pattern in FINDINGS.items():
        found += [Mention(finding, *_span(match)) for match in pattern.finditer(masked)]
    for finding, pattern in NORMAL_STRUCTURES.items():
        found += [Mention(finding, *_span(match), status=NEGATED) for match in pattern.finditer(masked)]
    found += [
        Mention("Cardiomegaly", *_span(match), status=UNCERTAIN) for match in WORDS["ample heart"].finditer(masked)
    ]
    found += [Mention("", *_span(match)) for match in WORDS["abnormal"].finditer(sentence)]
    return tuple(found)


def _span(match: re.Match[str]) -> tuple[int, int, int]:
    return match.start(), match.end(), match.start() + max(match[0].rfind(" ") + 1, 0)


def status(sentence: str, mention: Mention) -> float:
    """Status of a mention in its sentence: `PRESENT`, `NEGATED` or `UNCERTAIN`."""
    if mention.status is not None:
        return mention.status
    if _before(WORDS["doubted before: of a denial"], sentence, mention) or _after(
        WORDS["doubted after"], sentence, mention
    ):
        return UNCERTAIN
    if _denied_before(sentence, mention) or _after(WORDS["denied after"], sentence, mention):
        return NEGATED
    doubted = (
        _before(WORDS["doubted before: plain"], sentence, mention)
        or _before(WORDS["doubted before: of a list"], sentence, mention, whole_list=True)
        or _is_alternative(sentence, mention)
    )
    return UNCERTAIN if doubted else PRESENT


def _denied_before(sentence: str, mention: Mention) -> bool:
    """Whether the mention is in the scope of a negation; a double one ("not without effusion") does not count."""
    cues = [
        cue
        for cue in WORDS["denied before"].finditer(sentence, max(0, mention.anchor - REACH), mention.anchor)
        if not WORDS["not a denial"].match(sentence, cue.start()) and not _is_cut(sentence, cue.end(), mention.anchor)
    ]
    doubled = sum(sentence[a.end() : b.start()].strip() == "" for a, b in pairwise(cues))
    return bool(cues) and doubled % 2 == 0


def _before(cue: re.Pattern[str], sentence: str, mention: Mention, whole_list: bool = False) -> bool:
    """Whether an uncertainty cue precedes the mention, with no end of its scope between them."""
    for match in cue.finditer(sentence, max(0, mention.anchor - REACH), mention.anchor):
        if whole_list:
            if not WORDS["break"].search(sentence, match.end(), mention.anchor):
                return True
            continue
        listed = "," not in sentence[match.end() : mention.anchor] or _ALTERNATIVES.search(
            sentence, match.end(), match.end() + REACH
        )
        if listed and not _is_cut(sentence, match.end(), mention.anchor):
            return True
    return False


def _is_cut(sentence: str, start: int, end: int) -> bool:
    """Whether the scope of a cue that ends at `start` ends before `end`.

    A scope ends at a conjunction that starts a new statement, and where a list continues with a positive finding ("no
    pneumothorax, small effusion"), unless alternatives follow ("no edema, large effusion or pneumothorax").
    """
    if WORDS["break"].search(sentence, start, end):
        return True
    # The look-ahead has to see the words behind `end`.
    cut = next((match for match in _COMMA.finditer(sentence, start, end + REACH) if match.start() < end), None)
    return cut is not None and _ALTERNATIVES.search(sentence, cut.end(), cut.end() + REACH) is None


def _after(cue: re.Pattern[str], sentence: str, mention: Mention) -> bool:
    """Whether a cue follows ("pneumothorax is not seen") before another verb or statement begins."""
    for match in cue.finditer(sentence, mention.end, mention.end + REACH):
        between = sentence[mention.end : match.start()]
        if WORDS["verb"].search(between) or WORDS["break"].search(between):
            return False
        if "," not in between or _LISTED.search(between):
            return True
    return False


def _is_alternative(sentence: str, mention: Mention) -> bool:
    """Whether the mention is one side of "atelectasis versus pneumonia" or "scar or atelectasis"."""
    before = sentence[max(0, mention.start - REACH) : mention.start]
    after = sentence[mention.end : mention.end + REACH]
    if WORDS["not a denial"].search(before):  # "no change in effusion or pneumothorax"
        return False
    modifiers = r"(?:[a-z-]+\s+){0,3}"
    left = re.search(rf"\b(?:or|versus|vs|and/or)\s+{modifiers}$", before)
    right = re.match(r"(?:\s+[a-z-]+){0,2},?\s+(?:or|versus|vs|and/or)\b", after)
    return left is not None or right is not None
