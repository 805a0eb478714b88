"""Registry of feature extractors: find one by name (`xrv-all@roentgen`) or by folder, register a new family.

A family is a module with NAMES, `matches` and `build` (see `eval.extractors.base.Family`); `pixels` is the shortest.
"""

import difflib
from dataclasses import replace
from pathlib import Path

from eval.extractors import huggingface, inception, open_clip, pixels, run_classifier, run_clip, xrv
from eval.extractors.base import Extractor, Family, Request
from sdcxr.runtime.errors import UserError

FAMILIES: list[Family] = [pixels, xrv, inception, open_clip, run_classifier, run_clip, huggingface]
"""Asked in this order; the first that matches a name builds the extractor."""


def register(family: Family) -> None:
    """Add a family of extractors; it is asked before all others, so that it can also replace a name."""
    if family not in FAMILIES:
        FAMILIES.insert(0, family)


def find_extractor(name: str, weights_dir: Path | None = None, flag: str = "--extractor") -> Extractor:
    """The extractor of a name, with an optional `@variant`, or of a folder with a model.

    Args:
        name: the extractor.
        weights_dir: folder with the weights of named extractors.
        flag: the command-line flag that named it, for messages.

    Raises:
        UserError: the name is unknown, or its weights are absent.
    """
    try:
        return replace(_find(name, weights_dir), given_name=name)
    except UserError as error:
        raise UserError(str(error).replace("--extractor", flag, 1)) from None


def _find(name: str, weights_dir: Path | None) -> Extractor:
    base, variant = name, None
    if not Path(name).expanduser().exists() and "@" in name and "/" not in name.rpartition("@")[2]:
        base, _, variant = name.rpartition("@")
    for family in FAMILIES:
        if family.matches(base):
            return family.build(Request(base, variant, weights_dir))
    known = [entry.partition("…")[0] for entry in names()]
    near = difflib.get_close_matches(base, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "see python -m eval.features --list"
    if "/" in base or Path(base).exists():
        hint = "no such folder, or none with a model in it"
    raise UserError(f"--extractor {name}: unknown ({hint})")


def names() -> dict[str, str]:
    """The known names with their descriptions, family by family."""
    return {name: about for family in FAMILIES for name, about in family.NAMES.items()}
