"""Pieces of invented reports, and the comparison of their impressions."""

from data_prep.report_sections import impression

CLEAR = "No acute cardiopulmonary abnormality."
SMALL = "Small left pleural effusion."
PRIOR = "Text of an old report."
RULE = "_" * 78
BODY = "EXAM: Chest two views.\nINDICATION: Cough.\nFINDINGS: The lungs are clear.\n"


def compare(rows):
    """Compares the impressions of (layout, report, impression), all in one test, and names each that differs."""
    rows = list(rows)
    assert rows
    wrong = [f"{name}: {found!r}" for name, report, right in rows if (found := impression(report)) != right]
    assert not wrong, "\n".join(wrong)
