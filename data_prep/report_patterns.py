"""What headings, addenda, rules and sign-offs look like in radiology reports: compiled patterns, no code."""

import re

# Of a line that is worth a closer look: marks and words of headings, and lines so short that they may be one. The rest
# is running text.
UNUSUAL = re.compile(
    r"[\n:=*~#\[<{|>\t_\-ICOAWP](?:"  # one set of first characters is many times faster than alternatives
    r"(?<=[:=*~#\[<{|>\t])|(?<=_)(?:___|[A-Z])|(?<=-)[- ]|(?<=I)(?:MPR|mpr)|(?<=C)(?:ONC|onc)|(?<=O)(?:PIN|pin)"
    r"|(?<=A)(?:DDEN|dden)|(?<=W)(?:ET|et)|(?<=P)REL"
    r"|(?<=\n)[^\S\n]*+(?:[^\W\d_a-z][^\n.]{0,46}+|[^\s.][^\n.]{0,15}+)(?=\n|\Z))"
)
NOT_BLANK = re.compile(r"\n[^\S\n]*+\S")
MAY_BE_INLINE = re.compile(r"[:IC](?:(?<=:)|(?<=I)(?:MPRESSION|mpression)|(?<=C)(?:ONCLUSION|onclusion))")
RULE = re.compile(r"\s*(?:_{4,}|[-=*~#+.·–—]{3,}|--|(?:[-=*_~] ){3,}[-=*_~]?)\s*$")

_NAME = r"[A-Za-z][\w()/,&'’+]*+(?:(?:[ ]{1,2}\#?|-|[ ]/[ ]?)[\w()&'’+,/\[]++\]?){0,9}+"
# The mark of a list item before a heading, then decoration: "4. ", "**", "[", "=== ".
_LEAD = (
    r"\s*(?P<mark>(?:\(?\d{1,2}[.)]|\(?[IVX]{1,4}[.)]|[A-H][.)]|[-+•·▪●◦])\s*(?=[\s*A-Z]))?[*_\#=~<\[({\"'“`|>:-]*\s*"
)
_CLOSING = r"[\])}>*_=\#~\"'”|`]*"

# "IMPRESSION - CHEST:", "IMPRESSION - PORTABLE CHEST X-RAY:"
_OF_CHEST = r"(?:\s+(?i:(?:cxr|chest|thorax|x-?ray|xr|radiograph|portable|pa|ap|lateral|views?|and)\s?){1,6}:)?"

# At the start of a line: a name with a colon (but not of the time 10:30), alone, in brackets or bold, or with a dash.
HEADING = re.compile(
    rf"""{_LEAD}(?P<name>{_NAME})\s*(?:
        (?P<colon>\.*{_CLOSING}\s*(?:(?<!\d):|:(?!\d))[*_:=.]*(?:-+>?(?=\s|[A-Za-z]|$)|\s+-+\s*$)?{_CLOSING})
        | (?P<alone>[-–—]*{_CLOSING}[-–—]*\s*$)
        | (?P<other>(?:\]|\}}|>|\*\*|\*(?=\s)|__|==|\#\#|~~|`){_CLOSING}
            | [-=]+> | (?:(?<=\s)[-–—]+|[–—]|=|\|)(?=\s){_OF_CHEST})
    )""",
    re.VERBOSE,
)
# "IMPRESSION BY DR. ROE:"
_BY_AUTHOR = (
    r"\s+(?i:(?:by|per)\s+(?:the\s+)?(?:drs?|doctor|prof|professor|attending|radiologist)\b"
    r"(?![^:\n]*\b(?:old|prior|previous|outside|resident)\b))[^:\n]{0,60}:"
)
# At the start of a line: names of impressions that only their capitals, a tab or a wide gap set off from the text.
BARE_HEADING = re.compile(
    rf"""{_LEAD}(?:
        (?P<name>(?:FINAL\ )?(?:IMPRESSIONS?|CONCLUSIONS?|OPINION))
        (?:{_BY_AUTHOR}|\ ?\.+(?:-+(?=\s))?|[;>)/]|[-–—]+(?=[\sA-Z0-9])
            |(?=\ +(?:\d{{1,2}}[.)]|[A-Z][a-z]|[A-Z]\ |_{{2}}|[-•*]))|(?=\t|\ {{3}}))
        | (?P<titled>(?:Final\ )?(?:Impressions?|Conclusions?|Opinion))(?:{_BY_AUTHOR}|(?=\t|\ {{3}}))
    )""",
    re.VERBOSE,
)
ONE_BLANK = re.compile(r" [^ \t]")
# Within a line, the text before a colon: a name after a sentence or a wide gap, or IMPRESSION after anything.
INLINE_HEADING = re.compile(
    rf"""(?:[.;!?)\]}}>|*"~^/]\s+ | \s{{3,}} | \t\s* | [.;|~^](?=[A-Z]{{3}}))
    (?P<head>(?:\(?\d{{1,2}}[.)]\s+)?[*_\#\[<]*(?P<name>{_NAME})\s*{_CLOSING}\s*)$""",
    re.VERBOSE,
)
INLINE_IMPRESSION = re.compile(r"\S\s+(?P<head>(?P<name>(?:FINAL |Final )?(?:IMPRESSION|Impression))\s*)$")
INLINE_DASH = re.compile(
    r"(?<=[.;!?)|-]\s)\s*(?P<name>(?:FINAL |Final )?(?:IMPRESSION|CONCLUSION|Impression|Conclusion)S?)"
    r"(?:\s*[-–—]+>?(?=\s)|(?=\s+(?:\d{1,2}[.)]|[A-Z][a-z])))"
    r"|(?<=\s)(?P<bracket>[\[{<]+(?:FINAL )?(?:IMPRESSION|CONCLUSION)[\]}>]+)"
)
COLON = re.compile(r"(?:(?<!\d):|:(?!\d))[*_:=.]*(?:-+>?(?=\s|$))?[*_]*")
LIST_MARK = re.compile(r"(?:^|\s)(?:\(?\d{1,2}[.)]|[-+•·▪●◦*])\s*$")
# Before a heading within a line, or before a line with a name or date: the sentence goes on.
REFERS = re.compile(
    r"\b(?:prior|previous|old|last|see|the|clinical|my|our|their|with|by|to|and|of|for|from|on|at|drs?|via|dated|since|exam"
    r"|study|radiographs?|examination|physician|called|paged)[.,]?\s*$",
    re.IGNORECASE,
)

