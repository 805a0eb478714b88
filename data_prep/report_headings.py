"""The names of sections in radiology reports, and which section a heading opens. Data and pure functions.

A heading that is not known is text: sub-headings of an impression (CHEST:, LINES:, NEW FINDINGS:) do not end it.
"""

import re
from difflib import get_close_matches
from functools import lru_cache


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# ---------------------------------------------------------------------------------------------------------------------
# Whole names, with misspellings that occur in MIMIC-CXR. Key "": sections of no further interest.

_NAMES = {
    "findings": """
        findings, finding, reference findings, findins, findindgs, findgings, findngs, findnings, finidngs,
        report, results""",
    "comparison": """
        comparison, comparisons, reference exam, comparison exam, comparison film, comparision, comparsion,
        comparrison, comparisions, comparison study, comparison studies, prior studies, prior study, prior exams""",
    # What the referring physician suspects is no finding.
    "indication": """
        indication, indications, idication, ndication, reason for exam, reason for examination, reason,
        reason for study, reason for this examination, reason for this exam, reason for visit, reason for test,
        reason for order, exam reason, clinical indication, clinical indications, clinical question,
        medical condition, underlying medical condition, clinical details""",
    "history": """
        history, clinical history, clinical information, patient history, medical history, pfi, clinical data,
        relevant history, brief history, clinical background, clinical statement, clinical notes""",
    "examination": """
        examination, exam, type of examination, study, procedure, exam type, study type, examination type,
        exam name, procedure name, study performed, examination performed, exam performed, procedure performed""",
    "technique": "technique, protocol, procedure technique, imaging technique",
    "recommendations": """
        recommendation, recommendations, recommend, advice, advise, plan, suggestion, suggestions, follow-up,
        follow up, followup, followup recommendation, follow-up recommendation, follow-up recommendations,
        next steps, next step, recommended action""",
    "notification": """
        notification, notifications, communication, critical results, critical result,
        critical results communication, communication of critical results, critical findings communication,
        result communication, communications, critical communication, notification of critical results,
        findings communicated, notified""",
    "addendum": """
        supplementary report, supplemental report, supplement, erratum, late entry, corrigendum, amendment,
        correction""",
    "wet read": """
        wet read, wetread, wet reading, preliminary read, preliminary report, preliminary reading, prelim report,
        prelim, prelim read, preliminary, preliminary result, preliminary results, provisional report,
        resident read, resident report, overnight read, overnight report, ed read, er read, draft report, draft""",
    "prior report": """
        prior report, previous report, old report, outside report, prior reports, previous reports, last report,
        outside reports, prior result, previous result, prior results, previous results, outside hospital report""",
    "main report": """
        final report, original report, current report, final read, final reading, final, attending read,
        current exam, current examination, current study, radiology report, final radiology report,
        attending report, main report, final result, end of prior report, begin report, today's report,
        final diagnostic report""",
    "": """
        comment, comments, date, note, notes, discussion, dictated by, dictated, signed by, signed, signature,
        report text, signature line, electronically signed by, e-signed by, attending, radiologist, resident,
        narrative, caption, result narrative, report narrative, reading radiologist, interpreting radiologist,
        attending radiologist, staff radiologist, consultant radiologist, attending physician,
        ordering physician, ordering provider, referring physician, reading physician, interpreting physician,
        physician, provider, transcriptionist, transcribed by, transcribed, verified by, verified, reported by,
        reported, approved by, approved, authenticated by, reviewed by, interpreted by, read by, typed by,
        finalized by, finalised by, attestation, disclaimer, teaching physician statement, attending statement,
        primary diagnostic code, diagnostic code, diagnostic codes, primary interpreting staff,
        secondary interpreting staff, interpreting staff, primary interpreting resident, report status, status,
        result status, workstation, workstation id, accession, accession number, accession no, icd, icd code,
        icd codes, icd-, icd- code, icd- codes, cpt, cpt code, cpt codes, billing, billing code, billing codes,
        diagnosis code, diagnosis codes, job id, job number, document id, mrn, patient name, by, consultant,
        reporter, author, dict, trans, exam date, date of exam, study date, date of service, report date,
        date signed, date dictated, date reported, exam end, specimen collected, order details, radiation dose,
        cc, copies to, keywords, mesh, teaching point, teaching points, learning point, learning points,
        references, source, end of impression, end impression, end of report, end report, end of text, license,
        case discussion, differential diagnosis, differential, ddx, dd, dt, tt""",
}
_SECTION_OF = {" ".join(name.split()): section for section, names in _NAMES.items() for name in names.split(",")}

