"""Where an extracted impression ends and administration begins: judged by words, not by names of sign-offs.

Hospital systems put ever new lines below an impression: names, codes, telephone numbers, attestations, measures of
quality. Their number has no end, but the vocabulary of radiographs has: a line with a word of anatomy, pathology,
change, advice or notification is text; without one, a code, an unknown key before a colon, a name or a word of
administration marks the end. A line that shows neither leaves doubt, and then there is no impression.
"""

import re

from data_prep.report_headings import letters, section_named
from data_prep.report_patterns import EMPTY, REFERS

_STEM = 6  # letters that tell words apart: "effusi" for effusion and effusions


def _stems(words: str) -> frozenset[bytes]:
    return frozenset(word[:_STEM].encode() for word in words.split())


_CLINICAL = _stems(
    # anatomy
    """
    lung lungs pulmonary pleura pleural heart cardiac cardiopulmonary cardiomediastinal mediastinum mediastinal
    hilum hilar hila perihilar suprahilar infrahilar aorta aortic diaphragm hemidiaphragm costophrenic rib ribs bone
    bones bony bibasilar basilar basal bases apex apical biapical lobe lobes lobar lingula trachea airway airspace
    bronchi bronchial peribronchial interstitial interstitium alveolar vascular vasculature venous spine
    thoracolumbar vertebra osseous skeletal clavicle shoulder humeral sternum sternal abdomen bowel gastric stomach
    hepatic splenic colon subdiaphragmatic silhouette contour structures parenchyma retrocardiac paratracheal azygos
    carina ventricle atrium atrial mitral valve valvular coronary svc fissure sulcus bibasal chests thymus
    pericardial tissue tissues bullet overlies overlying projects projecting quadrant renal contrast hemithorax
    intrathoracic lordosis breast neck skin lumbar cervical hilus pelvis pelvic hip knee ankle foot hand wrist elbow
    scaphoid femur acromioclavicular glenohumeral joint joints umbilical sulci spinal
    """
    # pathology
    """
    abnormality abnormal anomaly disease process pneumonia pneumothorax pneumo ptx pneumothoraces pneumonitis
    effusion effusions edema oedema opacity opacities opacification opacified consolidation atelectasis atelectatic
    infiltrate infection infectious aspiration congestion congestive chf failure cardiomegaly enlarged enlargement
    mass masses nodule nodules nodular granuloma granulomatous calcified calcification calcific tuberculosis tb copd
    emphysema emphysematous ards hyperinflation hyperexpanded hyperaeration bronchitis bronchiectasis asthma
    fibrosis fibrotic scar scarring fracture fractures deformity degenerative osteophytes scoliosis kyphosis
    dextroscoliosis levoscoliosis dish arthritis osteopenia osteoporosis demineralization hernia eventration
    elevation elevated tortuous ectasia ectatic aneurysm adenopathy lymphadenopathy metastases metastatic metastasis
    cancer carcinoma malignancy malignant neoplasm tumor lesion lesions cyst cavity cavitary cavitation
    hydropneumothorax empyema hemorrhage hematoma contusion embolism embolus infarct sarcoidosis silicosis
    asbestosis pneumoconiosis pneumomediastinum pneumoperitoneum emphysemic subcutaneous thickening thickened
    blunting blunted crowding engorgement hypertension overload fluid air collapse shift crowded widening widened
    prominence prominent lucency density densities shadow shadowing haziness hazy markings reticular reticulonodular
    reticulation patchy streaky pectus sequela sequelae ileus obstruction obstructed dextrocardia situs kerley
    abscess airspaces thymoma lymphoma hamartoma goiter hypoinflation hypoventilation lymphangitic covid sclerotic
    cortical separation amputation attenuation phlebolith lucent subpulmonic radiodense cystic lytic erosion bullae
    bullous bleb trauma injury dislocation bleeding artifact artefact rotated rotation
    """
    # devices and operations
    """
    tube tubes line lines catheter catheters picc ett ngt ng og ogt cvc icd aicd pacemaker pacer lead leads wire
    wires clip clips sternotomy cabg stent device devices port portacath mediport drain drains endotracheal
    tracheostomy nasogastric enteric dobbhoff swan intubated extubated extubation intubation balloon defibrillator
    fusion lvad ecmo prosthesis prosthetic hardware postoperative postsurgical surgical surgery lobectomy
    pneumonectomy mastectomy cholecystectomy tip graft monitor
    """
    # states, change, degree, place
    """
    normal unremarkable negative clear clearing stable unchanged change changes changed acute subacute chronic mild
    minimal moderate severe small large tiny trace left right bilateral unilateral bilaterally multifocal increased
    increasing decreased decreasing decrease improved improving improvement improves worse worsened worsening
    resolved resolution resolving persistent persists persist progression progressed progressive interval similar
    residual recurrent suggestive consistent compatible suspicious suspected concerning versus inspiration
    inspiratory inflated expanded volume volumes focal diffuse mildly upper lower middle appears appear apparent
    intact indeterminate nonspecific follow followup recommend recommended recommendation correlate correlation
    advised warranted repeat ct cta mri biopsy healed borderline finding findings significant degraded lateral
    anterior posterior superior inferior medial region scan differential etiology equivocal incidental subtle cm mm
    """
)
_NOTIFICATION = _stems(
    """
    discussed discuss communicated conveyed informed notified notify paged telephoned telephone phone relayed called
    alerted aware
    """
)
_TEXT = _CLINICAL | _NOTIFICATION
_GENERAL = _stems(  # text, but "Chest radiograph reviewed by the resident." is administration
    """
    remote chest thorax thoracic status post free foreign seen identified visualized demonstrated present possible
    possibly likely probable probably new no none nil old within place placed located location position positioned
    limited suggest suggested suggesting question age size same low evidence represent reflect otherwise poor
    difficult technically previous prior previously again compared comparison cannot without absent absence excluded
    exclude further considered consider evaluated evaluate evaluation suboptimal diagnosis diagnostic removed
    removal radiograph film films image images view views study exam examination xray patient clinical imaging
    """
)
_ADMINISTRATIVE = _stems(
    """
    report reported reporting dictated dictation transcribed transcription transcriptionist typed typist signed
    signature sign verified validated authenticated authorized authorised approved finalized finalised released
    final prepared author reviewed review read reader reading interpreted attest attestation agree agrees concur
    certify radiologist radiology radiologic physician doctor dr md prof professor consultant registrar attending
    resident fellow faculty staff trainee teaching technologist tech provider department dept hospital clinic centre
    center campus office institute university medical health division section ward suite floor building street
    referral referring thank thanks regards cordially yours questions queries contact call pager phone fax tel
    telephone extension hotline website portal email mail copy copies cc distribution forwarded sent electronic
    electronically digital digitally software voice speech recognition generated automated computer template system
    version confidential disclaimer privileged legal liability errors typographical inadvertent billing charge code
    codes coding cpt icd modifier accession acc mrn dob npi job visit encounter account workstation location site
    page measure measures quality mips macra pqrs hcpcs compliance dose dap exposure kvp mas stored archived pacs
    completed dd dt cosigned cosign preliminary prelim wetread addendum category score peer timestamp printed print
    received id number ref user initials policy services service wishes respectfully submitted unverified retained
    reserved rights addressee intended recipient episode opportunity appreciate care llc pc inc
    """
)
# Words of a key that is text though no word of anatomy: "Note: rotated patient."
_NEUTRAL_KEYS = _stems(
    "please note date important nb overall assessment impression other additional also summary conclusion"
)
# Words of text that need more than "none" or a number behind a colon: "RECOMMENDED FOLLOW UP: none" is an entry.
_NO_SUBJECTS = _stems(
    """
    finding findings device devices recommend recommended recommendation follow followup correlation correlate
    contrast incidental significant differential etiology scan region ct size monitor shift
    """
)
_SUBJECTS = _CLINICAL - _NO_SUBJECTS
_ATTESTING = _stems("approved approve agree agrees agreed attest concur concurs supervising faculty verified")
_PATHOLOGY = re.compile(
    rb"(?:osis|itis|oma|ectasis|pathy|megaly|plegia|cardia|ectomy|ostomy|plasty|thorax|lucent|iasis)$"
)