# A line about an addendum, with or without colon: "*** ADDENDUM ***", "Addendum by Dr. ___ on ___:", "END OF ADDENDUM".
ADDENDUM = re.compile(
    r"""[^\w\n]*(?!(?i:see|no|the|an?|per|this|with|refer|please)\b)
    (?P<end>(?i:end)\s(?:(?i:of)\s)?)?(?:(?!(?i:see)\b)[\w./-]+?[\s-]\s?){0,3}
    (?:ADDEN(?:DUM|DA|DED)\b | [Aa]dden(?:dum|da|ded)\b(?=[^\w.]*$ | \W*[:\#\d(\[_] | \s*[-–—]
        | \s(?:by|on|dated|begins?|starts?|ends?|created|entered|to)\b))
    (?P<ends>\W+(?i:ends?|ended|complete|finished)\b)?
    (?:(?:[^:\n]|:(?=\d\d)){0,80}:(?!\d\d))?
    | [^:\n]{0,60}\b(?i:addendum)\b[^:\n]{0,60}:\s*$""",
    re.VERBOSE,
)
# A line below the impression that quotes an old report: "OLD REPORT OF ___:", "For reference, the report read:".
_PAST = r"(?:old|older|prior|previous|archived|earlier|outside|last|past|former|historical)"
_OF_REPORT = (
    r"(?:of|from|for|dated|on|the|chest|x-?rays?|cxr|radiographs?|films?|exam(?:ination)?|study|[\d/_.,()\[\]*-]+)"
)
PRIOR_REPORT = re.compile(
    rf"""[^\w\n]*(?:
        (?:(?:the|text\sof|copy\sof)\s)*{_PAST}\s(?:[\w-]+\s){{0,4}}?reports?\b
        | (?:[\w-]+\s)?reports?\b[^:\n]{{0,40}}?\b{_PAST}\b
        | for\sreference\b(?=\W*$|\s*:|[^:\n]{{0,60}}\breports?\b)
    )(?:[^:\n]{{0,80}}(?::(?!\d\d)|\b(?:below|follows|quoted|reads?)\W*$)
      | (?:\s{_OF_REPORT}|\s{_PAST}|\simaging)*(?:[^\w\n.]|_)*$)""",
    re.VERBOSE | re.IGNORECASE,
)
QUOTED_REPORT = re.compile(r"\s*[\"“](?=(?i:(?:final\s)?(?:impression|conclusion|opinion|findings)s?)\b[^:\n]{0,40}:)")
# A line about a preliminary reading whose marks do not make it a heading.
WET_READ = re.compile(
    r"[^\w\n]*(?:WET\s?READ|PRELIMINARY (?:READ|REPORT)|Wet [Rr]ead(?= (?:by|version)))\b"
    r"(?:(?:[^:\n]|:(?=\d\d)){0,80}:(?!\d\d))?"
)

