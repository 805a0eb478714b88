"""What can look at images: one module per family of networks, found by name (`xrv-all@roentgen`) or by folder.

A family is a module of this package, entered in FAMILIES, with
    NAMES: dict[str, str]                       its names, … for what follows, and what they are
    def matches(name: str) -> bool               whether a name, or a folder, is of this family
    def build(request: Request) -> Extractor     the extractor, with the network not loaded yet
Importing a family is cheap; torch and the libraries come with `Extractor.load`.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdcxr.runtime.errors import UserError

FAMILIES = ("pixels", "xrv", "inception", "clip", "classifier", "contrastive", "huggingface")
"""Modules of this package, asked in this order; the first that matches a name makes the extractor."""


@dataclass(frozen=True)
class Request:
    """What was asked for: `name@variant`, and where the weights lie."""

    name: str
    variant: str | None
    weights_dir: Path | None

    def choose(self, variants: tuple[str, ...]) -> str:
        """The variant asked for, or the first.

        Raises:
            UserError: there is no such variant; says which there are.
        """
        if self.variant is None:
            return variants[0]
        if self.variant not in variants:
            raise UserError(f"{self.name}@{self.variant}: no such variant (it has: {', '.join(variants)})")
        return self.variant


@dataclass(frozen=True)
class Extractor:
    """A network with its way from a grey image to its input; everything but `load` is known without loading it."""

    name: str
    """With the variant, in full: `xrv-all@roentgen`."""
    preprocessing: str
    """The way of an image in words: filters and sizes in their order."""
    prepare: Callable[[Image.Image], np.ndarray]
    """A grey image (mode L) of any size to one input (channels, height, width). Can be pickled, for workers."""
    load: Callable[[Any], Callable[[Any], Any]]
    """The network on a torch device: inputs (batch, channels, height, width) to features (batch, dimension)."""
    dimension: int | None = None
    """Width of the features where it is known without the network."""
    weights: tuple[Path, ...] = ()
    """Files that determine the network; none for what needs no weights."""
    libraries: tuple[str, ...] = ()
    """Distributions whose versions matter beside torch and pillow."""
    load_texts: Callable[[Any], Callable[[list[str]], np.ndarray]] | None = None
    """The text tower on a torch device: texts to (n, dimension) in the images' space; None where there is none."""


def find_extractor(name: str, weights_dir: Path | None = None, flag: str = "--extractor") -> Extractor:
    """The extractor of a name, with an optional `@variant`, or of a folder with a model.

    Args:
        name: the extractor.
        weights_dir: where the weights of named ones lie.
        flag: the command-line flag that named it, for messages.

    Raises:
        UserError: nobody knows the name; its weights are absent.
    """
    try:
        return _find(name, weights_dir)
    except UserError as error:
        raise UserError(str(error).replace("--extractor", flag, 1)) from None


def _find(name: str, weights_dir: Path | None) -> Extractor:
    base, variant = name, None
    if not Path(name).expanduser().exists() and "@" in name and "/" not in name.rpartition("@")[2]:
        base, _, variant = name.rpartition("@")
    for family in FAMILIES:
        module = import_module(f"{__name__}.{family}")
        if module.matches(base):
            extractor: Extractor = module.build(Request(base, variant, weights_dir))
            return extractor
    known = [entry.partition("…")[0] for entry in names()]
    near = difflib.get_close_matches(base, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "see python -m eval.features --list"
    if "/" in base or Path(base).exists():
        hint = "no such folder, or none with a model in it"
    raise UserError(f"--extractor {name}: unknown ({hint})")


def names() -> dict[str, str]:
    """The names that are known, and what they are, family by family."""
    return {name: about for family in FAMILIES for name, about in import_module(f"{__name__}.{family}").NAMES.items()}
