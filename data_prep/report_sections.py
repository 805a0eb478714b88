"""Section parser for radiology reports; extracts the impression. Pure functions of the text.

A section starts at a heading: a known name (report_headings.py) with a colon or dash, alone on its line, numbered, in
brackets or marked as bold, at the start of a line or after a sentence (report_patterns.py). Other headings (CHEST:,
LINES:) are text, so that sub-headings do not end an impression; the cost is a list of the names that report writers
used. docs/decisions.md explains where and why this differs from the official parser of MIMIC-CXR.
"""

import re
from typing import NamedTuple

from data_prep import report_patterns as patterns
from data_prep.report_endings import ends_in_text, without_administration
from data_prep.report_headings import IMPRESSIONS, letters, may_be_decisive, section_named, section_of
from data_prep.report_text import plain

_BY_PREFERENCE = [(aside, rank) for aside in ("", "wet read", "addendum", "ruled off") for rank in IMPRESSIONS]
_SENTENCE_ENDS = ".:;!?)]>*_=-#|\"'"
_ANY_IMPRESSION = {*IMPRESSIONS, "preliminary impression", "prior impression"}
_NEW_REPORT = {"examination", "indication", "history", "technique"}  # below these headings stands a report of its own
_LONGEST_ALONE = 48  # characters of a line that may be a heading without any mark
_UNDERLINE = "underline"  # a rule directly below a heading belongs to the heading
_MARKS = {"rule", "main report", "end of addendum"}  # that separate reports; what follows them has no name


class Section(NamedTuple):
    """A section. Headers and bodies of all sections, concatenated in order, are the report, character by character."""

    name: str  # "impression", "findings", …; "preamble" before the first header; "" for one of no further interest
    header: str  # the heading with its marks and colon, a ruled line, or nothing before a sign-off
    body: str
    aside: str  # "addendum", "wet read", "prior report" or "ruled off"; "" in the main report


class _Heading(NamedTuple):
    section: str
    start: int  # within the line
    end: int
    is_listed: bool = False  # behind a number or bullet


class _Place(NamedTuple):
    """What stands before a line, which decides whether the line is a heading or text."""

    text: str
    first: int  # index of the line's first character
    section: str
    body_start: int
    is_listed: bool  # the heading of the section had a number or bullet
    reported: bool  # the main report had its impression

    @property
    def in_impression(self) -> bool:
        return self.section in IMPRESSIONS

    @property
    def has_text(self) -> bool:
        """Whether the section has text already."""
        body = self.text[self.body_start : self.first]
        return body != "" and not body.isspace()

    @property
    def previous(self) -> str:
        """The line before, stripped."""
        return self.text[self.text.rfind("\n", 0, max(self.first - 1, 0)) + 1 : self.first].strip()

    @property
    def ended(self) -> bool:
        """Whether no sentence goes on over the line break."""
        return not self.has_text or not (previous := self.previous) or previous[-1] in _SENTENCE_ENDS


def sections(text: str) -> list[Section]:
    """Split a plain text (`report_text.plain`) into its sections, in order. Loses no character."""
    found: list[Section] = []
    name, start, body_start, aside = "preamble", 0, 0, ""
    is_listed = reported = False  # reported: the main report had its impression, which no addition replaces
    first = at = 0
    while True:
        last = text.find("\n", first)
        line = text[first : last if last >= 0 else None]
        while at < len(line):
            heading = _next_heading(line, at, _Place(text, first, name, body_start, is_listed, reported))
            if heading is None:
                break
            cut, at = first + heading.start, heading.end
            if heading.section == _UNDERLINE:
                body_start = first + at
                break
            if name in IMPRESSIONS and not (reported or aside or _is_empty(text[body_start:cut])):
                reported = True
            if cut > start:
                found.append(
                    Section("" if name in _MARKS else name, text[start:body_start], text[body_start:cut], aside)
                )
            aside = _aside(aside, name, heading.section, reported)
            name, start, body_start, is_listed = heading.section, cut, first + at, heading.is_listed
            if name not in _ANY_IMPRESSION and not patterns.MAY_BE_INLINE.search(line, at):
                break
        # The next line that is worth a closer look: any within or below an impression, otherwise few.
        following = (patterns.NOT_BLANK if reported or name in _ANY_IMPRESSION else patterns.UNUSUAL).search(text, last)
        if last < 0 or following is None:
            break
        first, at = text.rfind("\n", 0, following.start() + 1) + 1, 0
    found.append(Section("" if name in _MARKS else name, text[start:body_start], text[body_start:], aside))
    return found


