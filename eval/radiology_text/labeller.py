"""Which of CheXpert's 14 findings a report states, denies or doubts: rules in the manner of NegBio, without weights.

It is not CheXbert and not the CheXpert labeller: the words and rules are this module's own. A mention of a finding
takes the denial or doubt whose scope it lies in; over a text, stated beats doubted beats denied. How often it errs on
real reports stands in `docs/decisions.md`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pandas as pd

from eval.radiology_text.labeller_words import (
    ABNORMAL,
    AFFIRMING,
    AMPLE_HEART,
    BREAKS,
    DENIED_AFTER,
    DENIED_BEFORE,
    DOUBTED_AFTER,
    DOUBTED_BEFORE,
    FINDINGS,
    NORMAL_STATEMENTS,
    NORMAL_STRUCTURES,
    NOT_A_DENIAL,
    NOT_MENTIONS,
    VERBS,
)
from sdcxr.io.manifest import LABELS

PRESENT, NEGATED, UNCERTAIN, ABSENT = 1.0, 0.0, -1.0, float("nan")
REACH = 300  # characters that a denial or a doubt is looked for on either side of a finding
_ALTERNATIVES = re.compile(r"\b(?:or|nor|versus|vs|and/or)\b|/(?=[a-z])")
_LISTED = re.compile(r"\b(?:or|nor|and)\b")
_COMMA = re.compile(rf"(?:,|\band\b|\bwith\b|/)(?=\s*(?:(?:an?|the|there (?:is|are)|some)\s+)*(?:{AFFIRMING})\b)")


@dataclass(frozen=True)
class Mention:
    """A finding's name in a sentence."""

    finding: str
    start: int
    end: int
    anchor: int
    """Where its last word starts; "not" stands before it in "the heart is not enlarged"."""
    status: float | None = None
    """Known from the words themselves ("normal heart size"), whatever stands around them."""


def label(text: str) -> dict[str, float]:
    """The labels of one report or impression.

    "No Finding" is 1 where neither a finding (devices apart) nor another abnormality is stated or doubted, and the text
    says that something is normal or denies a finding; otherwise it is absent, never 0.

    Args:
        text: English report text, of any length; case does not matter.

    Returns:
        For each of the 14 names of `LABELS`: 1 stated, 0 denied, -1 uncertain, NaN not mentioned.
    """
    said: dict[str, set[float]] = {}
    normal = False
    for sentence in sentences(text):
        normal |= bool(NORMAL_STATEMENTS.search(sentence))
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
    """The labels of many texts: one row each, a column per name of `LABELS`."""
    return pd.DataFrame([label(text) for text in texts], columns=list(LABELS), dtype=np.float64)


def sentences(text: str) -> list[str]:
    """Lower-case sentences without list numbers; a full stop inside a number or an abbreviation ends none."""
    text = re.sub(r"\n\s*\n", ". ", text.lower())
    text = re.sub(r"\b(?:vs|dr|approx|i\.e|e\.g|a\.m|p\.m)\.", lambda match: match[0].replace(".", ""), text)
    text = re.sub(r"(?:^|(?<=[\s.:;]))\d{1,2}[.)](?=\s|[a-z])", ". ", " ".join(text.split()))
    return [part.strip() for part in re.split(r"[.!?;]+(?=\s|$|[a-z])", text) if part.strip(" .,:")]


@lru_cache(maxsize=4096)
def mentions(sentence: str) -> tuple[Mention, ...]:
    """The findings that a sentence names, and "" for any other abnormality, in the order of `FINDINGS`."""
    masked = NOT_MENTIONS.sub(lambda match: "_" * len(match[0]), sentence)
    found = []
    for finding, pattern in FINDINGS.items():
        found += [Mention(finding, *_span(match)) for match in pattern.finditer(masked)]
    for finding, pattern in NORMAL_STRUCTURES.items():
        found += [Mention(finding, *_span(match), status=NEGATED) for match in pattern.finditer(masked)]
    found += [Mention("Cardiomegaly", *_span(match), status=UNCERTAIN) for match in AMPLE_HEART.finditer(masked)]
    found += [Mention("", *_span(match)) for match in ABNORMAL.finditer(sentence)]
    return tuple(found)


