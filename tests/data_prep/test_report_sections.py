"""The section parser: each trap of MIMIC-CXR's reports, properties of any text, agreement with the official rules."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.official_sections import official_impression
from data_prep.report_sections import impression, normalise, sections

RULE = " " + "_" * 78

HEADER_TRAPS = {
    "at offset 0": ("IMPRESSION: Clear lungs.", "Clear lungs."),
    "no leading space": ("FINDINGS: A.\nIMPRESSION: Clear lungs.", "Clear lungs."),
    "mixed case": (" FINDINGS: A.\n \n Impression: Clear lungs.", "Clear lungs."),
    "on consecutive lines": ("\n EXAM: A.\n FINDINGS:\n IMPRESSION: Clear lungs.", "Clear lungs."),
    "no white space after the colon": (" IMPRESSION:Clear lungs.", "Clear lungs."),
    "a number right after the colon": (" IMPRESSION:1. Clear lungs.", "1. Clear lungs."),
    "a digit": (" IMPRESSION 2: Clear lungs.", "Clear lungs."),
    "a number sign": (" IMPRESSION #1: Clear lungs.", "Clear lungs."),
    "an ampersand": (" FINDINGS & IMPRESSION: Clear lungs.", "Clear lungs."),
    "a full stop": (" IMPRESSION.: Clear lungs.", "Clear lungs."),
    "a space before the colon": (" IMPRESSION : Clear lungs.", "Clear lungs."),
    "Windows line ends": (" FINDINGS: A.\r\n \r\n IMPRESSION: Clear\r\n lungs.\r\n", "Clear lungs."),
    "a misspelling": (" IMPRESSOIN: Clear lungs.", "Clear lungs."),
    "a combined name": (" IMPRESSION AND RECOMMENDATION(S): Clear lungs.", "Clear lungs."),
    "a qualified name": (" SECOND IMPRESSION OF CHEST: Clear lungs.", "Clear lungs."),
    "a conclusion": (" CONCLUSION: Clear lungs.", "Clear lungs."),
}


@pytest.mark.parametrize(("report", "expected"), HEADER_TRAPS.values(), ids=HEADER_TRAPS)
def test_finds_an_impression_whose_header_has(report, expected):
    assert impression(report) == expected


ENDINGS = {
    "a recommendation": " IMPRESSION: Clear lungs.\n \n RECOMMENDATION(S): CT.",
    "a notification": " IMPRESSION: Clear lungs.\n \n NOTIFICATION: Dr. X at 10:30.",
    "a wet read": " IMPRESSION: Clear lungs.\n \n WET READ: Pneumonia.",
    "findings below": " IMPRESSION: Clear lungs.\n \n FINDINGS: Long.",
    "the views of a second examination": " IMPRESSION: Clear lungs.\n \n CHEST, TWO VIEWS: Long.",
    "a ruled line": f" IMPRESSION: Clear lungs.\n{RULE}\n The patient was called.",
    "a final addendum": " IMPRESSION: Clear lungs.\n    FINAL ADDENDUM\n The patient was called.",
}


@pytest.mark.parametrize("report", ENDINGS.values(), ids=ENDINGS)
def test_an_impression_ends_at(report):
    assert impression(report) == "Clear lungs."


@pytest.mark.parametrize(
    "inside",
    [
        "CHEST: Clear.",
        "LINES: None.",
        "LINES AND TUBES:None.",
        "RIBS: Intact.",
        "Chest: clear.",
        "AT 10:30 AM.",
        "Date: ___",
    ],
)
def test_a_heading_within_an_impression_does_not_cut_it(inside):
    assert impression(f" IMPRESSION:\n \n 1. No change.\n {inside}\n 2. End.") == f"1. No change. {inside} 2. End."


SEVERAL = {
    "the last wins": (" IMPRESSION: First.\n \n IMPRESSION: Second.", "Second."),
    "an empty last one does not": (" IMPRESSION: First.\n \n IMPRESSION:\n \n", "First."),
    "an addendum above does not": (
        f" ADDENDUM: Note.\n IMPRESSION: Added.\n{RULE}\n   FINAL REPORT\n IMPRESSION: Original.",
        "Original.",
    ),
    "an addendum below does not": (" IMPRESSION: Original.\n \n ADDENDUM: Note.\n IMPRESSION: Added.", "Original."),
    "a final addendum below a rule does not": (
        f" IMPRESSION: Original.\n{RULE}\n   FINAL ADDENDUM\n IMPRESSION: Added.\n{RULE}\n IMPRESSION: Added again.",
        "Original.",
    ),
    "two addenda above do not": (
        f" ADDENDUM: A.\n IMPRESSION: B.\n{RULE}\n ADDENDUM: C.\n IMPRESSION: D.\n{RULE}\n FINAL REPORT\n"
        " IMPRESSION: Original.\n \n RECOMMENDATION: E.",
        "Original.",
    ),
    "an addendum's where there is no other": (" FINDINGS: A.\n \n ADDENDUM: B.\n IMPRESSION: Added.", "Added."),
    "an addendum that nothing closes": (" ADDENDUM: A.\n EXAMINATION: B.\n IMPRESSION: Original.", "Original."),
    "a wet read does not": (
        f" WET READ: A.\n IMPRESSION: Early.\n{RULE}\n   FINAL REPORT\n IMPRESSION: Late.\n WET READ: IMPRESSION: B.",
        "Late.",
    ),
}


@pytest.mark.parametrize(("report", "expected"), SEVERAL.values(), ids=SEVERAL)
def test_of_several_impressions(report, expected):
    assert impression(report) == expected


@pytest.mark.parametrize(
    "report",
    [
        "",
        " \n \n",
        " FINDINGS: Clear lungs.",
        " IMPRESSION:\n \n",
        " NDICATION: Cough.",
        " CLINICAL IMPRESSION: Pneumonia.",
        " The impression: unclear.",
        " FINDINGS: It fits the first\n impression: of a line that went on",
        " No header here at all.",
    ],
)
def test_there_is_no_impression_in(report):
    assert impression(report) is None


def test_keeps_deidentified_words_list_numbers_and_decimals():
    report = " IMPRESSION:\n \n 1. 3.5 cm nodule,\n unchanged since ___."
    assert impression(report) == "1. 3.5 cm nodule, unchanged since ___."


def test_names_every_section_and_marks_the_asides():
    report = f"  WET READ: A.\n{RULE}\n     FINAL REPORT\n INDICATION: B.\n \n PORTABLE CHEST: C.\n \n IMPRESSION: D.\n"
    found = [(section.name, section.body.strip(), section.aside != "") for section in sections(report)]
    assert found == [
        ("wet read", "A.", True),
        ("", "", False),
        ("", "", False),
        ("indication", "B.", False),
        ("findings", "C.", False),
        ("impression", "D.", False),
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Properties of any text. Pieces of reports are mixed in, because random characters seldom make a header.

PIECES = [
    "IMPRESSION:", "Impression:", "FINDINGS:", "ADDENDUM:", "WET READ:", "CHEST:", "\n", "\n ", "\n \n ", "\r\n", " ",
    "FINAL REPORT", "FINAL ADDENDUM", RULE, "___", "1.", "Clear lungs.", "10:30",
    "Signed by", "Dr. A. Example", "MD", "IMPRESSION", ":", "COMPARISON:",
]  # fmt: skip
any_text = st.one_of(
    st.text(),
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=8)), max_size=25).map("".join),
)


@given(any_text)
@settings(max_examples=400)
def test_no_character_is_lost_and_nothing_raises(text):
    assert "".join(section.header + section.body for section in sections(text)) == text


@given(any_text)
@settings(max_examples=400)
def test_an_impression_read_again_is_itself_or_doubtful(text):
    """On one line there is no line break left that told words from administration: then None, never another text."""
    found = impression(text)
    assert normalise(normalise(text)) == normalise(text)
    if found is not None:
        assert found == normalise(found)
        assert impression(f"IMPRESSION: {found}") in (found, None)


def test_a_long_line_takes_linear_time():
    assert impression(" A" * 200_000 + "\n IMPRESSION: End.") == "End."


# ---------------------------------------------------------------------------------------------------------------------
# Agreement with the rules of MIMIC-CXR's own parser.


# Words of a fixed list: Hypothesis mixes words of our own sources into free text, such as "sincerely" or "addenda".
WORDS = [
    "lungs", "are", "clear", "no", "new", "effusion", "or", "edema", "in", "the", "left", "lower", "lobe", "heart",
    "size", "is", "normal", "stable", "since",
]  # fmt: skip
FUNCTION_WORDS = {"are", "or", "in", "the", "is", "since"}  # alone they are no text
sentence = (
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=12)
    .filter(lambda words: not FUNCTION_WORDS.issuperset(words))
    .map(lambda words: " ".join(words).capitalize() + ".")
)
paragraph = st.lists(sentence, min_size=1, max_size=4).map("\n ".join)


def block(*headers: str) -> st.SearchStrategy[str]:
    return st.one_of(st.just(""), st.builds("{}: {}\n \n ".format, st.sampled_from(headers), paragraph))


well_formed = st.tuples(
    st.one_of(st.just("\n "), st.builds("\n  WET READ: {}\n{}\n".format, paragraph, st.just(RULE))),
    st.just("                                FINAL REPORT\n "),
    block("EXAMINATION", "EXAM", "TYPE OF EXAMINATION"),
    block("INDICATION", "HISTORY", "CLINICAL INFORMATION", "REASON FOR EXAM"),
    block("TECHNIQUE"),
    block("COMPARISON", "COMPARISONS", "COMPARISON FILM"),
    block("FINDINGS", "PA AND LATERAL CHEST", "CHEST, TWO VIEWS", "PORTABLE CHEST"),
    block("IMPRESSION", "CONCLUSION", "IMPRESSION AND RECOMMENDATION(S)", "FINDINGS/IMPRESSION", "IMPRESSON"),
    block("IMPRESSION", "MPRESSION"),
    block("RECOMMENDATION(S)", "NOTIFICATION", "WET READ"),
).map("".join)


@given(well_formed)
@settings(max_examples=400)
def test_agrees_with_the_official_rules_on_well_formed_reports(report):
    assert impression(report) == official_impression(report)


@pytest.mark.parametrize(
    "trap", ["at offset 0", "mixed case", "on consecutive lines", "no white space after the colon"]
)
def test_the_restated_official_rules_fall_into_the_traps(trap):
    report, expected = HEADER_TRAPS[trap]
    assert official_impression(report) != expected


OFFICIAL = {  # reports and their impression by the official rules
    "capitals after a line end and a blank": ("\n IMPRESSION: Clear.\n", "Clear."),
    "the last one": ("\n IMPRESSION: First.\n \n ADDENDUM:\n \n IMPRESSION: Added.\n", "Added."),
    "an empty last one": ("\n IMPRESSION: First.\n \n IMPRESSION: \n", "First."),
    "NDICATION": ("\n NDICATION: Cough.\n", "Cough."),
    "a clinical impression": ("\n CLINICAL IMPRESSION: Cough.\n", "Cough."),
    "up to a sub-heading": ("\n IMPRESSION: Clear.\n CHEST: Normal.\n", "Clear."),
    "title case": ("\n Impression: Clear.\n", None),
    "at the very start": ("IMPRESSION: Clear.\n", None),
    "directly below a heading": ("\n FINDINGS:\n IMPRESSION: Clear.\n", None),
    "another word": ("\n OPINION: Clear.\n", None),
}


@pytest.mark.parametrize(("report", "expected"), OFFICIAL.values(), ids=OFFICIAL)
def test_the_official_rules_read(report, expected):
    assert official_impression(report) == expected


@given(any_text, any_text)
@settings(max_examples=400)
def test_what_is_skipped_for_speed_does_not_matter(above, below):
    """A line at the top that makes the parser read all of the report closely changes nothing."""
    report = f"{above}\nIMPRESSION: Clear lungs. {below}\n"
    assert impression(report) == impression(f"Draft of a study\n\n{report}")


OLD_REPORTS = [
    "OLD REPORT OF ___:",
    "Old report of ___:",
    "ARCHIVED REPORT:",
    "*** ARCHIVED REPORT ***",
    "REPORT OF PRIOR EXAMINATION",
    "Report of the previous study of ___ is quoted below.",
    "PRIOR REPORT FROM ___",
    "PRIOR REPORT",
    "EARLIER CHEST X-RAY REPORT",
    "Outside hospital report dated ___:",
    "LAST REPORT (___):",
    "For reference, the report of ___ read:",
    "For reference:",
]
QUOTED = [
    "FINDINGS: Large heart.\nIMPRESSION: Old cardiomegaly.",
    "EXAM: Chest.\nINDICATION: Cough.\n\nFINDINGS: Large heart.\n\nIMPRESSION: Old cardiomegaly.",
    "IMPRESSION: Old cardiomegaly.",
]


@pytest.mark.parametrize("gap", ["\n", "\n\n", "\n____________\n"])
@pytest.mark.parametrize("quoted", QUOTED)
@pytest.mark.parametrize("opening", OLD_REPORTS)
def test_an_old_report_below_the_own_one_does_not_replace_it(opening, quoted, gap):
    assert impression(f"FINDINGS: Clear.\nIMPRESSION: Normal chest.{gap}{opening}\n{quoted}\n") == "Normal chest."


@pytest.mark.parametrize("quote", ['"IMPRESSION: Old text." (report of ___)', '"IMPRESSION: Old text."'])
def test_a_quoted_impression_below_the_own_one_does_not_replace_it(quote):
    assert impression(f"FINDINGS: A.\nIMPRESSION: Normal chest.\n{quote}") == "Normal chest."


@pytest.mark.parametrize(
    "own",
    [
        "Nodule as seen in\nprior report of ___. Stable.",
        "Nodule.\nPrior report of ___ mentioned a nodule, which is stable.",
        "Small effusion.\nUnchanged from previous report of ___.",
        "No pneumothorax.  An addendum will be issued once prior films are available.",
    ],
)
def test_a_sentence_about_another_report_is_text(own):
    assert impression(f"FINDINGS: A.\nIMPRESSION: {own}") == normalise(own)


@pytest.mark.parametrize("end", ["\nThis addendum was created at 10:30.", "\nThis addendum is created by Dr. Roe."])
def test_a_line_about_the_making_of_an_addendum_is_no_text(end):
    assert impression(f"IMPRESSION: No pneumothorax.{end}") == "No pneumothorax."


@pytest.mark.parametrize("heading", ["IMPRESSION BY DR. ROE", "Impression by Dr. Roe", "IMPRESSION PER DR. J. ROE, MD"])
def test_an_impression_by_its_author_is_a_heading(heading):
    assert impression(f"FINDINGS: A.\n{heading}: Normal chest.") == "Normal chest."
