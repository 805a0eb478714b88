"""Texts for a single radiograph: what is deleted, what stays, and what holds for any text."""

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sdcxr.text.refocusing import clean, describe_change, refocus, use_mode


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Compared to ___, small left effusion.", "Small left effusion."),
        ("In comparison with the study of ___, small effusion.", "Small effusion."),
        ("Small effusion. Discussed with Dr. ___ by ___ on ___ at 10:30 AM.", "Small effusion. Discussed at 10:30 AM."),
        ("___ year old woman with edema.", "Woman with edema."),
        ("Dr. ___ was notified at ___. Large pneumothorax.", "Large pneumothorax."),
        ("Compared to prior radiographs ___ through ___. Severe cardiomegaly.", "Severe cardiomegaly."),
        ("AP chest compared to ___: Moderate effusion.", "AP chest: Moderate effusion."),
        ("Opacity (seen on ___) at the left base.", "Opacity (seen) at the left base."),
        ("No XXXX of pleural effusions.", "No pleural effusions."),
        ("XXXX XXXX bilateral effusions, XXXX-XXXX.", "Bilateral effusions."),
        ("Normal chest x-XXXX.", "Normal chest."),
        ("Opacity most XXXX representing atelectasis.", "Opacity representing atelectasis."),
        ("A 3.5 cm mass since [** 2010-5-1 **].", "A 3.5 cm mass."),
        ("___", ""),
        ("Seen on ___.  Stable.", "Seen. Stable."),
        ("No  mark,\nnothing else .. changes", "No mark, nothing else .. changes"),
    ],
)
def test_marks_go_with_the_words_that_lean_on_them(text, cleaned):
    assert clean(text) == cleaned


@pytest.mark.parametrize(
    ("text", "refocused"),
    [
        # comparison and time
        ("Unchanged moderate cardiomegaly since the prior study.", "Moderate cardiomegaly."),
        ("As compared to the previous radiograph, there is mild edema.", "There is mild edema."),
        ("Interval increase in left pleural effusion since ___.", "Left pleural effusion."),
        ("There has been interval development of a small right pneumothorax.", "Small right pneumothorax."),
        ("New right lower lobe opacity.", "Right lower lobe opacity."),
        (
            "Tube 4.5 cm above the carina, unchanged. NG tube in stomach.",
            "Tube 4.5 cm above the carina. NG tube in stomach.",
        ),
        ("No significant change. Persistent left lower lobe collapse.", "Left lower lobe collapse."),
        ("The lungs are clear with no change since the prior exam.", "The lungs are clear."),
        ("In comparison with the study of ___, there is little change in the cardiomegaly.", "Cardiomegaly."),
        ("Cardiomegaly is stable and the lungs are clear.", "Cardiomegaly. The lungs are clear."),
        ("The silhouette is stable and normal.", "The silhouette is normal."),
        ("Known right hilar mass, better assessed on the prior CT.", "Right hilar mass."),
        ("Previously seen opacity has resolved. Mild edema.", "Mild edema."),
        ("Right chest tube with resolution of pneumothorax.", "Right chest tube."),
        ("COPD with almost completely resolved apical air.", "COPD with almost completely resolved apical air."),
        ("Clearing of left base disease. Scar.", "Scar."),
        ("Left effusion has resolved and there is a right pneumothorax. Scar.", "There is a right pneumothorax. Scar."),
        ("Right effusion is larger and left effusion has resolved. Scar.", "Right effusion. Scar."),
        ("Effusion and pneumothorax have resolved. Scar.", "Scar."),
        ("Resolution of left effusion and development of right pneumothorax.", "Right pneumothorax."),
        ("Pneumonia has not completely resolved. Scar.", "Pneumonia has not completely resolved. Scar."),
        ("Incomplete resolution of pneumonia. Scar.", "Pneumonia. Scar."),
        ("Mild edema, previously severe. Nodule of 4 mm (previously 3 mm).", "Mild edema. Nodule of 4 mm."),
        ("Effusion, previously seen, with edema.", "Effusion, with edema."),
        # without the change they would deny the finding
        ("No increase in left effusion since ___.", "No increase in left effusion."),
        ("No interval worsening of edema. Scar.", "No interval worsening of edema. Scar."),
        ("No worsening edema.", "No worsening edema."),
        ("Lack of improvement in edema.", "Lack of improvement in edema."),
        ("No new or worsening consolidation.", "No consolidation."),
        ("No new nodule.", "No nodule."),
        ("Stable 5 mm nodule. No new nodules.", "5 mm nodule."),
        ("No new or suspicious nodules.", "No suspicious nodules."),
        ("Small but increasing right effusion.", "Small right effusion."),
        ("This may represent resolving or developing pneumonia.", "This may represent pneumonia."),
        ("Stable to improved edema.", "Edema."),
        ("Consistent with slight interval worsening of fibrosis.", "Consistent with fibrosis."),
        ("Small effusion, old rib fractures.", "Small effusion, old rib fractures."),
        # advice, communication, hedges without a finding
        ("Nodule. Recommend CT.", "Nodule."),
        ("Nodule in the left lung, for which chest CT is recommended.", "Nodule in the left lung."),
        ("Edema, clinical correlation recommended", "Edema"),
        ("Nodule of the left lung recommend films", "Nodule of the left lung"),
        ("Pneumonia. Findings discussed with Dr. ___ at 9:05 a.m. on ___ by phone.", "Pneumonia."),
        ("Effusion. If clinically indicated, consider a CT. Scar.", "Effusion. Scar."),
        ("No definite pleural effusion.", "No pleural effusion."),
        # what stays
        ("Possible small right effusion.", "Possible small right effusion."),
        ("Opacity may represent pneumonia.", "Opacity may represent pneumonia."),
        ("Scars suggest a previous granulomatous process.", "Scars suggest a previous granulomatous process."),
        ("Increased interstitial markings.", "Increased interstitial markings."),
        ("Stable heart size, moderately enlarged.", "Heart size, moderately enlarged."),
        ("Mild enlargement of the heart.", "Mild enlargement of the heart."),
        ("Slight enlargement of the cardiac silhouette.", "Slight enlargement of the cardiac silhouette."),
        ("Interval enlargement of the right hilum.", "Enlargement of the right hilum."),
        ("Interval enlargement of the right effusion.", "Right effusion."),
        ("1. Mild edema. 2. 3.5 cm mass in segment 6. Scar.", "Mild edema. 3.5 cm mass in segment 6. Scar."),
        # nothing left
        ("Unchanged appearance of the chest.", "Unchanged appearance of the chest."),
        ("Compared to ___, no relevant change.", "No relevant change."),
        ("Stable.", "Stable."),
        ("", ""),
    ],
)
def test_what_one_radiograph_cannot_show_goes_and_findings_stay(text, refocused):
    assert refocus(text) == refocused