def impression(text: str) -> str | None:
    """The impression of a report on one line, white space normalised, or None if it has none.

    Of several, the last of the main report; that of an addendum or wet read only if there is no other, and never that
    of an earlier report. OPINION, SUMMARY, INTERPRETATION and the like count if nothing is called impression or
    conclusion, DIAGNOSIS only below findings. "See findings" is none. De-identified words (`___`) stay.
    """
    text = plain(text)
    part = _decisive_part(text)
    if part is not text and _is_running_text(body := part.removeprefix("IMPRESSION:")):
        return _without_marks(normalise(body))
    found: dict[tuple[str, str], str] = {}
    with_findings = False
    for section in sections(part):
        with_findings |= section.name in ("findings", "impression")
        rank = "impression" if section.name == "preliminary impression" else section.name
        if rank not in IMPRESSIONS or (rank == "diagnosis" and not with_findings) or _is_empty(section.body):
            continue
        earlier = found.get((section.aside, rank), "") if patterns.CONTINUED.search(section.header) else ""
        found[section.aside, rank] = f"{earlier}\n\n{section.body}" if earlier else section.body
    return next((_prompt(found[key]) for key in _BY_PREFERENCE if key in found), None)


def _prompt(body: str) -> str | None:
    """The body of an impression on one line; None if it may be none."""
    text = without_administration(body)
    return None if text is None or _is_empty(text) else _without_marks(normalise(text))


def _decisive_part(text: str) -> str:
    """From the heading IMPRESSION on if nothing above it matters, which is so in most reports and twice as fast."""
    above, heading, below = text.partition("IMPRESSION:")
    above = above.rstrip(" ")
    if heading == "" or not above.endswith("\n") or may_be_decisive(above):
        return text
    return heading + below


def _is_running_text(body: str) -> bool:
    """Whether nothing in it can end an impression: neither mark nor short line nor word of a sign-off. Quick."""
    if not body.isascii() or "..." in body or patterns.UNUSUAL.search(body) or _is_empty(body):
        return False
    return patterns.SIGN_OFF_WORDS.isdisjoint(letters(body).split()) and ends_in_text(body)


def normalise(text: str) -> str:
    """Collapse white space, line breaks included, to single spaces; strip the ends."""
    return " ".join(text.split())


def _is_empty(body: str) -> bool:
    """Whether an impression says nothing: "None.", "See findings above.", CheXpert's summary code, or only `___`."""
    return bool(patterns.EMPTY.fullmatch(body) or patterns.CODE.match(body))


def _without_marks(words: str) -> str:
    """Without the marks of bold type, tables and quotations around the text."""
    words = words.lstrip("|=~:> ").removeprefix("**").rstrip("*|=~#<\\ ").strip()
    if words.count('"') == 2 and words[0] == words[-1] == '"':
        return words[1:-1].strip()
    for opening, closing in ("[]", "{}", "“”"):
        if words.endswith(closing) and words.count(opening) < words.count(closing):
            words = words.removesuffix(closing)
    return words.removesuffix('"').strip() if words.count('"') % 2 else words.strip()


def _aside(aside: str, closed: str, opened: str, reported: bool) -> str:
    """What kind of aside a heading begins or goes on with; "" for the main report."""
    if opened in ("addendum", "prior report"):
        return opened
    if aside == "prior report" and reported and opened not in ("main report", "end of addendum"):
        return aside  # an old report that is quoted below the own one, to its end
    if opened in ("wet read", "preliminary impression"):
        return "wet read"
    if opened == "rule" and reported:
        return aside if aside not in ("", "prior report") else "ruled off"
    if opened in _MARKS or opened in _NEW_REPORT:
        return "" if not reported or aside in ("ruled off", "prior report") else aside
    if aside == "prior report" and opened == "findings" and closed in IMPRESSIONS:
        return ""
    if closed == "preliminary impression" and opened in IMPRESSIONS and not reported:
        return ""
    return aside


# ---------------------------------------------------------------------------------------------------------------------
# Headings of a line