_KEY = re.compile(r"\W*([^\W\d_][\w /&.,'’()#-]{0,60}?)\s*:(?!\d)")
_CODE = re.compile(
    r"""https?: | www\. | \S@\w+\.\w | \^                       # addresses, HL7
    | \b\d{3}[-. ]\d{3,4}(?:[-. ]\d{4})?\b | \(\d{3}\) | \d{5}  # telephone numbers, ids
    | \b[A-Z]{1,5}[-#]?\d{3} | \b[A-Z]\d\d\.\d                  # codes
    | ^\W*(?:CPT|ICD(?=[-\d:]|\ [A-Z]?\d)|MRN|DOB|NPI|MIPS|MACRA|PQRS|cc|CC|Fax|Tel|Ext|Acc|Attn)\b
    """,
    re.VERBOSE,
)
_NAME = re.compile(r"(?:[^\W\d_][\w.'’-]*,?\s+){1,5}[^\W\d_][\w.'’-]*")  # of words that must begin with capitals
_NUMBER = re.compile(r"(?<![TLCS\d])\d")  # of no vertebra
_DATED = re.compile(
    r"\W*(?:[A-Z][a-z]{2,8},?\s)?(?:\d{1,2}[ -])?(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*[ .-]+\d"
)
_LIST_ITEM = re.compile(r"\s*(?:\(?\d{1,2}[.)]|[-+•·▪●◦*])\s+\w*[^\W\d_]{2}")
_SENTENCE = re.compile(r"(?<!\bDr\.)(?<!\bDrs\.)(?<!\b[A-Z]\.)(?<!\d\.)(?<=[.!?)])\s+(?=[A-Z\[(*])")
_HIDDEN = re.compile(r"XX+|__+")  # de-identified
_ENDS_SENTENCE = ".;!?)]>*=#|\"'"
_PROMISED = re.compile(r"\baddend(?:um|a)\s(?:will|would|may|can|to|once|when|if|after|pending)\b", re.IGNORECASE)
_WRAPPED = 55  # characters of a line that may go on in the next
_TEXTUAL, _CODED, _OFFICIAL, _UNCLEAR = range(4)


