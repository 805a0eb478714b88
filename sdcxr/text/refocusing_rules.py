"""What `sdcxr.text.refocusing` deletes: patterns for one sentence, in the order in which they are applied; no code.

- mark: de-identification marks are the tokens of MIMIC-CXR that models memorise most (Dutt 2025, arXiv 2502.07516).
- comparison, time: a single radiograph has no earlier one, and models of reports that are trained without references to
  one are better (Ramesh et al. 2022, arXiv 2210.06340).
- advice, communication, hedge: they show nothing. Prompts that a language model rewrote to what is visible halved the
  RAD-DINO distance of a frozen model (github.com/pxcai/JustLLMGRPO, 2026).

A hedged finding ("may represent pneumonia", "possible effusion") stays with its hedge: without it the prompt would
either lose the finding or claim it.
"""

import re

_FLAGS = re.IGNORECASE


def _deletes(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{one})" for one in alternatives), _FLAGS)


# ---------------------------------------------------------------------------------------------------------------------
def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# ---------------------------------------------------------------------------------------------------------------------
# Marks: `___` of MIMIC-CXR, `[** … **]` of MIMIC-III, XXXX of Open-i. A word with a mark in it goes as a whole.

MARK = re.compile(r"\[\*\*[^\]\n]{0,80}?\*\*\]|[\w'’/-]*(?:_{2,}|X{3,})[\w'’/-]*(?:\.\d+)?")
M = "\ue000"  # stands for a mark, in the private use area of Unicode
_MARKS = rf"{M}(?:(?:[\s,/-]|\b(?:and|through)\b)*{M})*"
_EMPTY_NOUN = (  # what follows where the mark was the whole of a noun phrase
    r"(?=\s*(?:$|[.,;:!?)\]]|(?:and|or|but|nor|at|on|in|of|from|with|without|to|by|for|since|as|is|are|was|were|has"
    r"|have|had"
    r"|which|that|there|who|the|a|an|no|than|may|can|could|should|would|will|versus|vs|via|demonstrat\w+|show\w*"
    r"|reveal\w*|due|secondary|noted|seen|identified)\b))"
)
_PREPOSITION = (
    r"(?:at|on|in|of|from|with|to|by|for|since|dated|until|per|via|through|between|during|after|before|than|as|like"
    r"|under|versus|vs\.?)"
)
_EXAM = (
    r"(?:stud(?:y|ies)|exam(?:ination)?s?|films?|radiographs?|x-?rays?|cxrs?|images|imaging|cts?|ct\sscans?|scans?"
    r"|views?|chest|priors?|comparisons?|reports?|mri|mrs?|tomogram)"
)
_PAST = r"(?:prior|previous|preceding|most\srecent|recent|last|earlier|older|old|outside|remote|comparison|available)"
_KIND_OF_EXAM = (
    r"(?:(?:chest|pa|ap|lateral|frontal|portable|plain|ct|mr|abdominal|abdomen|thoracic|spine|and|the|same|two)\s+)*"
)
_COMPARED = (
    r"(?:(?:as|when|if|now)\s+)?(?:in\s+)?(?:compar(?:ed|ing|ison|able)|relative|in\sreference)\s+(?:to|with|from)"
)
_TITLE = r"(?:drs?|doctors?|mr|mrs|ms|prof(?:essor)?|nurse)\b\.?"

