"""Vocabulary of the report labeller as patterns for lower-case text: findings, cues of negation and uncertainty."""

import re


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))


_HEART = r"(?:heart(?: size| contour| silhouette)?|cardiac (?:silhouette|size|shadow|contours?)|cardiomediastinal size)"
_MEDIASTINUM = r"(?:(?:cardio|cardiac )?-?mediastin(?:al|um)(?: (?:silhouettes?|contours?|structures|shadow|width))?)"
_NORMAL = r"(?:normal|unremarkable|not (?:\w+ )?(?:enlarged|widened)|within normal|grossly normal|nonenlarged)"

# ---------------------------------------------------------------------------------------------------------------------
# Names of findings.

FINDINGS: dict[str, re.Pattern[str]] = {
    "Atelectasis": _any(
        r"\batelecta\w+",
        r"\b(?:lung|lobe|lobar|pulmonary|basilar|segmental) collapse",
        r"\bcollapse of (?:\w+ ){0,5}(?:lung|lobe)",
        r"\bcollapsed (?:\w+ ){0,2}(?:lung|lobe)",
    ),
    "Cardiomegaly": _any(
        r"\bcardiomegaly",
        r"\bmegalocardia",
        r"\bcardiac enlargement",
        rf"\b{_HEART}\W+(?:(?!mediastin|aort|vascul|hil)[a-z-]+[^\w-]+){{0,5}}?(?:enlarged|enlargement|increased|large)\b",
        rf"\b(?:enlarged|enlargement of the|increase (?:in|of) (?:the )?|prominent|enlarging|large) ?(?:\w+ )?{_HEART}",
    ),
    "Enlarged Cardiomediastinum": _any(
        rf"\b{_MEDIASTINUM}\W+(?:(?!heart|cardiac|aort|hil)[a-z-]+[^\w-]+){{0,4}}?(?:enlarged|widened|widening|enlargement)\b",
        rf"\b(?:widened|enlarged|widening of the|enlargement of the) (?:\w+ )?{_MEDIASTINUM}",
    ),
    "Consolidation": _any(r"\bconsolidat\w+"),
    "Edema": _any(
        r"\bo?edema\b",
        r"\bheart failure",
        r"\bchf\b",
        r"\b(?:vascular|pulmonary|venous|vasculature|hilar) congestion",
        r"\bcongestive changes?",
        r"\b(?:cardiac|cardiovascular|pulmonary vascular) decompensation",
    ),
    "Fracture": _any(r"\bfractur\w+"),
    "Lung Lesion": _any(
        r"\bnodul(?:e|es|ar (?:\w+ )?(?:opacit\w+|opacif\w+|densit\w+|lesions?))\b",
        r"\bmass(?:es)?\b",
        r"\b(?:lung|pulmonary|cavitary|parenchymal) lesions?",
        r"\bneoplas\w+",
        r"\bmalignan\w+",
        r"\bmetasta\w+",
        r"\bcarcinoma",
        r"\btumou?rs?\b",
    ),
    "Lung Opacity": _any(
        r"(?<!nodular )\bopaci(?:t|f)\w+",
        r"\binfiltrat\w+",
        r"\bair\s?-?space (?:disease|process)",
        r"\binterstitial (?:markings|disease|lung disease|pattern|prominence|changes|thickening|process)",
        r"\breticul(?:ar|o|ation)\w*",
        r"\b(?:parenchymal|pulmonary|lung|basilar|airspace|lobe|hazy|patchy|streaky|linear) densit(?:y|ies)",
    ),
    "Pleural Effusion": _any(
        r"\beffusions?\b", r"\bpleural fluid", r"\b(?:hemo|hydro|haemo)(?:pneumo)?thora(?:x|ces)", r"\bempyema"
    ),
    "Pleural Other": _any(
        r"\bpleural(?:[ -][a-z]+){0,2}[ -](?:thickening|capping|plaques?|calcifications?|scarring|fibrosis|mass)",
        r"\bpleural[ -]based[ -](?:\w+ )?(?:mass|nodul\w+|lesion)",
        r"\bfissural thickening",
        r"\bthickening of the (?:\w+ )?pleura",
        r"\bthickened pleura",
        r"\bfibrothorax",
        r"\bapical (?:cap|capping|thickening)\b",
    ),
    "Pneumonia": _any(
        r"\bpneumonias?\b",
        r"\bbronchopneumonia",
        r"\bpneumonitis\b",
        r"\binfection\b",
        r"\binfectious (?:process|etiology|disease|infiltrates?)",
    ),
    "Pneumothorax": _any(r"\b\w*pneumothora\w+", r"\bptx\b"),
    "Support Devices": _any(
        r"\b(?<!bronchial )(?:tube|tubes|tubing|tracheostomy|ett|ngt)\b",
        r"\bcatheters?\b",
        r"\bpicc\b",
        r"\bport(?:-|\s)?a(?:-|\s)?cath\w*",
        r"\b(?:mediport|chest port|infusion port|port catheter|portacath|infuse-a-port)\b",
        r"\b(?:central|venous|arterial|picc|jugular|subclavian|ij|support)(?: venous)? lines?\b",
        r"\b(?:pacemakers?|pacer|pacing|aicd|icd|defibrillator|cardioverter)\b",
        r"\bleads?\b",
        r"\b(?:chest|pigtail|mediastinal|pleural|surgical) drains?\b",
        r"\b(?:sternotomy|sternal|cerclage) (?:wires?|sutures)\b",
        r"\b(?:stents?|(?<!breast )prosthe\w+|stimulator|balloon pump|swan-ganz|dobhoff|loop recorder)\b",
        r"\b(?:valve replacement|mechanical valve|prosthetic valve|artificial valve)",
        r"\b(?:orthopedic|surgical|spinal|fixation|metallic) hardware\b",
        r"\b(?:devices?|apparatus|generator|neurostimulator|ivc filter|vena cava filter)\b",
    ),
}