def _next_heading(line: str, at: int, place: _Place) -> _Heading | None:
    """The first heading of a line from `at` on, or the beginning of a sign-off, if it has one."""
    in_impression = place.section in _ANY_IMPRESSION
    may_be_inline = patterns.MAY_BE_INLINE.search(line, at) is not None
    if at == 0:
        words = line.strip()
        if not words:
            return None
        if not words[0].isalpha() and patterns.RULE.match(line):
            is_underline = place.section not in ("preamble", "rule", "") and not place.has_text
            return _Heading(_UNDERLINE if is_underline else "rule", 0, len(line))
        if heading := _aside_at_start(line) or _quoted_report(line, place):
            return heading
        if in_impression and _is_sign_off(line, place) and place.has_text:
            return _Heading("", 0, 0)
        may_start = may_be_inline or len(words) < _LONGEST_ALONE or patterns.UNUSUAL.search(line) is not None
    else:
        may_start = may_be_inline and not in_impression
    if may_start and (heading := _at_start(line, at, place)):
        return heading
    heading = _within(line, at, place) if may_be_inline else None
    if in_impression and (match := patterns.INLINE_SIGN_OFF.search(line, at, heading.start if heading else len(line))):
        return _Heading("", match.end(), match.end())
    return heading


def _aside_at_start(line: str) -> _Heading | None:
    if ("dden" in line or "DDEN" in line) and (match := patterns.ADDENDUM.match(line)):
        return _Heading("end of addendum" if match["end"] or match["ends"] else "addendum", 0, match.end())
    if ("WET" in line or "PREL" in line or "Wet" in line) and (match := patterns.WET_READ.match(line)):
        return _Heading("wet read", 0, match.end())
    return None


def _quoted_report(line: str, place: _Place) -> _Heading | None:
    """An old report that begins below the own impression."""
    if not (place.reported or (place.in_impression and place.has_text)) or not place.ended:
        return None
    match = patterns.PRIOR_REPORT.match(line) or patterns.QUOTED_REPORT.match(line)
    return _Heading("prior report", 0, match.end()) if match else None


def _is_sign_off(line: str, place: _Place) -> bool:
    if patterns.SIGN_OFF.match(line.lower()):
        first = next((character for character in line if character.isalpha()), "A")
        return first.isupper() or place.ended
    return bool(patterns.NAME_OR_DATE.match(line)) and not patterns.REFERS.search(place.previous[-40:])


def _at_start(line: str, at: int, place: _Place) -> _Heading | None:
    match = patterns.HEADING.match(line, at)
    if match and (opened := _accepted(match, place)) is not None:
        return _Heading(opened, match.start(), match.end(), bool(match["mark"]))
    match = patterns.BARE_HEADING.match(line, at)
    is_marked = match is not None and (match[0][-1] not in "sSnN" or not patterns.ONE_BLANK.match(line, match.end()))
    if match and (is_marked or place.ended):
        return _Heading("opinion" if "pinion" in match[0].lower() else "impression", match.start(), match.end())
    return None


def _accepted(match: re.Match[str], place: _Place) -> str | None:
    """The section that a candidate at the start of a line opens; None where it is text."""
    name, kind = match["name"], match.lastgroup
    opened = (section_of if kind == "colon" else section_named)(name, place.in_impression)
    if opened is None or (name[0].islower() and not (place.ended and (kind != "other" or opened in IMPRESSIONS))):
        return None
    if opened in IMPRESSIONS and not (kind == "alone" and place.in_impression):
        return opened
    if (kind == "alone" or (kind == "other" and not name.isupper())) and not place.ended:
        return None
    return None if place.in_impression and match["mark"] and not place.is_listed else opened


def _within(line: str, at: int, place: _Place) -> _Heading | None:
    """A heading further on in a line, before a colon or dash."""
    for colon in patterns.COLON.finditer(line, at):
        window = max(at, colon.start() - 100), colon.start()
        match = patterns.INLINE_HEADING.search(line, *window)
        opened = section_named(match["name"], place.in_impression) if match else None
        is_mixed = match is not None and "IMPRESSION" in match["name"] and not match["name"].isupper()
        if (opened is None or is_mixed) and (match := patterns.INLINE_IMPRESSION.search(line, *window)):
            opened = "impression"
        if match is None or patterns.REFERS.search(line, *_before(match)):
            continue
        name = match["name"]
        if opened is None or not (
            name.isupper() or (name[0].isupper() and (opened in IMPRESSIONS or at > 0 or place.in_impression))
        ):
            continue
        if place.in_impression and opened not in IMPRESSIONS and patterns.LIST_MARK.search(line, *_before(match)):
            continue  # an item of a list
        return _Heading(opened, match.start("head"), colon.end())
    match = patterns.INLINE_DASH.search(line, at)
    return _Heading("impression", match.start(match.lastgroup), match.end()) if match and match.lastgroup else None


def _before(match: re.Match[str]) -> tuple[int, int]:
    """Range of the words before a heading within a line."""
    return max(0, match.start("name") - 40), match.start("name")