MARKS = _deletes(
    rf",?\s*\(?(?:{_COMPARED})\s+(?:(?:the|a)\s+)?(?:{_PAST}\s+)*{_KIND_OF_EXAM}(?:{_EXAM}\s+)?"
    rf"(?:(?:of|from|dated|on|performed|obtained|done|at)\s+)*(?:the\s+)?{_MARKS}"
    rf"(?:\s*(?:at|on|of|from)\s+{_MARKS})*{_EMPTY_NOUN}\s*\)?,?",
    rf"^(?:{_TITLE}\s*{_MARKS}\s+(?:was|were|has|have|is|are)|{_MARKS}\s+(?:was|were|has\sbeen)\s(?:notified"
    rf"|informed|paged|called"
    r"|contacted|made\saware))\b.*",
    rf"\b(?:{_PREPOSITION}\s+)?{_TITLE}\s*{_MARKS}(?:\s*(?:,|and)?\s*{_TITLE}\s*{_MARKS})*",
    rf"(?:{_PREPOSITION}\s+)?{_MARKS}[\s-]+years?[\s-]old\b",
    rf"\(\s*{_MARKS}\s*\)",
    rf"\b(?:most|more|less|as\swell|at)\s+{M}|(?:\bthe\s+)?{M}\s+of\b(?:\s+the\b)?",
    rf",?\s*\b(?:{_PREPOSITION}\s+)+(?:(?:the|an?|this|his|her|its)\s+)?{_MARKS}{_EMPTY_NOUN}",
    rf"\b(?:the|an?)\s+{_MARKS}{_EMPTY_NOUN}",
    rf"\s*\b(?:and|or)\s+{_MARKS}\s*(?=$|[.,;:!?)])",
    rf",\s*{_MARKS}\s*(?=$|[.,;:!?)])",
    rf"(?:^|(?<=\bthe\s)|(?<=\bof\s)){_MARKS}(?:\s*,|\s+and\b)?",
    M,
)

# ---------------------------------------------------------------------------------------------------------------------
# Advice and communication: from the beginning of the clause that holds the cue to the end of the sentence

CLAUSE_STARTS = re.compile(
    r"[,;:(]\s*|\s+-+\s+|\s+(?:and|but|however|therefore|thus|so|for\swhich|although)\s+|\s+(?=recommend\b|for\sthe\sopportunity\b)",
    _FLAGS,
)

_ADVISED = (
    r"(?:cts?\b|ct\sscans?|mri?\b|ultrasound|follow-?\s?up\w*|evaluation|correlation|comparison|views?|radiographs?"
    r"|films?|imaging"
    r"|x-?rays?|scan\w*|stud(?:y|ies)|exam(?:ination)?s?|assessment|bronchoscopy|biopsy|echocardiogra\w+"
    r"|fluoroscop\w+|attention"
    r"|workup|work-up|chest)"
)
ADVICE = _deletes(
    r"\b(?:strongly\s)?(?:recommend\w*|advised?|advis(?:able|ory)|urged?)\b",
    rf"\bsuggest\s(?:(?!to\b|\bwith\b|combination)[\w-]+\s){{0,3}}?(?:{_ADVISED}|reference|repeat\w*)\b",
    rf"\b{_ADVISED}\s(?:[\w-]+\s){{0,6}}?(?:is|are|was|were)?\s*(?:suggested|indicated|warranted|needed|necessary)\b",
    rf"\b(?:please\b|consider(?!\w)(?=\s(?:[\w-]+\s){{0,6}}?{_ADVISED})|consideration\s(?:of|for|should)|correlate\b"
    r"|correlat(?:ion|ing)\s(?:with|to|for|is|should|would|recommended|suggested|advised|needed)"
    r"|clinical(?:ly)?\scorrelat\w+"
    r"|suggest\w*\s(?:clinical\s)?correlat\w+)",
    r"\b(?:would|could|may|might|can)\sbe\s(?:\w+\s){0,2}?(?:helpful|useful|obtained|performed|considered"
    r"|of\s(?:further\s)?"
    r"(?:benefit|use|value|help)|of\s(?:additional|some)\s\w+|of\sfurther(?=\s*$))",
    r"\b(?:should|must|needs?\sto|could|can)\s(?:also\s)?be\s(?:\w+\s)?(?:obtained|performed|considered|followed"
    r"|correlated|repeated|excluded"
    r"|evaluated|advanced|retracted|withdrawn|repositioned|pulled|given|done|made|confirmed|removed|monitored)\b",
    r"\b(?:for|to)\s(?:further\s|better\s|more\s|additional\s|complete\s)+(?:evaluat\w+|characteri[sz]\w+|assess\w*"
    r"|defin\w+|imaging"
    r"|delineat\w+|workup)\b",
    r"\bfurther\s(?:evaluation|imaging|characteri[sz]ation|assessment|workup|work-up|follow-?up)\b",
    r"^(?:short\S*\s\S+\s)?follow(?:-|\s)?up\b|\bfollow-?\s?up\s(?:chest|ct|imaging|radiograph\w*|x-?ray|exam\w*"
    r"|film\w*|to)\b",
    r"\bconsider\s(?:\w+\s)?(?:dedicated|additional|further|repeat|short|non)\b"
    r"|\bwould\s(?:be\s(?:needed|required|reasonable)|(?:better\s)?(?:confirm|define|clarify|evaluate|characteri[sz]e))\b",
    r"\bif\s(?:attention|there|clinical\w*|warranted|indicated|needed|necessary|desired|available|symptom\w*|the\spatient"
    r"|further|one|not"
    r"|persist\w*|discordant|old|prior|previous|none|concern\w*|appropriate|possible|patient)\b",
    r"\bas\s(?:clinically\s)?(?:indicated|warranted|needed|necessary)\b",
    r"\bcontinued\sfollow-?up\b|\bfollow(?:ing)?\s(?:this|these|the)\b.*\b(?:resolution|clearing)\b",
)
COMMUNICATION = _deletes(
    r"\b(?:discussed|communicated|conveyed|relayed|telephoned|notified|informed|paged|faxed|emailed"
    r"|messaged)\b(?!\s(?:above|below|in\s"
    r"the\s(?:findings|body)))",
    r"\b(?:called|reported|phoned|given|text-?paged)\s(?:in\s)?(?:to|by)\s(?:the\s)?(?:dr\b|doctor|nurse|physician"
    r"|referring|ordering"
    r"|emergency|ed\b|er\b|team|clinic\w*|service|covering|attending|resident)",
    r"\b(?:critical|significant|unexpected)\s(?:results?|findings?)\s(?:\w+\s){0,2}?(?:notification|communicat\w+"
    r"|call|called|alert|message)",
    r"\b(?:veriphy|primordial|powerscribe|read-?back|receipt|acknowledged?|wet\sread|telephone|voicemail)\b",
    r"\bresults?\s(?:was|were|have\sbeen|will\sbe)\b|^thank(?:s|\syou)\b|\b(?:message|notification)\s(?:was\s)?sent\b"
    r"|\bopportunity\sto\sassist\b|\bquestions\s(?:about|regarding|concerning)\b|\bcertified\sradiologist\b"
    r"|\bdiscuss\sthis\scase\b",
    r"\b(?:dr\.?|doctor|physician|nurse\spractitioner)\s(?:was|were|is|has|of|and|at|in|on)\b|\b(?:referring"
    r"|ordering|responsible"
    r"|covering)\s(?:clinician|physician|provider|service|team)",
    r"\bfindings?\s(?:was|were|have\sbeen|has\sbeen|are|will\sbe)\s(?:\w+\s){0,2}?(?:discussed|called|reported"
    r"|communicated|relayed)",
)