# Words that look like a finding of the chest but are not.
NOT_MENTIONS = _any(
    r"\bpericardial effusions?",
    r"\b(?:joint|knee|glenohumeral) effusions?",
    r"\b(?:soft tissue|subcutaneous|peripheral|marrow|extremity) o?edema",
    r"\bmass effect",
    r"\b(?:breast|thyroid|abdominal|adrenal|renal|chest wall|soft tissue) (?:mass|masses|nodule|nodules)",
    r"\bfractures? (?:may|might|can) not be\b",
    r"\bgranulomatous (?:infection|disease)",
    r"\b(?:prior|previous|old|remote|past) (?:[a-z-]+ ){0,3}(?:pneumonia|infection)\b",
    r"\bbody mass",
    r"\bair bronchograms?",
    r"\b(?:history of|hx of|prior|previous|status post|s/p)(?: (?!fracture)[a-z-]+){0,2}"
    r" (?:pneumonia|pneumothorax|malignan\w+|carcinoma|neoplasm|tumor|heart failure|chf|infection)",
    r"\bno comparison\w*",
    r"\b(?:lead|leads) to\b",
    r"\bleading\b",
)

# Statements on heart and mediastinum without the name of a finding.
NORMAL_STRUCTURES: dict[str, re.Pattern[str]] = {
    "Cardiomegaly": _any(
        rf"\b{_HEART}\W+(?:(?!enlarge|limit|border|abnormal|top|large|though|but)[a-z-]+[^\w-]+){{0,7}}?{_NORMAL}\b",
        rf"\b{_NORMAL} (?:size of the )?(?:cardiac|heart)(?: and mediastinal)?(?: size| silhouette| contours?)?\b",
        rf"\b{_NORMAL} (?:in )?size (?:of the )?heart",
    ),
    "Enlarged Cardiomediastinum": _any(
        rf"\b{_MEDIASTINUM}\W+(?:(?!enlarge|wide|limit|border|abnormal|top|though|but)[a-z-]+[^\w-]+){{0,7}}?{_NORMAL}\b",
        rf"\b{_NORMAL} (?:\w+ and |\w+ size and )?{_MEDIASTINUM}",
    ),
}
AMPLE_HEART = _any(
    rf"\b{_HEART}\W+(?:(?!enlarge)[a-z-]+[^\w-]+){{0,5}}?(?:borderline|top[- ]normal|upper (?:limits?|normal))",
    rf"\bborderline (?:\w+ )?(?:{_HEART}|enlarge\w+)",
)

