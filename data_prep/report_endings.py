"""Where an extracted impression ends and administration begins: judged by words, not by names of sign-offs.

Hospital systems put ever new lines below an impression: names, codes, telephone numbers, attestations, measures of
quality. Their number has no end, but the vocabulary of radiographs has: a line with a word of anatomy, pathology, change,
advice or notification is text; without one, a code, an unknown key before a colon, a name or a word of
administration marks the end. A line that shows neither leaves doubt, and then there is no impression.
"""

import re

from data_prep.report_headings import letters, section_named
from data_prep.report_patterns import REFERS

_STEM = 6  # letters that tell words apart: "effusi" for effusion and effusions


def _stems(words: str) -> frozenset[bytes]:
    return frozenset(word[:_STEM].encode() for word in words.split())


_CLINICAL = _stems(
    # anatomy
    """
    lung lungs pulmonary pleura pleural heart cardiac cardiopulmonary cardiomediastinal mediastinum mediastinal hilum
    hilar hila perihilar suprahilar infrahilar aorta aortic diaphragm hemidiaphragm costophrenic rib ribs bone bones bony
    bibasilar basilar basal bases apex apical biapical lobe lobes lobar lingula trachea airway airspace bronchi
    bronchial peribronchial interstitial interstitium alveolar vascular vasculature venous spine thoracolumbar vertebra
    osseous skeletal clavicle shoulder humeral sternum sternal abdomen bowel gastric stomach hepatic splenic colon
    subdiaphragmatic silhouette contour structures parenchyma retrocardiac paratracheal azygos carina ventricle atrium
    atrial mitral valve valvular coronary svc fissure sulcus bibasal chests thymus pericardial tissue tissues
    hemithorax intrathoracic lordosis breast neck skin lumbar cervical hilus pelvis pelvic hip knee
    ankle foot hand wrist elbow scaphoid femur acromioclavicular glenohumeral joint joints umbilical sulci spinal
    """
    # pathology
    """
    abnormality abnormal anomaly disease process pneumonia pneumothorax pneumo ptx pneumothoraces pneumonitis effusion
    effusions edema oedema opacity opacities opacification opacified consolidation atelectasis atelectatic infiltrate
    infection infectious aspiration congestion congestive chf failure cardiomegaly enlarged enlargement mass masses nodule
    nodules nodular granuloma granulomatous calcified calcification calcific tuberculosis tb copd emphysema emphysematous
    ards hyperinflation hyperexpanded hyperaeration bronchitis bronchiectasis asthma fibrosis fibrotic scar scarring
    fracture fractures deformity degenerative osteophytes scoliosis kyphosis dextroscoliosis levoscoliosis dish
    arthritis osteopenia osteoporosis demineralization hernia eventration elevation elevated tortuous ectasia ectatic
    aneurysm adenopathy lymphadenopathy metastases metastatic metastasis cancer carcinoma malignancy malignant neoplasm
    tumor lesion lesions cyst cavity cavitary cavitation hydropneumothorax empyema hemorrhage hematoma contusion embolism
    embolus infarct sarcoidosis silicosis asbestosis pneumoconiosis pneumomediastinum pneumoperitoneum emphysemic
    subcutaneous thickening thickened blunting blunted crowding engorgement hypertension overload fluid air collapse
    shift crowded widening widened prominence prominent lucency density densities shadow shadowing haziness hazy markings
    reticular reticulonodular reticulation patchy streaky pectus sequela sequelae ileus obstruction obstructed dextrocardia
    situs kerley abscess airspaces thymoma lymphoma hamartoma goiter hypoinflation hypoventilation lymphangitic covid
    sclerotic cortical separation amputation attenuation phlebolith lucent subpulmonic radiodense cystic lytic erosion
    bullae bullous bleb trauma injury dislocation bleeding free foreign artifact artefact rotated rotation
    """
    # devices and operations
    """
    tube tubes line lines catheter catheters picc ett ngt ng og ogt cvc icd aicd pacemaker pacer lead leads wire wires clip
    clips sternotomy cabg stent device devices port portacath mediport drain drains endotracheal tracheostomy nasogastric
    enteric dobbhoff swan intubated extubated extubation intubation balloon defibrillator fusion post status lvad ecmo prosthesis prosthetic hardware
    postoperative postsurgical surgical surgery lobectomy pneumonectomy mastectomy cholecystectomy tip graft monitor
    """
    # states, change, degree, place
    """
    normal unremarkable negative clear clearing stable unchanged change changes changed acute subacute chronic no none nil
    old new mild minimal moderate severe small large tiny trace left right bilateral unilateral bilaterally multifocal
    increased increasing decreased decreasing decrease improved improving improvement improves worse worsened worsening
    resolved resolution resolving persistent persists persist progression progressed progressive interval prior previous
    previously again compared comparison similar residual recurrent evidence suggest suggestive suggesting consistent
    compatible likely probable probably possible possibly suspicious suspected concerning versus cannot exclude excluded
    represent reflect suboptimal limited inspiration inspiratory inflated expanded volume volumes low focal diffuse
    mildly upper lower middle position positioned location place placed removal removed within appears appear apparent
    intact age indeterminate nonspecific follow followup recommend recommended recommendation correlate correlation
    advised suggested consider considered warranted evaluate evaluated evaluation further repeat ct cta mri biopsy size
    seen identified visualized demonstrated without absent absence present unilateral healed remote borderline finding
    findings significant otherwise difficult technically poor same degraded lateral anterior posterior superior inferior medial region scan diagnosis diagnostic differential etiology
    question equivocal incidental subtle cm mm
    """
)
_NOTIFICATION = _stems(
    """
    discussed discuss communicated conveyed informed notified notify paged telephoned telephone
    phone relayed called alerted aware
    """
)
_TEXT = _CLINICAL | _NOTIFICATION
_IMAGING = _stems(  # neither here nor there: "Chest radiograph reviewed by the resident." is administration
    "chest thorax thoracic radiograph film films image images view views study exam examination xray patient clinical"
)
_ADMINISTRATIVE = _stems(
    """
    report reported reporting dictated dictation transcribed transcription transcriptionist typed typist signed signature
    sign verified validated authenticated authorized authorised approved finalized finalised released released final
    prepared author reviewed review read reader reading interpreted attest attestation agree agrees concur certify radiologist
    radiology radiologic radiographer physician doctor dr md prof professor consultant registrar attending resident fellow
    faculty staff trainee teaching technologist tech provider department dept hospital clinic centre center campus office
    institute university medical imaging health division section ward suite floor building street referral referring
    thank thanks regards cordially yours questions queries contact call pager phone fax tel telephone extension
    hotline website portal email mail copy copies cc distribution forwarded sent electronic electronically digital
    digitally software voice speech recognition generated automated computer template system version confidential
    disclaimer privileged legal liability errors typographical inadvertent billing charge code codes coding cpt icd
    modifier accession acc mrn dob npi job visit encounter account workstation location site
    page end measure measures quality mips macra pqrs hcpcs compliance dose dap exposure kvp mas stored archived
    pacs completed dd dt cosigned cosign preliminary prelim discrepancy wetread addendum category score peer timestamp
    printed print received id number ref user initials policy services service
    """
)
# Words of a key that is text though no word of anatomy: "Note: rotated patient."
_NEUTRAL_KEYS = _stems(
    "note date important nb overall assessment impression other additional opinion also summary conclusion"
)
_SUFFIXES = (
    "osis",
    "itis",
    "oma",
    "ectasis",
    "pathy",
    "megaly",
    "plegia",
    "cardia",
    "ectomy",
    "ostomy",
    "plasty",
    "thorax",
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
_NAME = re.compile(r"(?:[^\W\d_]+\.?[,]?\s+){1,4}[^\W\d_]+\.?")  # of words that must begin with capitals
_LIST_ITEM = re.compile(r"\s*(?:\(?\d{1,2}[.)]|[-+•·▪●◦*])\s+\w*[^\W\d_]{2}")
_SENTENCE = re.compile(r"(?<!\bDr\.)(?<!\bDrs\.)(?<!\b[A-Z]\.)(?<!\d\.)(?<=[.!?)])\s+(?=[A-Z\[(*])")
_HIDDEN = re.compile(r"XX+|__+")  # de-identified
_ENDS_SENTENCE = ".:;!?)]>*=#|\"'"
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
    if kinds[0] in (_CODED, _OFFICIAL) and not _has_text(units[0]) and _is_entry(units[0], alone=len(units) == 1):
        return None
    count = next((place for place, kind in enumerate(kinds) if place and kind == _CODED), len(kinds))
    while count > 1 and kinds[count - 1] == _OFFICIAL:
        count -= 1
    if count > 1 and (
        kinds[count - 1] == _UNCLEAR
        or any(kind == _OFFICIAL and _is_entry(unit) for unit, kind in zip(units[1:count], kinds[1:count], strict=True))
    ):
        return None
    return _without_last_sentences(body[: ends[count - 1]], starts[count - 1])


def _without_last_sentences(body: str, start: int) -> str:
    """Without the sentences at the end of the last line that are administrative beyond doubt."""
    cuts = [match.start() for match in _SENTENCE.finditer(body, start)]
    while cuts and not _HIDDEN.search(body, cuts[-1]) and _kind(body[cuts[-1] :]) in (_CODED, _OFFICIAL):
        body = body[: cuts.pop()]
    return body


def _is_entry(unit: str, alone: bool = False) -> bool:
    """Whether an official unit is an entry of a form or of a signature rather than a sentence within text."""
    return len(unit.split()) > 1 if alone else not unit.rstrip().endswith(".")


def ends_in_text(body: str) -> bool:
    """Whether the last sentence has a word of text and no code; quick."""
    body = body.rstrip()
    last = body[body.rfind(". ", 0, -1) + 1 :]
    return _has_text(last) and _CODE.search(last) is None


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
    if not previous.strip("0123456789.)(-•*# "):  # a number, its item below
        return True
    if previous[-1] in _ENDS_SENTENCE:
        return False
    return line[0].islower() or line[0] == "_" or len(previous) > _WRAPPED or REFERS.search(previous[-40:]) is not None


def _kind(unit: str) -> int:
    if _CODE.search(unit) or _has_unknown_key(unit):
        return _CODED
    if _has_text(unit) or _LIST_ITEM.match(unit):
        return _TEXTUAL
    words = letters(unit).split()
    stems = {word[:_STEM] for word in words}
    if (
        not _ADMINISTRATIVE.isdisjoint(stems)
        or _is_name(unit)
        or (len(words) < 3 and unit.isupper() and all(len(word) < 4 for word in words))
    ):
        return _OFFICIAL
    if not words:
        return _TEXTUAL if "_" in unit else _OFFICIAL
    return _UNCLEAR if _IMAGING.isdisjoint(stems) and b"xxxx" not in words else _TEXTUAL


def _has_text(unit: str) -> bool:
    words = letters(unit).split()
    return any(word[:_STEM] in _TEXT for word in words) or unit.rstrip(" .\n").lower().endswith(_SUFFIXES)


def _has_unknown_key(unit: str) -> bool:
    """Whether it is "key: value" and the key no word of a radiograph."""
    match = _KEY.match(unit) if ":" in unit else None
    if match is None or _LIST_ITEM.match(unit):
        return False
    words = letters(match[1]).split()
    stems = {word[:_STEM] for word in words}
    if stems.isdisjoint(_NEUTRAL_KEYS) and stems.isdisjoint(_NOTIFICATION):
        if section_named(match[1].upper(), in_impression=True) == "" and not _has_text(unit[match.end() :]):
            return True
        return (stems.isdisjoint(_TEXT) and stems.isdisjoint(_IMAGING)) or not stems.isdisjoint(_ADMINISTRATIVE)
    return False


def _is_name(unit: str) -> bool:
    words = unit.strip()
    if _NAME.fullmatch(words) is None or not all(word[0].isupper() for word in words.split()) or "XXXX" in words:
        return False
    return not words.isupper() or "," in words