# ---------------------------------------------------------------------------------------------------------------------
# Comparison and time

_WHEN = (
    r"(?:\d[\d/.:-]*|today|yesterday|earlier|previously|ago|am|pm|(?:same|this)\s+(?:day|date|morning|afternoon|evening)"
    r"|(?:(?:a|an|one|two|three|four|five|six|few|several|\d+)\s+)*(?:days?|weeks?|months?|years?|hours?)"
    r"(?:\s+(?:ago|prior|earlier|before))?)\b"
)
_DATE = (
    rf"(?:\s*,?\s*(?:(?:of|from|dated|on|performed|obtained|done|at|in|approximately|about|the|and)\s+)*{_WHEN})*"
    r"(?:\s+(?:dated|performed|obtained|done)\b)*"
)
_SEEN = (
    r"(?:(?:as|was|were|also|not|more|well|better|best|clearly|readily|again|previously)\s+)*(?:seen|noted|described|demonstrated|identified"
    r"|visualized|reported|present|evident|documented|assessed|evaluated|characteri[sz]ed|appreciated)"
)
_EARLIER = (
    rf"(?:(?:the|a|an|his|her|patient's)\s+)*{_PAST}\b(?:\s+{_PAST}\b)*"
    rf"(?:\s+{_KIND_OF_EXAM}{_EXAM}\b(?:\s+{_EXAM}\b)*|(?=\s*(?:$|[.,;:)])))"
)
_DEGREE = (
    r"(?:(?:significant(?:ly)?|substantial(?:ly)?|slight(?:ly)?|mild(?:ly)?|moderate(?:ly)?|marked(?:ly)?"
    r"|minimal(?:ly)?|definite"
    r"|appreciabl[ey]|gross(?:ly)?|large(?:ly)?|essentially|relatively|overall|otherwise|obvious|interval|apparent"
    r"|somewhat|again"
    r"|also|now|little|in|any|demonstrable|continued|further|overt|great|considerabl[ey]|generally|very|mostly"
    r"|fairly|radiographic"
    r"|recent|relevant|dramatic(?:ally)?|further|some|subtle|not|perhaps|possibly|probably|grossly)\s+)*"
)
# Of an effusion it is a change; an organ's is a finding.
_ENLARGEMENT = (
    r"enlargement(?!\s+of\s+(?:the\s+|an?\s+)?(?:\w+\s+)?(?:heart|cardi|mediastin|hil[ua]|aort|azygos|vessel|arter|atri"
    r"|ventric))"
)
_SIZE = (
    r"(?:\s+(?:in|of)(?:\s+the)?\s+(?:appearance|position|positioning|size|extent|amount|severity|degree|prominence"
    r"|conspicuity"
    r"|configuration|caliber|number|volume|overall\sappearance|radiographic\sappearance|interval)\b)?"
)
_STILL = r"(?:unchanged|stable|similar|the\ssame|static|new)"
_BE = r"(?:is|are|was|were|remains?|remained|appears?|appeared|has|have|had)(?:\s+(?:been|remained|to\sbe))*"
_CHANGE = (
    r"(?:increase[ds]?|decrease[ds]?|improve(?:d|ment)?|worsen(?:ed|ing)|progress(?:ed|ion)|regress(?:ed|ion)"
    r"|change[sd]?|enlarged)"
)
_THERE = r"(?:there\s+(?:is|are|has\sbeen|have\sbeen|was|were)\s+)?"
_CLAUSE_END = (
    r"(?=\s*(?:$|[,.;:)]|(?:and|or|but|with|without|in|since|from|as|at|on|when|there|overall|compared|to|after"
    r"|given)\b))"
)
_STATE = (
    r"(?:within|normal|unremarkable|mildly|moderately|markedly|severely|borderline|enlarged|clear|at\sthe|tortuous"
    r"|top)\b"
)
_SUBJECT = r"(?:[\w-]+\s+){0,4}?[\w-]+"