# Other abnormalities: no label of CheXpert, but no normal chest.
ABNORMAL = _any(
    r"\bemphysem\w*",
    r"\bcopd\b",
    r"\bhyper-?(?:inflat|expan|aerat|lucen)\w+",
    r"\bgranulom\w+",
    r"\bscar(?:s|ring)?\b",
    r"\bfibro(?:sis|tic)\b",
    r"\b(?:kypho)?scolio\w+",
    r"\bkypho(?:sis|tic)\b",
    r"\bspondyl\w+",
    r"\bdegenerat\w+",
    r"\bosteophyt\w+",
    r"\bosteop(?:enia|enic|orosis|orotic)\b",
    r"\barthri\w+",
    r"\bcalcifi\w+",
    r"\bhernia\w*",
    r"\btortuo\w+",
    r"\bectatic|\bectasia|\baneurysm\w*",
    r"\batheroscl\w+",
    r"\beventration",
    r"\belevat(?:ed|ion)\b",
    r"\bblunt\w+",
    r"\bbronchiect\w+",
    r"\bbronchi(?:tis|al (?:wall )?thickening|olitis)",
    r"\bcuffing",
    r"\bdeformit\w+",
    r"\b(?:cyst|cysts|bulla|bullae|bullous|cavit\w+|pneumoperitoneum|adenopathy|lymphadenopathy|pneumomediastinum)\b",
    r"\bsarcoid\w*",
    r"\bclips\b",
)

NORMAL_STATEMENTS = _any(
    r"\bno (?:\w+ ){0,4}(?:acute|active)\b",
    r"\bno (?:\w+ ){0,3}(?:abnormalit(?:y|ies)|disease|abnormal findings?)\b",
    r"\bnegative (?:\w+ ){0,3}(?:chest|radiograph|examination|exam|study|film|x-ray)",
    r"\blungs?(?: fields?)? (?:(?:are|appear|remain|both|grossly|well|expanded|and|otherwise) ){0,5}clear\b",
    r"\bclear lungs\b",
    r"(?<!upper limits of )(?<!not )\b(?:normal|unremarkable)\b",
)

# ---------------------------------------------------------------------------------------------------------------------
# Cues of negation and uncertainty, and where their scope ends.