WORDS = """
    left right small large pleural effusion pneumonia nodule heart lungs clear normal no and or with in of the is are
    has been stable unchanged new interval since compared to prior study recommend CT resolved improved change Dr. ___
    XXXX, at on 10:30 1. 2. 3) 3.5 cm . , ; ( ) : which may represent but without discussed telephone a.m. appearance
"""


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def is_subsequence(part: list[str], whole: list[str]) -> bool:
    rest = iter(whole)
    return all(word in rest for word in part)


@pytest.mark.parametrize("change", [clean, refocus])
@given(text=st.lists(st.sampled_from(WORDS.split()), max_size=30).map(" ".join) | st.text(max_size=60))
@example(text="No. 1. Stable. 1. ___ 2.")
def test_any_text_loses_words_only_and_is_done_at_once(change, text):
    once = change(text)
    assert change(once) == once
    assert is_subsequence(words(once), words(text))
    assert "___" not in once and "XXXX" not in once
    assert change is clean or once or not clean(text)


@pytest.mark.parametrize(
    "text",
    ["stable mild " * 2000, "no change in the " * 1000, "to the prior ___ " * 1000, "a, " * 2000, "1. " * 2000],
)
def test_long_nonsense_is_read_in_no_time(text):
    start = time.process_time()
    refocus(text)
    assert time.process_time() - start < 20


def test_raw_is_as_it_was():
    assert use_mode(" a\n ___ ", "raw") == " a\n ___ "


def test_the_account_of_a_mode():
    line = describe_change("clean", ["abcd", "Clear."], ["ab", "Clear."])
    assert line == "texts: 1 of 2 are changed by --text clean (50.0%), 20.0% of the characters are dropped"