# A finding that is gone: the clause says what is not there, in words that a model takes for what is.
RESOLVED = re.compile(
    r"(?:^|[,;]\s*|\b(?:but|with)\s+)(?:(?!\b(?:but|with|without)\b)[^,;])*?"
    r"\b(?:resolved|resolution|(?:has|have|had)\s(?:been\s|now\s|since\s)*(?:cleared|removed|extubated)"
    r"|interval\s(?:clearing|removal)|(?:removal|clearing)\sof|cleared(?=\s(?:left|right|bi))|no\slonger\s\w+|extubation)\b"
    r"(?:(?!\b(?:but|with|without)\b|\band\s(?:an?\s)?(?:new|development|placement|residual|persist\w+|worsening|increas\w+)\b)[^,;])*",
    _FLAGS,
)
# It is there still.
UNRESOLVED = re.compile(
    r"\b(?:not|never|yet\sto|incomplete(?:ly)?|partial(?:ly)?|near(?:ly)?(?:[\s-]complete)?|almost|mostly|largely|slow(?:ly)?)\s"
    r"(?:\w+\s){0,2}?(?:resol\w+|clear\w+|removed|extubated)\b",
    _FLAGS,
)
# "… has resolved and there is …": a clause of its own, if there is a verb before it.
VERB = re.compile(r"\b(?:is|are|was|were|has|have|had|remains?|appears?|persists?)\b", _FLAGS)
AND_CLAUSE = re.compile(rf"\band\s+(?={_SUBJECT}\s+(?:{VERB.pattern}|placed\b|inserted\b|seen\b|noted\b))", _FLAGS)
# "No worsening of edema" says that there is edema: without the change it would deny it.
DENIED_CHANGE = re.compile(
    r"\bneither\b|\b(?:no|not|without|lack\sof)\s(?:[^\s,;]+\s){0,4}?"
    r"(?:increase|decrease|improvement|worsening|progression|regression|reduction|enlargement)\s(?:in|of)\b"
    r"|\b(?:no|without)\s(?:evidence\sof\s)?(?:(?:significant|interval|further|definite|obvious)\s)*"
    r"(?:increas(?:ed|ing)|worsen(?:ed|ing)|enlarging|progressi(?:ng|ve))\s",
    _FLAGS,
)

