"""The sections of a radiology report, and its impression: pure functions of the text.

A section opens at the start of a line with a known name and a colon. Headings that name no section of a report (CHEST:,
LINES:) are text. So an impression is never cut by its own sub-headings, at the price of a list of names, which is what
the report writers used. docs/decisions.md tells where and why this departs from the parser that comes with MIMIC-CXR.
"""

import re
from functools import lru_cache
from typing import NamedTuple

# ---------------------------------------------------------------------------------------------------------------------
# Names. Misspelt ones occur in MIMIC-CXR. An empty value: a section that is of no further interest, but ends the last.

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
    # "ndication" lacks its first letter; it is no "mpression". A clinical impression is what the referrer suspects.
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
# In running text a line may well begin with one of these, capitalised and followed by a colon.
_ONLY_IN_CAPITALS = {"date", "exam", "study", "note", "comment", "comments", "procedure", "finding", "summary"}
# A name in capitals that merely contains one of these still is that section: FRONTAL CHEST RADIOGRAPH FINDINGS.
_CONTAINED = ("impression", "findings", "history", "comparison", "addendum")
# Names of an examination that stand for "findings", except inside an impression that is ordered by examination.
_VIEWS = re.compile(
    r"chest|portable|ribs|bone window|(two|one|frontal|pa|ap|lateral) views?"
    r"|(pa|ap) and lat|lateral and (pa|ap)|frontal (and|upright|semi-upright)"
)
_MOST_WORDS = 5  # of a name that is recognised by a part of it; longer ones are sentences in capitals

_LINE = re.compile(
    r"""
    ^[^\S\n]*(?:
        ([A-Z][A-Za-z0-9\ ()/,&\#.'-]{0,60}+)(?:(?<!\d):|:(?!\d))      # a heading, but not the time 10:30
        | (_{10,}|FINAL\ REPORT|FINAL\ ADDENDUM)(?=[^\S\n]*$)          # a ruled line, or a centred title
    )""",
    re.MULTILINE | re.VERBOSE,
)


class Section(NamedTuple):
    """A section. The headers and bodies of all sections of a report, in order, are the report, to the character."""

    name: str  # "impression", "findings", …; "preamble" before the first header; "" for one of no further interest
    header: str  # from the start of the header's line to its colon, or a ruled line
    body: str
    is_aside: bool  # part of an addendum or of a preliminary ("wet") read, not of the report proper


def sections(text: str) -> list[Section]:
    """Split a report into its sections, in order; defined for every text, losing no character of it."""
    found: list[Section] = []
    name, start, body_start, is_aside = "preamble", 0, 0, False
    reported = False  # the report proper has had its impression: what is added from now on cannot replace it
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
            is_aside = False  # a ruled line or FINAL REPORT closes the addendum that stands above the report
        name, start, body_start = opened, match.start(), match.end()
    found.append(Section(name, text[start:body_start], text[body_start:], is_aside))
    return found


def impression(text: str) -> str | None:
    """The impression of a report on one line, white space normalised, or None if it has none.

    Of several, the last of the report proper; that of an addendum or a wet read only where there is no other.
    De-identified words (`___`) and list numbers stay as they are.
    """
    last: str | None = None
    last_aside: str | None = None
    for section in sections(text):
        if section.name == "impression":
            words = normalise(section.body)
            if words and section.is_aside:
                last_aside = words
            elif words:
                last = words
    return last if last is not None else last_aside


def normalise(text: str) -> str:
    """`text` with every run of white space, line breaks included, as one space, and none at the ends."""
    return " ".join(text.split())


@lru_cache(maxsize=4096)
def _section_of(heading: str, in_impression: bool) -> str | None:
    """The section that a heading opens, or None if it opens none."""
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