_NOT_PARTLY = r"(?<!not )(?<!largely )(?<!nearly )(?<!partially )(?<!partly )(?<!mostly )(?<!almost )"
DENIED_BEFORE = _any(
    r"\bno\b",
    r"\bnot\b",
    r"\bwithout\b",
    r"\bw/o\b",
    r"\bnor\b",
    r"\bneither\b",
    r"\bnegative for\b",
    r"\bfree (?:of|from)\b",
    r"\bclear of\b",
    r"\babsen(?:ce|t)(?: of)?\b",
    r"\black(?:s|ing)?(?: of)?\b",
    r"(?<!partial )(?<!near )(?<!near complete )\bresolution of\b",
    r"\b(?:interval )?(?:removal|extraction) of\b",
    rf"{_NOT_PARTLY}\bresolved\b",
    r"\brather than\b",
    r"\binstead of\b",
    r"\bexcludes?\b",
)
# "No change in the effusion" does not negate the effusion, and "not only" stresses it.
NOT_A_DENIAL = re.compile(
    r"(?:no|not|without)\b(?:\s+(?:significant(?:ly)?|interval|appreciable|substantial(?:ly)?|definite|other|major|acute|much|"
    r"evidence of|short|visible|in|the|real|apparent|detectable|large)\b)*\s+"
    r"(?:chang(?:e|es|ed)|differen(?:ce|t)|increase|decrease|improvement|worsening|progression|resolution|only|resolved|"
    r"cleared|longer than|reduction|optimal\w*|well)\b"
    r"|not\s+(?:exclude|ruled? out)|no\s+doubt|not\s+to\s+be"
)
DENIED_AFTER = _any(
    r"\b(?:is |are |was |were |has been |have been |be )?(?:not|no longer|never) "
    r"(?:clearly |definitely |well |otherwise )?"
    r"(?:seen|identified|present|visuali[sz]ed|appreciated|evident|demonstrated|noted|detected|apparent|visible|found)",
    rf"(?:has |have |is |are )?(?:since |now )?{_NOT_PARTLY}(?:completely |fully |entirely )?(?:resolved|cleared)\b",
    r"\b(?:is|are|was|were)?\s?(?:now )?absent\b",
    r"\b(?:is|are|has been|have been|was|were)\s(?:now )?(?:excluded|ruled out|removed|gone)\b",
    r"^\W+none\b",
    r"\b(?:has|have) (?:been )?(?:interval(?:ly)? )?removed\b",
    r"\bremoval\b",
)
DOUBTED_BEFORE = {
    # Doubts that contain a denial, and therefore come before it.
    "of a denial": _any(
        r"\b(?:cannot|can not|can't|could not|couldn't|not|unable to|difficult to|hard to)(?: be)?(?: \w+){0,2}"
        r" (?:exclude|excluded|rule out|ruled out)\b",
        r"\b(?:to|for|and) (?:exclude|rule out|r/o)\b",
        r"\b(?:rule out|r/o)\b",
        r"\bnot (?:clear|certain|sure) (?:if|whether)\b",
    ),
    # Doubts that hold for a whole list, whatever its items look like.
    "of a list": _any(
        r"\bdifferential\b",
        r"\bin the (?:appropriate|proper|right|correct) clinical (?:setting|context)\b",
        r"\blimit(?:s|ed|ing) (?:the )?(?:evaluation|assessment)\b",
    ),
    "plain": _any(
        r"\b(?:possib(?:le|ly|ility)|probabl[ey]|likely|unlikely|presum(?:ed|ably|ptive)|perhaps|maybe|conceivabl[ey])\b",
        r"\b(?:may|might|could)\b(?! be secondary| be due)",
        r"\b(?:may|might|could) be (?:secondary|due) to\b",
        r"\b(?:suspicious|worrisome|concerning|concern) (?:for|of)\b",
        r"\bsuspicio(?:n|us)\b",
        r"\bsuspect(?:ed|s)?\b",
        r"\bquestion(?:able|ed|ing|s)?\b",
        r"\bequivocal\b",
        r"\bpotential(?:ly)?\b",
        r"\bsuggest(?:s|ing|ive|ion)?\b",
        r"\bindeterminate\b",
        r"\b(?:evaluat\w+|assess\w*|correlat\w+) (?:\w+ )?(?:for|of|with)\b",
        r"\bconsider(?:ed|ing)?\b",
        r"\balternatively\b",
        r"\b(?:versus|vs)\b",
        r"\bif\b",
        r"\bborderline\b",
        r"\b(?:appears? to be|favou?r(?:s|ed|ing)?|raises? the)\b",
        r"\bdifficult to (?:assess|evaluate)\b",
    ),
}
DOUBTED_AFTER = _any(
    r"\b(?:is |are |was |were )?(?:cannot|can not|can't|could not|may not|not)(?: be)?"
    r"(?: (?:entirely|completely|definitely|reliably|fully))? (?:excluded?|ruled? out)\b",
    r"\b(?:is |are )?(?:difficult|hard) to (?:entirely |completely |definitely )?(?:exclude|rule out)\b",
    r"\b(?:is|are) (?:also )?in the differential\b",
    r"\b(?:is|are|was|were|remains?|would be|may be|might be|could be) (?:also |still |not )?(?:an? |another )?"
    r"(?:possible|suspected|questioned|probable|likely|unlikely|possibility|consideration|considered|equivocal)\b",
    r"\b(?:should|could|may|might|must) be (?:considered|present)\b",
    r"^\W*\?",
    r"^ (?:suspected|questioned|possible|unlikely|less likely)\b",
)
BREAKS = _any(
    r"\bbut\b",
    r"\bhowever\b",
    r"\balthough\b",
    r"\bthough\b",
    r"\bexcept(?:ing| for)?\b",
    r"\b(?:apart|aside) from\b",
    r"\bother than\b",
    r"\bwhich\b",
    r"\bwhere\b",
    r"\bwhile\b",
    r"\bwhereas\b",
    r"\byet\b",
    r"\bbecause\b",
    r"\b(?:due|secondary) to\b",
    r"\b(?:following|after|status post|s/p|since)\b",
    r"(?:,|\band\b)\s+(?:there\b|the \w+ (?:is|are)\b)",
    r"\bwith (?:an? )?(?:interval|stable|persistent|unchanged|mild|small|associated)\b",
    r":",
)
VERBS = re.compile(r"\b(?:is|are|was|were|has|have|had|with|there|without|no|may|might|could|shows?|demonstrates?)\b")

# Words that start a positive statement; a negated list would only name the next finding.
AFFIRMING = (
    r"small|tiny|mild|mildly|moderate|moderately|large|trace|minimal|minimally|slight|slightly|severe|marked|massive|"
    r"left|right|bilateral|bibasilar|biapical|stable|unchanged|persistent|persisting|residual|continued|increased|"
    r"increasing|decreased|decreasing|worsening|improved|improving|new|old|chronic|healed|multiple|several|"
    r"evidence of (?:prior|previous|old)|interval|subsegmental|scattered|low|mediastinal"
)