# "is stable and normal" leaves "is normal"; "is stable and the lungs are clear" a full stop.
STABLE_AND_STATE = re.compile(rf"\b({_BE})\s+{_DEGREE}{_STILL}\s*,?\s+and\s+(?={_STATE})", _FLAGS)
STABLE_AND_CLAUSE = re.compile(
    rf"\s*\b{_BE}\s+{_DEGREE}{_STILL}\s*,?\s+and\s+(\w)(?={_SUBJECT}\s+(?:is|are|has|have|remains?"
    rf"|appears?)\b)",
    _FLAGS,
)
# "No new nodules" denies nodules, unless the text has some.
NO_NEW = re.compile(r"\b(?:no|without)\s+(?:\w+\s+)?new\b([^,;]*)", _FLAGS)

COMPARISON = _deletes(
    # What it was before: "now small, previously large".
    r"[,(]\s*(?:(?:was|were)\s)?(?:previously|formerly)\s(?!(?:seen|noted|described|demonstrated|identified|visualized"
    r"|reported|mentioned|known|questioned|suspected)\b)[^,;()]*\)?",
    # References to other examinations.
    r"^(?:no|without)\s+(?:(?:prior|previous|available|old|recent|an?)\s+)*comparisons?\b(?:\s+(?:chest|x-?rays?"
    r"|films?|exams?|stud(?:y|ies)"
    r"|radiographs?|images?|imaging|is|are|available|at\sthis\stime|to\s(?:assess|evaluate|confirm)\s\w+))*",
    r"^[^,;]*\b(?:un)?available\s(?:for|at)\b[^,;]*",
    r",?\s*\bwithout\s+(?:an?\s+|any\s+|prior\s+|previous\s+|old\s+)*(?:comparisons?|priors)(?:\s+(?:films?|exams?"
    r"|stud(?:y|ies)))?\b,?",
    r"^comparison\b(?:\s+(?:is\s+)?(?:made\s+)?(?:to|with)\b[^,;]*|\s*:[^.;]*$|[\s,]*(?=\s(?-i:[A-Z])))",
    rf",?\s*\(?(?:{_COMPARED})\s+(?:{_EARLIER}|(?:the\s+)?(?:prior|previous|earlier|that|those)\b"
    rf"|(?:the\s+)?{_KIND_OF_EXAM}{_EXAM}\b"
    rf"|(?=\d|today|yesterday)){_DATE}\)?",
    rf",?\s*\b(?:since|from)\s+(?:{_EARLIER}|(?:the\s+)?(?:prior|previous|last)\b|(?=yesterday|\d+\s+(?:days|weeks"
    rf"|months|hours)))"
    rf"{_DATE}",
    rf",?\s*(?:\b{_SEEN}\s+)?\b(?:on|in|to|than|with|per|over|at|by|was|were)\s+{_EARLIER}{_DATE}"
    r"(?:\s+and(?=\s+(?:may|could|might)\b))?",
    rf",?\s*\bsince\s+(?:the\s+)?{_EXAM}\b{_DATE}",
    rf",?\s*\bas\s+(?:{_SEEN}\s+)?(?:before|previously|on\sprior|compared|above|below)\b",
    r",?\s*\(?\b(?:please\s+)?see\s+(?:above|below|comments?|details|findings)\b\)?",
    r",?\s*\(?\b(?:as\s+)?(?:discussed|described|noted|detailed|mentioned|above)\s+(?:above|below"
    r"|in\sthe\s(?:findings|body)"
    r"(?:\sof\sthe\sreport)?|previously)\)?",
    r",?\s*\b(?:at\sthe\stime\sof\s(?:this\s)?\w+|at\sthis\stime|at\spresent|currently|on\s(?:the\s|this\s"
    r"|today's\s)?(?:current|present"
    r"|today's|this)\s(?:stud(?:y|ies)|exam(?:ination)?s?|films?|radiographs?|images?|x-?rays?)"
    r"|in\s(?:the\s)?interim|over\sthe"
    r"\sinterval|in\sthe\sinterval|today|yesterday|now(?=\s*$)|\d+\s(?:days?|weeks?|months?|years?)\sago)\b",
)
TIME = _deletes(
    # "No change in X" leaves X, "no change" nothing.
    rf"\b{_THERE}(?:no|without|little|minimal|not\smuch)\s+{_DEGREE}changes?\b(?!\s+(?:of|associated"
    rf"|related))(?:\s+(?:in|to|with)\s+(?:the\s+)?(?!comparison)"
    r"(?:(?:appearance|position|positioning|size|extent|amount|overall\sappearance)\s+of\s+(?:the\s+)?)?)?",
    rf",?\s*\b(?:with|without)\s+{_DEGREE}(?:interval\s+)?(?:change|progression|improvement|worsening)\b"
    rf"(?!\s+(?:of|in)\b){_SIZE}",
    # "There has been interval development of X" leaves X.
    rf"\bthere\s+(?:has|have)\s+been\s+{_DEGREE}(?:increase|decrease|improvement|worsening|progression|{_ENLARGEMENT}"
    rf"|development"
    rf"|appearance|placement|insertion|re-?accumulation|clearing|reduction){_SIZE}\s+(?:in|of)\s+(?:the\s+|an?\s+)?",
    rf"\b{_DEGREE}(?:interval|further|continued|slight|mild)\s+(?:(?:slight|mild|further|significant|marked"
    rf"|partial)\s+)*"
    rf"(?:increase|decrease|improvement|worsening|progression|{_ENLARGEMENT}|development|appearance|placement"
    rf"|insertion|reduction"
    rf"|re-?accumulation|clearing){_SIZE}\s+(?:in|of)\s+(?:the\s+|an?\s+)?",
    rf"\b(?:partial|near\scomplete|incomplete)\s+resolution{_SIZE}\s+of\s+(?:the\s+)?|\b(?:partially|incompletely"
    rf"|nearly)\s+resolved\s+",
    r"\b(?:improvement|worsening|progression|development|redemonstration|re-demonstration|persistence)\s+(?:in"
    r"|of)\s+(?:the\s+|an?\s+)?"
    r"(?:(?:appearance|size|extent|amount|severity)\s+of\s+(?:the\s+)?)?",
    r"\bin\s+(?:stable|unchanged|similar)\s+(?:position(?:ing)?|alignment)\b",
    rf"\b{_DEGREE}(?:stable|unchanged|similar)\s+(?:\w+\s)?(?:appearance|position|positioning|size|configuration"
    rf"|extent|degree)\s+of\s+(?:the\s+|an?\s+)?",
    # Verbs: "is stable", "has increased in size since", "again seen".
    rf",?\s*\b(?:which\s+|that\s+)?{_BE}\s+{_DEGREE}(?:{_STILL}|improved|worsened|progressed)\b{_SIZE}{_CLAUSE_END}",
    rf"\s*\b{_BE}\s+{_DEGREE}(?:larger|smaller|worse|better|more\sextensive|less\sextensive)(?=\s*(?:$|[,;]))",
    rf",?\s*\b(?:which\s+|that\s+)?(?:has|have)\s+(?:been\s+|also\s+)?{_DEGREE}(?:slightly\s+"
    rf"|mildly\s+)?{_CHANGE}\b{_SIZE}",
    rf"\s*\b(?:which\s+|that\s+)?(?<!may\s)(?:persists?|redemonstrated|re-demonstrated)\b|\b(?:is|are)\s+(?:again"
    rf"|redemonstrated)\s*(?:{_SEEN})?",
    rf",?\s*\bagain\s+(?:{_SEEN})?|\b(?:again|redemonstrated)\b",
    rf",\s*{_DEGREE}(?:increased|decreased|improved|worsened|smaller|larger|worse|better|new)(?:{_SIZE})(?=\s*(?:$"
    rf"|[,;)]))",
    rf",?\s*\b{_DEGREE}(?:unchanged|stable|similar|improved|worsened)(?:{_SIZE})(?=\s*(?:$|[,;)]))",
)
_CHANGING = (
    r"(?:un-?changed|stable(?:[\s-]appearing)?|persist(?:ent|ing)(?:ly)?|newly|new(?=\s)|recurrent|interval"
    r"|increasing(?:ly)?|decreasing|improving|improved|worsening|worsened|progressive(?:ly)?|progressing"
    r"|resolving|clearing|evolving|developing|continued|continuing|previously(?:\s+(?:seen|noted|described"
    r"|demonstrated|identified|visualized|reported|mentioned|known))?|known|slowly)"
)
ADJECTIVES = _deletes(
    r"\b(?:(?:slightly|mildly|markedly)\s+)?(?:increased|decreased|enlarging|increase\sin"
    r"|decrease\sin)(?:\s+(?:in\s+)?size\s+of(?:\s+the)?)?"
    r"(?=\s+(?:(?:the|very|small|tiny|trace|moderate|large|right|left|bilateral|loculated|layering|apical|pleural"
    r"|pulmonary|interstitial"
    r"|lung|multiple|size|of|upper|lower|lobe|basilar|bibasilar|mild|severe)\s+)*(?:effusions?|edema|pneumothora\w+"
    r"|consolidations?"
    r"|atelectasis|pneumonia|infiltrates?|nodules?|mass(?:es)?)\b)",
    r"(?<=\bno\s)(?:new|recurrent|progressive)\s+or\s+|(?<=\bwithout\s)(?:new|recurrent|progressive)\s+or\s+",
    rf"\b(?:but\s+)?{_CHANGING}\b(?:\s+(?:or|to|and)\s+(?:slightly\s+)?{_CHANGING}\b)*(?:\s*,)?",
)
HEDGES = _deletes(
    r"(?<=\bno\s)(?:definite|definitive|convincing|obvious|clear-?cut|certain)\s",
    r"(?<=\bwithout\s)(?:definite|definitive|convincing|obvious|clear-?cut)\s",
    r"^(?:this|these|it|which)\s(?:may|might|could)\s(?:also\s)?(?:be\s)?(?:\w+\s)?(?:artifact\w*|technical"
    r"|positional|projectional)\b[^,;]*",
)