# ---------------------------------------------------------------------------------------------------------------------
# Names that give the impression are composed: FINAL RADIOLOGICAL IMPRESSION, CONCLUSION/RECOMMENDATION. By rank: a
# report that has both is about its IMPRESSION, and its SUMMARY or INTERPRETATION is something else.

_RANKS = {
    "impression": "impression impressions conclusion conclusions imp impr conc concl",
    "opinion": "opinion opinions summary assessment evaluation appraisal synopsis",
    "interpretation": "interpretation interpretations interpretaton",
    "diagnosis": "diagnosis diagnoses dx",  # only below findings: above, it is what the referring physician suspects
}
IMPRESSIONS = tuple(_RANKS)
_RANK_OF = {word: rank for rank, words in _RANKS.items() for word in words.split()}
_TO_SPELL = ("impression", "impressions", "conclusion", "conclusions")
_ALIKE = 0.88  # IMPRESSOIN and MPRESSION are so alike, COMPRESSION is not
_QUALIFIERS = _words(
    """
    final overall radiologic radiological radiographic radiology radiologist radiologist's radiologists
    diagnostic imaging general main report reports x-ray xray x ray cxr chest thorax current present today's
    brief short the of and or plan recommendation recommendations recommended findings finding attending staff
    image images study exam examination first second third revised corrected amended updated key film radiograph
    radiographs pa ap lateral view views portable narrative comment comments advice discussion follow-up result
    results official formal reader's reader two frontal for s communication contd cont continued case rad new
    """
)
_PRIOR_REPORT = re.compile(rb"(?:prior|previous|old|last|outside) +(?:hospital +)?(?:report|result)")
# Each name of an addendum, of a preliminary report or of an impression has one of these words.
_DECISIVE = frozenset(
    word.encode()
    for word in (
        *_RANK_OF,
        *_words("addendum addenda addended supplementary supplemental supplement erratum late corrigendum"),
        *_words("amendment correction wet wetread preliminary prelim provisional resident overnight ed er draft"),
    )
)
_LETTERS = bytes(ord(chr(byte).lower()) if byte < 128 and chr(byte).isalpha() else 32 for byte in range(256))
# Words that say of whom or of when an impression is.
_PRIOR = _words(
    """
    prior previous old last past preceding former from dated outside osh historical baseline earlier comparison
    """
)
_ADDENDA = _words("addendum addenda addended late impression")
_ADDED = _words("addendum additional added supplementary supplemental")
_IMAGING = _words("radiologic radiological radiographic radiology x-ray xray cxr imaging final")
# A heading of two or three words, one of these among them, is about the making of the report.
_ADMINISTRATIVE = _words(
    """
    date dictated dictating dictation dict transcribed transcription transcriptionist trans resulted ended signed
    signature signing provider physician radiologist radiologist's resident attending author code codes accession mrn
    workstation technologist pager fax verifier signer cosigner completed performed finalized fellow electronically
    """
)
_PRELIMINARY = _words(
    """
    preliminary prelim wet initial resident resident's residents ed er emergency overnight nighthawk draft
    unofficial ai cad automated computer trainee provisional
    """
)
_CLINICAL = _words(
    """
    clinical clinician clinician's referring referrer admitting admission preoperative pre-op preop working
    presumptive suspected patient nursing indication history provider's request requesting physician's ecg ekg
    """
)
_NO_HEADING = re.compile(r"(?:no|see|in|as|per|with|my|our|the|this|there|same|under|an?) ")

# Running text may begin a line with one of these, capitalised and followed by a colon.
_ONLY_IN_CAPITALS = _words(
    """
    date exam study note notes comment comments procedure finding report results reason draft final prelim name
    status differential preliminary recommend supplement correction notified cc dd dt
    """
)
# A heading in capitals that contains one of these is that section: FRONTAL CHEST RADIOGRAPH FINDINGS.
_CONTAINED = ("impression", "findings", "history", "comparison")
# Names of an examination that head the findings, except inside an impression with a paragraph per examination.
_VIEWS = re.compile(
    r"chest|portable|ribs|bone window|(two|one|frontal|pa|ap|lateral) views?"
    r"|(pa|ap) and lat|lateral and (pa|ap)|frontal (and|upright|semi-upright)"
)
_MOST_WORDS = 5  # of a heading that is recognised by a part of it; longer ones are sentences in capitals
_DATE = re.compile(r"_{2,}|\d{1,4}[/.-]\d{1,2}([/.-]\d{1,4})?|\b(19|20)\d\d\b|\[\*\*|xxxx")


