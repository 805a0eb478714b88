"""The rules of MIMIC-CXR's own section parser, for prompts equal to the text of mimic_cxr_sectioned.csv.

Restated from github.com/MIT-LCP/mimic-cxr (txt/section_parser.py, txt/create_section_files.py), flaws included:
"Impression:" is no heading, sub-headings in capitals end an impression, "NDICATION" is one, the last impression wins
even in an addendum. Its hand-made rules for 54 studies are left out: those studies are absent from that table.
"""

import re

from data_prep.report_sections import normalise

_HEADING = re.compile(r"\n ([A-Z ()/,-]+):\s")
_IMPRESSIONS = {
    "conclusion", "impresson", "imprression", "imoression", "impressoin", "imprssion", "impresion", "imperssion",
    "mpression", "impession", "ndication",
}  # fmt: skip


def official_impression(text: str) -> str | None:
    """The impression of a report by the official rules, white space normalised, or None if it has none.

    Args:
        text: as in the file, neither stripped nor with other line ends: the rules look for a line end and a blank.
    """
    found = None
    match = _HEADING.search(text)
    while match:
        name, start = match[1].strip().lower(), match.end()
        line_end = text.find("\n", start)
        match = _HEADING.search(text, line_end) if line_end >= 0 else None
        body = normalise(text[start : match.start() if match else len(text)])
        if body and ("impression" in name or name in _IMPRESSIONS):
            found = body
    return found