# ---------------------------------------------------------------------------------------------------------------------
# What is left of a sentence

LIST_NUMBER = re.compile(r"(?:(?<=\s)|^)(\d{1,2})[.)](?=\s|[A-Za-z])")
DANGLING = re.compile(
    r"(?:^|[\s,;:(-]+)(?:and|or|but|with|of|in|to|from|at|on|by|for|since|as|than|the|an?|which|that|is|are|was"
    r"|were|has|have|been|be"
    r"|compared|versus|vs|appears?|remains?|there|slightly|mildly|somewhat|when|may|this|these|due|although|however"
    r"|most)$",
    _FLAGS,
)
LEADING = re.compile(r"^(?:[\s,;:)./-]+|(?:and|but|or|which|that|however|of|than|although)\b\s*)+", _FLAGS)
# A sentence of which only such words are left says nothing: after the deletion of marks, and of what is invisible.
FUNCTION_WORDS = _words(
    """
    a an the this these that those there it its is are was were be been has have had and or but nor of in on at to from
    by with without for as than when which may could compared comparison prior previous dr
    """
)
EMPTY_WORDS = FUNCTION_WORDS | _words(
    """
    no not any other otherwise again also overall since chest lung lungs heart cardiac size contour contours silhouette
    silhouettes mediastinum mediastinal cardiomediastinal cardiopulmonary pulmonary thorax thoracic structures
    appearance appearances exam examination examinations exams study studies film films image images imaging radiograph
    radiographs radiographic xray x-ray x-rays cxr view views finding findings change changes comparisons interval
    significant significantly impression aeration position positions positioning status condition process left right
    bilateral lower upper lobe base bases side ct scan pa lateral ap frontal portable abdomen pelvis remainder slight
    slightly mild mildly minimal minimally essentially relatively relevant perhaps some above below described note noted
    seen clinical correlation followup follow-up evaluation further evidence additional however definite hila hilar
    vasculature vascularity report thank thanks you time level appropriate recent day days week weeks month months year
    years ago one two three four small volumes increased decreased improved unchanged stable
    """
)