def letters(text: str) -> bytes:
    """Small letters, and a blank for everything else."""
    return text.encode(errors="replace").translate(_LETTERS)


def may_be_decisive(text: str) -> bool:
    """Whether a text may have a heading that decides which impression below it counts; quick.

    Wrongly no only for a misspelt heading.
    """
    words = letters(text)
    return not _DECISIVE.isdisjoint(words.split()) or _PRIOR_REPORT.search(words) is not None


@lru_cache(maxsize=8192)
def section_named(heading: str, in_impression: bool = False) -> str | None:
    """The section of a heading that is a known name or composed of known words; None if it is text.

    Args:
        heading: without colon; capitals matter.
        in_impression: whether it stands in an impression, where more headings are text.

    Returns:
        A rank of `IMPRESSIONS`, "prior impression", "findings", "addendum", "main report" and so on; "" for a section
        of no further interest.
    """
    heading = heading.strip(" _#")
    in_capitals = re.sub(r"\(.*?\)", "", heading).isupper()
    lower = heading.lower().replace("&", " and ").replace("(s)", "s").replace("’", "'")
    name = _bare(lower)
    if (section := _SECTION_OF.get(name)) is not None:
        return section if in_capitals or name not in _ONLY_IN_CAPITALS else None
    words = [word for word in re.split(r"[\s/,+]+", name) if word]
    if not _ADDENDA.isdisjoint(words) and "adden" in name:
        return "addendum" if _ADDENDA.issuperset(word for word in words if word not in _QUALIFIERS) else None
    ranks = [rank for word in words if (rank := _rank_of(word))]
    if not ranks or _NO_HEADING.match(name) or re.search(r",\S", name):
        return None
    rank = min(ranks, key=IMPRESSIONS.index)
    if rank == "diagnosis" and not _IMAGING.isdisjoint(words):
        rank = "opinion"
    others = {word for word in re.split(r"[\s/,+()\[\]]+", lower.replace("_", " ")) if not _rank_of(word)}
    is_composed = all(word in _QUALIFIERS or word == "xxxx" or _rank_of(word) for word in words)
    if "IMPRESSION" in heading and not in_capitals and not is_composed:
        return None  # running text before a heading
    if others & _ADDED:
        return "addendum"
    if others & _CLINICAL:
        return "indication"
    if others & _PRIOR or (is_composed and _DATE.search(lower)):
        return "prior impression"
    if others & _PRELIMINARY:
        return "preliminary impression"
    if in_impression and rank != "impression" and not (in_capitals and len(words) == 1):
        return None
    return rank if is_composed else None


@lru_cache(maxsize=8192)
def section_of(heading: str, in_impression: bool = False) -> str | None:
    """As `section_named`; also of a heading in capitals that contains a known word (FRONTAL RADIOGRAPH FINDINGS)."""
    if (section := section_named(heading, in_impression)) is not None:
        return section
    name = _bare(heading.lower())
    words = re.split(r"[ /]+", name)
    is_about_report = not _ADMINISTRATIVE.isdisjoint(words) and not any(map(_rank_of, words))
    if 2 <= len(words) <= 3 and heading[0].isupper() and is_about_report:
        return ""
    if not heading.isupper():
        return None
    if len(name.split()) > _MOST_WORDS or (in_impression and "view" not in name):
        return None
    if not in_impression and not _NO_HEADING.match(name):
        for part in _CONTAINED:
            if part in name:
                return part
    return "findings" if _VIEWS.search(name) else None


def _rank_of(word: str) -> str | None:
    if word in _RANK_OF or len(word) < 8 or word in _QUALIFIERS:
        return _RANK_OF.get(word)
    return "impression" if get_close_matches(word, _TO_SPELL, n=1, cutoff=_ALIKE) else None


def _bare(heading: str) -> str:
    """Without digits, brackets and marks around it."""
    words = re.sub(r"\(.*?\)|\[.*?\]|[0-9#._]", " ", heading).split()
    if len(words) > 3 and max(map(len, words)) == 1:  # I M P R E S S I O N
        return "".join(words)
    return " ".join(words).strip(" ,/-()'+")