# ---------------------------------------------------------------------------------------------------------------------
# Sign-offs. Notifications ("Discussed with Dr. ___ at 10:30") are text.

_SIGNED = (
    r"(?:(?:e-?|co-?)?signed|verified|authenticated|approved|finali[sz]ed|validated|authori[sz]ed|released|dictated"
    r"|transcribed)"
)
_READ = r"(?:typed|reported|reviewed|interpreted|read|prepared|created|attested|entered|edited)"
_REPORT = r"(?:reports?|documents?|examinations?|exams?|study|studies|images?|dictation|interpretation|transcription)"
_SIGN_OFFS = (
    rf"""(?:(?:this|the|final|above|all)\s+)*(?:{_REPORT}\s+(?:and\s+{_REPORT}\s+)?)?
        (?:(?:was|were|has\sbeen|have\sbeen|is|are)\s+)?(?:(?:electronically|digitally|personally|initially)\s+)?
        (?:{_SIGNED}|{_READ})(?:\s*(?:,|and|&|/)\s*{_SIGNED})*(?:\s+electronically)?
        (?:\s*:|\s+by\b|(?<=ed)\s+(?:on\b|at\b|using\b|date\b|\d)|(?<=dictated)\s+with\b|\s+but\snot\s)""",
    rf"(?:electronically|digitally)\s+{_SIGNED}",
    r"e-signed | signed\) | s/\s | signature\b | unsigned\s | gmc\s | powerscribe\b",
    r"i,?\s+(?:[^\n]{0,80}\s)?(?:reviewed|attest|certify|agree|concur|interpreted|supervised|viewed|examined|edited)\b",
    r"""(?:as\s)?(?:the\s)?(?:attending|teaching|staff|supervising|undersigned)\s[^\n]{0,60}\b
        (?:reviewed|attests?|agrees?|attestation|statement|interpreted)\b""",
    r"(?:reviewed|interpreted)\s+and\s+(?:agreed|interpreted|electronically)",
    r"end\s+of\s+(?:the\s)?(?:\w+\s)?(?:report|impression|text|dictation|document|transcript|exam|addendum|message)",
    r"(?:\w+\s)?(?:report|impression)\s+ends?\b | end\s(?:report|impression)\b",
    r"/?(?:end|eor|eof)\W*$ | final[^\w.]*$ | \(?(?:over|cont|continued)\)\W*$ | page\s\d+(?:\s(?:of|/)\s\d+)?\s*$",
    r"thank\s?(?:you|s)\b | (?:with\s)?(?:kind|best|warm)?\s*regards",
    r"yours\s(?:sincerely|faithfully|truly) | sincerely",
    r"disclaimer | attestation | this\sis\san?\s(?:preliminary|final|draft|unofficial)\b",
    r"(?:(?:note|important|please\snote)\W+)?this\s(?:report|document|dictation|note)\s(?:was|is|has|may|contains|constitutes)\b",
    r"(?:parts|portions|some)\sof\sthis\s(?:report|document|dictation|note) | (?:voice|speech)\srecognition",
    r"dictation\s | confidential\b | cop(?:y|ies)\s(?:to|sent)\b",
    r"if\s(?:you\shave|there\sare)\s(?:any\s)?(?:further\s)?questions",
    r"for\s(?:any\s)?(?:further\s)?(?:questions|queries|clarifications?)",
    r'"?physician\sto\sphysician | (?:report|exam)\s(?:electronically|dictated|created|status)',
    r"(?:dd|dt|td|tt|d|t)\s?:\s*[\d_] | job\s?(?:\#|id|no)",
)
# A line, in small letters, that ends an impression.
SIGN_OFF = re.compile(rf"[^\w\n/(]*\(?(?:{' | '.join(_SIGN_OFFS)})", re.VERBOSE)