def without_administration(body: str) -> str | None:
    """The body of an impression without the administrative lines below it; None where it may not be one.

    Args:
        body: plain text of an impression that is not empty, line breaks as in the report.
    """
    starts = _units(body)
    ends = [*starts[1:], len(body)]
    units = [body[start:end] for start, end in zip(starts, ends, strict=True)]
    kinds = [_kind(unit) for unit in units]
    if kinds[0] in (_CODED, _OFFICIAL) and not _has_text(units[0]) and not _may_begin(units[0], len(units) == 1):
        return None
    count = next((place for place, kind in enumerate(kinds) if place and kind == _CODED), len(kinds))
    while count > 1 and kinds[count - 1] == _OFFICIAL:
        count -= 1
    if count > 1 and (kinds[count - 1] == _UNCLEAR or any(map(_is_misplaced, units[1:count], kinds[1:count]))):
        return None
    return _without_last_sentences(body[: ends[count - 1]], starts[count - 1])


def ends_in_text(body: str) -> bool:
    """Whether it is one paragraph and the last sentence has a word of text and no code; quick."""
    body = body.strip()
    last = body[max(body.rfind(". ", 0, -1), body.rfind("\n")) + 1 :]
    return "\n\n" not in body and "\n \n" not in body and _kind(last) == _TEXTUAL


def _may_begin(unit: str, alone: bool) -> bool:
    """Whether an impression may begin with a unit that has no word of text: "NAD", "Images reviewed with Dr. ___."."""
    words = letters(unit).split()
    if alone and len(words) == 1:
        return words[0][:_STEM] not in _ADMINISTRATIVE or unit.rstrip().endswith(".")
    return unit.rstrip().endswith(".") and not alone


def _is_misplaced(unit: str, kind: int) -> bool:
    """Whether an entry of a form or signature, no sentence, stands above text."""
    return kind == _OFFICIAL and not unit.rstrip().endswith(".")