def _span(match: re.Match[str]) -> tuple[int, int, int]:
    return match.start(), match.end(), match.start() + max(match[0].rfind(" ") + 1, 0)


def status(sentence: str, mention: Mention) -> float:
    """What a sentence says about a finding that it names: `PRESENT`, `NEGATED` or `UNCERTAIN`."""
    if mention.status is not None:
        return mention.status
    if _before(DOUBTED_BEFORE["of a denial"], sentence, mention) or _after(DOUBTED_AFTER, sentence, mention):
        return UNCERTAIN
    if _denied_before(sentence, mention) or _after(DENIED_AFTER, sentence, mention):
        return NEGATED
    doubted = (
        _before(DOUBTED_BEFORE["plain"], sentence, mention)
        or _before(DOUBTED_BEFORE["of a list"], sentence, mention, whole_list=True)
        or _is_alternative(sentence, mention)
    )
    return UNCERTAIN if doubted else PRESENT


def _denied_before(sentence: str, mention: Mention) -> bool:
    """Whether an odd number of denials governs the mention; "not without effusion" states one."""
    cues = [
        cue
        for cue in DENIED_BEFORE.finditer(sentence, max(0, mention.anchor - REACH), mention.anchor)
        if not NOT_A_DENIAL.match(sentence, cue.start()) and not _is_cut(sentence, cue.end(), mention.anchor)
    ]
    doubled = sum(sentence[a.end() : b.start()].strip() == "" for a, b in pairwise(cues))
    return bool(cues) and doubled % 2 == 0


def _before(cue: re.Pattern[str], sentence: str, mention: Mention, whole_list: bool = False) -> bool:
    """Whether a doubt stands before the mention with nothing between that ends its scope."""
    for match in cue.finditer(sentence, max(0, mention.anchor - REACH), mention.anchor):
        if whole_list:
            if not BREAKS.search(sentence, match.end(), mention.anchor):
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

    It does at a conjunction that opens a new statement, and where a list goes on with what is plainly there ("no
    pneumothorax, small effusion"), unless alternatives follow ("no edema, large effusion or pneumothorax").
    """
    if BREAKS.search(sentence, start, end):
        return True
    # The look-ahead has to see the words behind `end`.
    cut = next((match for match in _COMMA.finditer(sentence, start, end + REACH) if match.start() < end), None)
    return cut is not None and _ALTERNATIVES.search(sentence, cut.end(), cut.end() + REACH) is None


def _after(cue: re.Pattern[str], sentence: str, mention: Mention) -> bool:
    """Whether a cue follows ("pneumothorax is not seen") before another verb or statement begins."""
    for match in cue.finditer(sentence, mention.end, mention.end + REACH):
        between = sentence[mention.end : match.start()]
        if VERBS.search(between) or BREAKS.search(between):
            return False
        if "," not in between or _LISTED.search(between):
            return True
    return False


def _is_alternative(sentence: str, mention: Mention) -> bool:
    """Whether the mention is one side of "atelectasis versus pneumonia" or "scar or atelectasis"."""
    before = sentence[max(0, mention.start - REACH) : mention.start]
    after = sentence[mention.end : mention.end + REACH]
    if NOT_A_DENIAL.search(before):  # "no change in effusion or pneumothorax"
        return False
    modifiers = r"(?:[a-z-]+\s+){0,3}"
    left = re.search(rf"\b(?:or|versus|vs|and/or)\s+{modifiers}$", before)
    right = re.match(r"(?:\s+[a-z-]+){0,2},?\s+(?:or|versus|vs|and/or)\b", after)
    return left is not None or right is not None