_PERSON = r"(?:[A-Z_][\w.'’-]*,?\s+){0,6}?"
_DEGREE = r"(?:M\.?\s?D|D\.?O|MBBS|M\.B\.B\.S|MBChB|MRCP|FRCR|FRANZCR|FRCPC|FRCP|FFR|DMRD|DMRE|DNB|Ph\.?D|FACR)"
_POST = r"(?:Radiologist|RADIOLOGIST|Registrar|Reporting\ Radiographer|of\ Radiology)"
_NAMES_AND_DATES = (
    r"/es/.*",
    r"(?:[A-Z]\.\s?)+[A-Z][a-z]+",
    r"[A-Z]{2,3}\s+\d{1,2}/\d{1,2}/\d{2,4}",
    r"[A-Z]{2,4}\s?[/:]\s?[a-z]{2,4}(?:\s+[\d/:.\s]+)?",  # initials of author and typist
    r"(?:Dr|Prof|Doctor|DR|M\.D|MD)\b\.?\s+(?:[A-Z][\w'’-]*\.?,?\s*|___,?\s*){1,5}(?<!\.)",
    rf"{_PERSON}(?:[A-Z_][\w'’-]*)?,?\s+{_DEGREE}\b[\w.,()\s/-]*",
    rf"(?:(?:Dr|Prof)\.?\s+)?{_PERSON}{_POST}\b[\w\s,()-]*",
    r"\d{1,4}[/.-]\d{1,2}[/.-]\d{1,4}(?:[ ,T]+\d{1,2}:\d\d[^\n]*)?",
)
# A line with nothing but a name, or a date: ends an impression if a sentence ended before it.
NAME_OR_DATE = re.compile(rf"\W*?(?:{' | '.join(_NAMES_AND_DATES)})\s*$", re.VERBOSE)

_INLINE_SIGN_OFFS = (
    r"(?:Electronically|Digitally)\s(?:signed|approved|verified|authenticated)",
    r"""(?:Dictated|Signed|Reported|Transcribed|Verified|Approved|Interpreted|Finalized|Read|Typed|Authenticated)
        (?:\sby\b|:)""",
    r"ELECTRONICALLY\sSIGNED | (?:DICTATED|SIGNED|REPORTED|VERIFIED|APPROVED)(?:\sBY\b|:)",
    r"I\shave\s(?:personally\s)?(?:reviewed|viewed) | I,\s.{0,60}\bhave\s",
    r"END\sOF\s | [Ee]nd\sof\s(?:report|impression) | Thank\syou\s(?:for|very) | \*{3,}",
)
# The same within a line.
INLINE_SIGN_OFF = re.compile(rf"[.;!?)\]]\s*(?=[\[(<*]*(?:{' | '.join(_INLINE_SIGN_OFFS)}))", re.VERBOSE)

# Every sign-off that is no short line has one of these words, and so has every line about an addendum.
SIGN_OFF_WORDS = frozenset(
    b"""
    signed esigned verified authenticated approved finalized finalised validated authorized authorised released
    dictated transcribed typed reported reviewed interpreted read prepared created attested entered edited attest
    attests certify agree agrees agreed concur supervised viewed examined attestation statement end ends eor eof
    final thank thanks thankyou regards yours sincerely disclaimer preliminary draft unofficial unsigned report
    document dictation note recognition questions queries clarification clarifications physician signature gmc
    powerscribe confidential copy copies page job over cont continued have exam dr prof doctor m md do d o mbbs b
    mbchb mrcp frcr franzcr frcpc frcp ffr dmrd dmre dnb ph phd facr radiologist registrar radiographer radiology
    es s addendum addenda addended
    """.split()
)

# ---------------------------------------------------------------------------------------------------------------------
# Bodies

# What stands for an impression that nobody wrote.
EMPTY = re.compile(
    r"""[\W_]*+(?:none(?:\s(?:given|provided|stated))?|nil|n/?a|null|nan|blank|no\simpression
        | pending|unavailable|to\sfollow|deferred|x{3,9}
        | not\s(?:applicable|given|provided|available|stated)
        | (?:please\s|findings?\s)?(?:(?:see|refer\sto|as\sper|per|same\sas|as)\s+
          (?:(?:the|in|of|is|my|under|described|noted|stated|detailed|full|findings?|above|below|body|report|text
             |comments?|discussion|narrative|dictation|section|addendum|details?|for|and)[\s.,]*)+)
        )?[\W_]*""",
    re.VERBOSE | re.IGNORECASE,
)
CODE = re.compile(r"\s*\d\s*-\s*[A-Z]{3}")  # CheXpert's "SUMMARY: 4-POSSIBLE SIGNIFICANT FINDINGS"
CONTINUED = re.compile(r"\bcont(?:inued|'d|d|\.)?\b", re.IGNORECASE)