def _without_last_sentences(body: str, start: int) -> str:
    """Without the sentences at the end of the last line that are administrative beyond doubt."""
    cuts = [match.start() for match in _SENTENCE.finditer(body, start)]
    while cuts and not _HIDDEN.search(body, cuts[-1]) and _kind(body[cuts[-1] :]) in (_CODED, _OFFICIAL):
        body = body[: cuts.pop()]
    return body


def _units(body: str) -> list[int]:
    """Indices at which lines begin that do not go on with the line before."""
    starts: list[int] = []
    at, previous = 0, ""
    for line in body.split("\n"):
        words = line.strip()
        if words and not (starts and previous and _goes_on(previous, words)):
            starts.append(at)
        at += len(line) + 1
        previous = words
    return starts


def _goes_on(previous: str, line: str) -> bool:
    if previous[-1] == ":" or not previous.strip("0123456789.)(-•*# "):  # a sub-heading or number, its text below
        return True
    if previous[-1] in _ENDS_SENTENCE:
        return False
    return line[0].islower() or line[0] == "_" or len(previous) > _WRAPPED or REFERS.search(previous[-40:]) is not None


def _kind(unit: str) -> int:
    if _CODE.search(unit) or (":" in unit and _has_unknown_key(unit)):
        return _CODED
    if _LIST_ITEM.match(unit) or _PROMISED.search(unit):
        return _TEXTUAL
    words = letters(unit).split()
    stems = {word[:_STEM] for word in words}
    if not stems.isdisjoint(_CLINICAL):
        return _TEXTUAL
    is_notified = not stems.isdisjoint(_NOTIFICATION)
    if is_notified or any(map(_PATHOLOGY.search, words)):  # no text: "Discussed with and approved by the faculty."
        return _TEXTUAL if stems.isdisjoint(_ATTESTING) else _OFFICIAL
    if not words:
        return _TEXTUAL if "_" in unit else _OFFICIAL
    if _is_mark(unit, words) or not _ADMINISTRATIVE.isdisjoint(stems) or _is_name(unit) or _DATED.match(unit):
        return _OFFICIAL
    return _UNCLEAR if _GENERAL.isdisjoint(stems) and b"xxxx" not in words else _TEXTUAL


def _has_text(unit: str) -> bool:
    words = letters(unit).split()
    return any(word[:_STEM] in _TEXT for word in words) or any(map(_PATHOLOGY.search, words))


def _has_unknown_key(unit: str) -> bool:
    """Whether it is "key: value" and the key no word of a radiograph."""
    match = _KEY.match(unit)
    if match is None or _LIST_ITEM.match(unit):
        return False
    stems = {word[:_STEM] for word in letters(match[1]).split()}
    value = unit[match.end() :]
    says_nothing = not value.isspace() and not _has_text(value) and _HIDDEN.search(value) is None
    is_neutral = not stems.isdisjoint(_NEUTRAL_KEYS) and (len(stems) > 3 or stems <= _NEUTRAL_KEYS | _TEXT | _GENERAL)
    if is_neutral or not stems.isdisjoint(_NOTIFICATION):
        return says_nothing and EMPTY.fullmatch(value) is not None
    is_subject = not stems.isdisjoint(_SUBJECTS)
    if says_nothing and (not is_subject or section_named(match[1].upper(), in_impression=True) == ""):
        return True
    is_known = not (stems.isdisjoint(_TEXT) and stems.isdisjoint(_GENERAL))
    return not is_known or not stems.isdisjoint(_ADMINISTRATIVE)


def _is_name(unit: str) -> bool:
    words = unit.strip()
    if _NAME.fullmatch(words) is None or not all(word[0].isupper() for word in words.split()) or "XXXX" in words:
        return False
    return not words.isupper() or "," in words


def _is_mark(unit: str, words: list[bytes]) -> bool:
    """Whether it is as short as initials or the number of a document."""
    if len(words) > 3 or (unit.rstrip().endswith(".") and max(map(len, words)) > 1):
        return False
    is_initials = len(unit) < 12 and all(len(word) < 4 for word in words)
    has_number = _NUMBER.search(unit.lstrip(" \n0123456789.)")) is not None
    return is_initials or (has_number and _GENERAL.isdisjoint(word[:_STEM] for word in words))
