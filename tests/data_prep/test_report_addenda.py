"""Addenda, prior reports and those of other persons never stand for the impression; layouts of invented reports."""

import pytest

from tests.data_prep.reports import BODY, PRIOR, RULE, SMALL, compare

ADDED = "Text of the addendum."
ADDENDA = {
    "name and colon": "ADDENDUM:",
    "name": "ADDENDUM",
    "title case": "Addendum:",
    "title case without colon": "Addendum",
    "lower case": "addendum:",
    "stars": "*** ADDENDUM ***",
    "stars without blanks": "****ADDENDUM****",
    "dashes": "----- ADDENDUM -----",
    "equals signs": "=== Addendum ===",
    "brackets": "[ADDENDUM]",
    "angle brackets": "<< ADDENDUM >>",
    "bold": "**ADDENDUM:**",
    "number": "ADDENDUM #1",
    "number and colon": "ADDENDUM 2:",
    "begins": "ADDENDUM BEGINS",
    "begin of": "BEGIN ADDENDUM",
    "start of": "START OF ADDENDUM",
    "starts": "Addendum starts here",
    "author": "Addendum by Dr. ___ on ___:",
    "author and time": "ADDENDUM BY DR. J. EXAMPLE ON 01/02/2020 AT 10:30:",
    "date in brackets": "ADDENDUM (03/04/2019 10:30 AM):",
    "dated": "Addendum dated ___:",
    "created": "ADDENDUM CREATED BY: ___",
    "final": "FINAL ADDENDUM",
    "first": "FIRST ADDENDUM:",
    "report": "ADDENDUM REPORT",
    "radiology": "RADIOLOGY REPORT ADDENDUM",
    "to": "Addendum to the report of ___:",
    "dash": "ADDENDUM -",
    "supplementary": "SUPPLEMENTARY REPORT:",
    "plural": "ADDENDA:",
    "under a rule": f"{RULE}",
    "under a rule with name": f"{RULE}\nADDENDUM",
    "between rules": f"{RULE}\nADDENDUM:\n{RULE}",
    "underlined": "Addendum\n--------",
    "under dashes": "-" * 50,
    "under equals signs": "=" * 50 + "\n",
}


@pytest.mark.parametrize("gap", ["\n", "\n\n", "\n \n "], ids=["", "after a blank line", "as in MIMIC-CXR"])
@pytest.mark.parametrize(
    "addition", [f" IMPRESSION: {ADDED}\n", f"The film was seen again.\n\nIMPRESSION:\n{ADDED}"], ids=["", "with text"]
)
def test_below_a_report_an_addendum_does_not_replace_its_impression(addition, gap):
    report = f"{BODY}IMPRESSION: {SMALL}{gap}"
    compare((name, f"{report}{mark}\n{addition}", SMALL) for name, mark in ADDENDA.items())


@pytest.mark.parametrize("between", [f"{RULE}\n", "FINAL REPORT\n", "END OF ADDENDUM\n", "Original report:\n", ""])
def test_above_a_report_an_addendum_does_not_replace_its_impression(between):
    report = f" IMPRESSION: {ADDED}\n{between}{BODY}IMPRESSION: {SMALL}\n"
    compare((name, f"{mark}\n{report}", SMALL) for name, mark in ADDENDA.items() if "dden" in mark.lower())


PRIORS = {
    "prior": "PRIOR IMPRESSION:",
    "prior in title case": "Prior impression:",
    "prior without colon": "PRIOR IMPRESSION\n",
    "previous": "PREVIOUS IMPRESSION:",
    "previous in lower case": "\nprevious impression:",
    "old": "OLD IMPRESSION -",
    "from a hidden date": "Impression from ___:",
    "from a date": "IMPRESSION FROM 01/02/2015:",
    "from a study": "IMPRESSION FROM PRIOR STUDY:",
    "of a study": "Impression of prior exam:",
    "of a date": "IMPRESSION OF 3/4/2018:",
    "dated": "Impression dated ___:",
    "last": "LAST IMPRESSION:",
    "in brackets": "IMPRESSION (PRIOR):",
    "prior conclusion": "PREVIOUS CONCLUSION:",
    "outside": "OUTSIDE IMPRESSION:",
    "report": "PRIOR REPORT:\nIMPRESSION:",
    "report within a line": "PREVIOUS REPORT: IMPRESSION:",
    "clinical": "CLINICAL IMPRESSION:",
    "clinical in title case": "Clinical impression:",
    "referring": "REFERRING PHYSICIAN'S IMPRESSION:",
    "clinical diagnosis": "CLINICAL DIAGNOSIS:",
}


def test_an_impression_of_another_time_or_person_is_not_the_impression():
    compare((name, f"{BODY}\n{mark} {PRIOR}\n", None) for name, mark in PRIORS.items())
    compare((name, f"{BODY}IMPRESSION: {SMALL}\n\n{mark} {PRIOR}\n", SMALL) for name, mark in PRIORS.items())
    compare((name, f"{mark} {PRIOR}\n\n{BODY}IMPRESSION: {SMALL}\n", SMALL) for name, mark in PRIORS.items())
