"""Prompts from templates: the one grammar, the seeded choice among several templates, and dropout of fields.

`{field}` stands for a field of the row, `[…]` for a part that is left out where one of its fields is empty:

    {text}                                   the impression
    {findings}.                              "Edema and pneumonia."
    {word}                                   "normal", or one finding
    a photo of a lung xray[ with {finding}]  (arXiv 2210.04133)
    [{view} view. ]{text}                    "PA view. Small left effusion."
    [{demographics}. ]{text}                 "86 year old WHITE female. Small left effusion." (RoentGen-v2)
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from sdcxr.io.files import uniform
from sdcxr.runtime.errors import UserError

PERSON_FIELDS = ("age", "race", "sex")
DEMOGRAPHICS = "demographics"
"""The person in RoentGen-v2's form, "86 year old WHITE female" (arXiv 2508.16783), from `PERSON_FIELDS`."""
_PLACE = re.compile(r"\{([^{}]+)\}")
_OPTIONAL = re.compile(r"\[((?:[^\[\]{}]|\{[^{}]*\})*)\]")
_SENTENCE_END = re.compile(r"(?:^\s*|[.!?]\s+)$")
FLAG = "--prompt_template"


def as_list(templates: Sequence[str] | str) -> list[str]:
    """The templates of a flag or key: none for an empty text."""
    return [templates] if isinstance(templates, str) and templates else list(templates)


def as_recorded(templates: Sequence[str] | str) -> list[str] | str:
    """The templates as flags and records have them: a single one as text, none as an empty one."""
    several = as_list(templates)
    return several if len(several) > 1 else "".join(several)


def places(templates: Iterable[str]) -> list[str]:
    """What stands in braces in the templates, each once."""
    return list(dict.fromkeys(name.strip() for template in templates for name in _PLACE.findall(template)))


def check_templates(templates: Iterable[str]) -> None:
    """Raise a `UserError` if a template is empty, or if its braces or brackets do not match."""
    for template in templates:
        rest = _PLACE.sub("", _OPTIONAL.sub("", template))
        if set(rest) & set("[]{}") or not template.strip():
            raise UserError(
                f"{FLAG} {template!r}: expected text with fields in braces, such as '[{{view}} view. ]{{findings}}.'; "
                "a part in brackets is left out where one of its fields is empty"
            )


def check_dropout(dropout: float, templates: Sequence[str] | None = None) -> None:
    """Raise a `UserError` if `--field_dropout` is no probability, or where it is given without templates."""
    if not 0 <= dropout <= 1:
        raise UserError(f"--field_dropout {dropout:g}: expected 0 to 1")
    if dropout and templates is not None and not templates:
        raise UserError(f"--field_dropout {dropout:g}: is for fields of a {FLAG}: give one")


def check_fields(templates: Iterable[str], known: Iterable[str]) -> None:
    """Raise a `UserError` for a field that there is not, or a template that is the bare name of one."""
    known = list(known)
    shown = [name for name in known if len(name.split()) == 1]  # of a table without a header, a name may be a report
    for template in templates:
        for field in places([template]):
            if field not in known:
                near = difflib.get_close_matches(field, shown, n=1)
                hint = f": did you mean {{{near[0]}}}?" if near else ""
                raise UserError(f"{FLAG} {template!r}: unknown field {field!r} (there are: {', '.join(shown)}){hint}")
        if template.strip() in known:
            raise UserError(
                f"{FLAG} {template!r}: would be the prompt itself: a field stands in braces, {{{template}}}"
            )


def write_prompts(
    templates: Sequence[str], fields: Mapping[str, Iterable[str]], ids: Iterable[str], seed: int, dropout: float = 0
) -> list[str]:
    """The prompt of each row, "" where a field outside brackets is empty.

    Args:
        templates: see `check_templates`; the choice among several depends on the id and on `seed` only.
        fields: words of each row by field; `DEMOGRAPHICS` is made of `PERSON_FIELDS`.
        ids: an id per row.
        seed: seed of the choice and of the dropout.
        dropout: probability that a field that stands in brackets only is left out.

    Raises:
        UserError: a template has a field that there is not.
    """
    derived = {DEMOGRAPHICS} if fields.keys() & set(PERSON_FIELDS) else set()
    check_fields(templates, [*fields, *derived.difference(fields)])
    rows = (dict(zip(fields, words, strict=True)) for words in zip(*fields.values(), strict=True))
    return [prompt_of(row, templates, name, seed, dropout) for row, name in zip(rows, ids, strict=True)]


def template_of(templates: Sequence[str], name: str, seed: int) -> str:
    """The template of the row with the id `name`."""
    return templates[int(uniform(f"{seed}:template:{name}") * len(templates))]


def prompt_of(row: Mapping[str, str], templates: Sequence[str], name: str, seed: int = 0, dropout: float = 0) -> str:
    """The prompt of one row; see `write_prompts`.

    Args:
        row: words by field.
        templates: of which one is chosen.
        name: id of the row.
        seed: see `write_prompts`.
        dropout: see `write_prompts`.
    """
    template = template_of(templates, name, seed)
    needed = places([_OPTIONAL.sub("", template)])
    needed += PERSON_FIELDS if DEMOGRAPHICS in needed else ()

    def words(field: str) -> str:
        if field == DEMOGRAPHICS and field not in row:
            return person(*(words(part) for part in PERSON_FIELDS))
        if field not in needed and dropout and uniform(f"{seed}:{field}:{name}") < dropout:
            return ""
        return row.get(field, "")

    return render(template, words)


def person(age: str, race: str, sex: str) -> str:
    """ "86 year old WHITE female" with what is known of it; "patient" for an unknown sex; "" if nothing is known."""
    years = f"{age} year old" if age else ""
    return " ".join(filter(None, (years, race, sex or ("patient" if years or race else ""))))


def render(template: str, words: Callable[[str], str]) -> str:
    """The prompt of a template; "" where a field outside brackets is empty.

    Args:
        template: see `check_templates`.
        words: the words of a field.
    """
    chosen = _OPTIONAL.sub(lambda part: part[1] if all(map(words, places([part[1]]))) else "", template)
    if not all(map(words, places([chosen]))):
        return ""
    prompt, end = "", 0
    for place in _PLACE.finditer(chosen):
        prompt = _continued(prompt, chosen[end : place.start()])
        value = " ".join(words(place[1].strip()).split())
        # The fields' words begin sentences of the template; what reports say is not touched further in.
        prompt += value[0].upper() + value[1:] if _SENTENCE_END.search(prompt) else value
        end = place.end()
    return " ".join(_continued(prompt, chosen[end:]).split())


def _continued(prompt: str, literal: str) -> str:
    """The prompt and the template's next words, whose full stop is left out where a field ended with one."""
    return prompt + (literal[1:] if prompt.endswith(".") and literal.startswith(".") else literal)
