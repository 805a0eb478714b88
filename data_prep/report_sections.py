"""Section parser for radiology reports; extracts the impression. Pure functions of the text.

A section starts at the beginning of a line with a known name and a colon. Other headings (CHEST:, LINES:) are text, so
that sub-headings do not end an impression; the cost is a list of the names that report writers used.
docs/decisions.md explains where and why this differs from the official parser of MIMIC-CXR.
"""

import re
from functools import lru_cache
from typing import NamedTuple

# ---------------------------------------------------------------------------------------------------------------------
# Names, with misspellings that occur in MIMIC-CXR. Key "": sections of no further interest that end the previous one.

_NAMES = {
    "impression": """
        impression, impressions, conclusion, conclusions, findings and impression, findings/impression,
        findings/ impression, final impression, impression and recommendation, impression and recommendations,
        impression and recommendation(s), impresson, imprression, imoression, impressoin, imprssion, impresion,
        imperssion, mpression, impession""",
    "findings": """
        findings, finding, reference findings, findins, findindgs, findgings, findngs, findnings, finidngs""",
    "comparison": """
        comparison, comparisons, comparison(s), reference exam, comparison exam, comparison film, comparision,
        comparsion, comparrison, comparisions""",
    # A clinical impression is what the referring physician suspects.
    "indication": """
        indication, indications, indication(s), idication, ndication, reason for exam, reason for examination,
        reason for study, clinical indication, clinical impression""",
    "history": "history, clinical history, clinical information, patient history, medical history, pfi",
    "examination": "examination, exam, type of examination, study, procedure",
    "technique": "technique",
    "recommendations": "recommendation, recommendations, recommendation(s)",
    "notification": "notification, notifications, notification(s), communication, critical results",
    "addendum": "addendum, addenda, final addendum",
    "wet read": "wet read, wetread, preliminary read, preliminary report",
    "": """
        comment, comments, date, note, discussion, interpretation, opinion, summary, dictated by, signed by,
        electronically signed by, attending, radiologist, final report""",
}
_SECTION_OF = {" ".join(name.split()): section for section, names in _NAMES.items() for name in names.split(",")}
# Running text may begin a line with one of these, capitalised and followed by a colon.
_ONLY_IN_CAPITALS = {"date", "exam", "study", "note", "comment", "comments", "procedure", "finding", "summary"}
# A heading in capitals that contains one of these is that section: FRONTAL CHEST RADIOGRAPH FINDINGS.
_CONTAINED = ("impression", "findings", "history", "comparison", "addendum")
# Names of an examination that head the findings, except inside an impression with a paragraph per examination.
_VIEWS = re.compile(
    r"chest|portable|ribs|bone window|(two|one|frontal|pa|ap|lateral) views?"
    r"|(pa|ap) and lat|lateral and (pa|ap)|frontal (and|upright|semi-upright)"
)
_MOST_WORDS = 5  # of a heading that is recognised by a part of it; longer ones are sentences in capitals

_LINE = re.compile(
    r"""
    ^[^\S\n]*(?:
        ([A-Z][A-Za-z0-9\ ()/,&\#.'-]{0,60}+)(?:(?<!\d):|:(?!\d))      # a heading, but not the time 10:30
        | (_{10,}|FINAL\ REPORT|FINAL\ ADDENDUM)(?=[^\S\n]*$)          # a ruled line, or a centred title
    )""",
    re.MULTILINE | re.VERBOSE,
)


class Section(NamedTuple):
    """A section. Headers and bodies of all sections, concatenated in order, are the report, character by character."""

    name: str  # "impression", "findings", …; "preamble" before the first header; "" for one of no further interest
    header: str  # from the start of the line to the colon, or a ruled line
    body: str
    is_aside: bool  # part of an addendum or of a preliminary ("wet") read, not of the main report


def sections(text: str) -> list[Section]:
    """Split a report into its sections, in order. Accepts any text and loses no character."""
    found: list[Section] = []
    name, start, body_start, is_aside = "preamble", 0, 0, False
    reported = False  # whether the main report had its impression: later additions cannot replace it
    for match in _LINE.finditer(text):
        opened = "" if match[2] else _section_of(match[1], name == "impression")
        if opened is None:
            continue
        body = text[body_start : match.start()]
        reported |= name == "impression" and not is_aside and not body.isspace() and body != ""
        if match.start() > start:
            found.append(Section(name, text[start:body_start], body, is_aside))
        if opened in ("addendum", "wet read") or match[2] == "FINAL ADDENDUM":
            is_aside = True
        elif match[2] and not reported:
            is_aside = False  # a ruled line or FINAL REPORT ends an addendum above the main report
        name, start, body_start = opened, match.start(), match.end()
    found.append(Section(name, text[start:body_start], text[body_start:], is_aside))
    return found


def impression(text: str) -> str | None:
    """The impression of a report on one line, white space normalised, or None if it has none.

    Of several, the last of the main report; that of an addendum or wet read only if there is no other. De-identified
    words (`___`) and list numbers are kept.
    """
    found = [(section.is_aside, normalise(section.body)) for section in sections(text) if section.name == "impression"]
    asides, main = ([words for is_aside, words in found if words and is_aside is kind] for kind in (True, False))
    return next(reversed(main or asides), None)


def normalise(text: str) -> str:
    """Collapse white space, line breaks included, to single spaces; strip the ends."""
    return " ".join(text.split())


@lru_cache(maxsize=4096)
def _section_of(heading: str, in_impression: bool) -> str | None:
    """The section that a heading opens, or None."""
    name = re.sub(r"[0-9#.]", "", heading.lower().replace("&", " and "))
    name = " ".join(name.split()).strip(" ,/-")
    section = _SECTION_OF.get(name)
    if not heading.isupper():
        return None if name in _ONLY_IN_CAPITALS else section
    if section is not None:
        return section
    if len(name.split()) > _MOST_WORDS:
        return None
    for part in _CONTAINED:
        if part in name:
            return part
    if _VIEWS.search(name) and not (in_impression and "view" not in name):
        return "findings"
    return None
