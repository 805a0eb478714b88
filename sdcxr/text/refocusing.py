"""Text of a report for a single radiograph: `clean` without de-identification marks, `refocus` without time and advice.

Both only delete: the words of the result are the words of the text in their order, punctuation and the capital of a
sentence are mended. Both are idempotent, need no network, and have their rules in `refocusing_rules`.
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Literal

from sdcxr.text import refocusing_rules as rules

TextMode = Literal["raw", "clean", "refocused"]
"""raw: as it is; clean: without de-identification marks; refocused: also without what one radiograph cannot show."""

_SENTENCE_END = re.compile(
    r"(?<!\bdr)(?<!\bvs)(?<!\bst)(?<!\b[aepi]\.[mge])((?:\s*[.!?;])+)(?=\s|$|(?-i:(?<=[a-z].)(?=[A-Z][a-z])))", re.I
)
_Sentence = tuple[str, str]  # words, the punctuation that ends them


def use_mode(text: str, mode: TextMode) -> str:
    """A text in the given mode; white space is normalised in all but "raw"."""
    return text if mode == "raw" else clean(text) if mode == "clean" else refocus(text)


def describe_change(mode: TextMode, before: Iterable[str], after: Iterable[str]) -> str:
    """A line with the share of the texts that a mode changes and of the characters that it drops."""
    pairs = list(zip(before, after, strict=True))
    changed, characters = sum(old != new for old, new in pairs), sum(len(old) for old, _ in pairs)
    dropped = characters - sum(len(new) for _, new in pairs)
    return (
        f"texts: {changed:,} of {len(pairs):,} are changed by --text {mode} ({changed / max(len(pairs), 1):.1%}), "
        f"{dropped / max(characters, 1):.1%} of the characters are dropped"
    )


@lru_cache(maxsize=1 << 16)
def clean(text: str) -> str:
    """The text without marks such as `___` and XXXX and the words that lean on them ("on ___ at ___"); may be empty."""
    return _until_stable(_normalised(text), _without_marks)


@lru_cache(maxsize=1 << 16)
def refocus(text: str) -> str:
    """The text without marks, comparison, time, advice, communication and list numbers; `clean` if nothing is left.

    Findings keep their side, size, severity, negation and hedge.
    """
    cleaned = clean(text)
    return _until_stable(cleaned, lambda text: clean(_without_invisible(text))) or cleaned


def _normalised(text: str) -> str:
    return " ".join(text.split())


def _until_stable(text: str, change: Callable[[str], str]) -> str:
    """The fixed point of a function that only deletes: what makes `clean` and `refocus` idempotent."""
    while (changed := change(text)) != text:
        text = changed
    return text


def _without_marks(text: str) -> str:
    marked = rules.MARK.sub(rules.M, text)
    if marked == text:
        return text
    return _joined(
        (_mended(rules.MARKS.sub(" ", words), words, rules.FUNCTION_WORDS), end) if rules.M in words else (words, end)
        for words, end in _sentences(marked)
    )


def _without_invisible(text: str) -> str:
    sentences = _sentences(_without_list_numbers(text))
    kept = (
        words
        for words in sentences
        if not _denies_new(words[0], [other for other, _ in sentences if other != words[0]])
    )
    return _joined((_refocused(words), end) for words, end in kept)


def _denies_new(sentence: str, others: list[str]) -> bool:
    """Whether it is "No new nodules." and another sentence speaks of nodules: "No nodules" would contradict that."""
    denied = rules.NO_NEW.search(sentence)
    stems = {word[:6] for word in _long_words(denied[1])} if denied else set()
    return any(word[:6] in stems for other in others for word in _long_words(other))


def _long_words(text: str) -> list[str]:
    return re.findall(r"[a-z]{5,}", text.lower())


def _refocused(sentence: str) -> str:
    words = rules.STABLE_AND_STATE.sub(r"\1 ", _without_clauses(sentence))
    words = rules.STABLE_AND_CLAUSE.sub(lambda match: ". " + match[1].upper(), words)
    words = rules.COMPARISON.sub(" ", _without_resolved(words))
    changes = () if rules.DENIED_CHANGE.search(words) else (rules.TIME, rules.ADJECTIVES)
    for rule in (*changes, rules.HEDGES):
        words = rule.sub(" ", words)
    return sentence if words == sentence else _mended(words, sentence, rules.EMPTY_WORDS)


def _without_resolved(sentence: str) -> str:
    """Without the clauses about a finding that is gone."""
    starts = [0]
    for clause in rules.AND_CLAUSE.finditer(sentence):
        if rules.VERB.search(sentence, starts[-1], clause.start()):
            starts.append(clause.start())
    clauses = (sentence[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True))
    return "".join(each if rules.UNRESOLVED.search(each) else rules.RESOLVED.sub(" ", each) for each in clauses)


def _without_clauses(sentence: str) -> str:
    """Without advice and communication, from the beginning of their clause to the end of the sentence."""
    cues = (cue.search(sentence) for cue in (rules.ADVICE, rules.COMMUNICATION))
    first = min((cue.start() for cue in cues if cue), default=None)
    if first is None:
        return sentence
    starts = [clause.start() for clause in rules.CLAUSE_STARTS.finditer(sentence) if clause.start() < first]
    return sentence[: starts[-1]] if starts else ""


def _without_list_numbers(text: str) -> str:
    """Without "1." and "2.", but not without the number of "grade 2.": numbers count only in their order."""
    expected, pieces, end = 1, [], 0
    for match in rules.LIST_NUMBER.finditer(text):
        before, number = text[end : match.start()].rstrip(), int(match[1])
        begins = not text[: match.start()].strip() or text[: match.start()].rstrip()[-1] in ".:;"
        if number == expected > 1 or (begins and (number == 1 or (1 < number <= expected + 1 and expected > 1))):
            pieces.append(before if not before or before[-1] in ".:;!?," else before + ".")
            end, expected = match.end(), number + 1
    return _normalised(" ".join([*pieces, text[end:].strip()]))


def _sentences(text: str) -> list[_Sentence]:
    parts = _SENTENCE_END.split(text)
    return [(words.strip(), end.strip()) for words, end in zip(parts[::2], [*parts[1::2], ""], strict=True)]


def _joined(sentences: Iterable[_Sentence]) -> str:
    return _normalised(" ".join(words + end[:1] for words, end in sentences if words))


def _mended(words: str, before: str, empty: frozenset[str]) -> str:
    """What deletions have left of the sentence `before`, without dangling words; "" if only `empty` words are left."""
    words = re.sub(r"\(\s*[,;.]*\s*\)", " ", words)
    words = re.sub(r"\s+([,;:)])", r"\1", _normalised(words))
    words = re.sub(r"([,;:])(?:\s*[,;:])+", r"\1", words)
    words = rules.LEADING.sub("", words)
    while (shorter := rules.DANGLING.sub("", words.rstrip(" ,;:(-"))) != words:
        words = shorter
    if empty is rules.EMPTY_WORDS:
        whole, _, last = words.rpartition(", ")
        words = whole if whole and _is_empty(last, empty) and last not in before.split(", ") else words
    if _is_empty(words, empty):
        return ""
    begins = before.lstrip("1234567890.)( ")[:1]
    return words[0].upper() + words[1:] if begins.isupper() or begins == rules.M else words


def _is_empty(words: str, empty: frozenset[str]) -> bool:
    return all(word in empty or word.isdigit() for word in re.findall(r"[\w-]+", words.lower()))
