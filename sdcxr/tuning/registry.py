"""Registry of tuning methods by the name that `--method` takes, and their use on the parts of a backbone."""

import difflib
from typing import Any

from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError
from sdcxr.tuning.base import TuningMethod, apply_method
from sdcxr.tuning.full import Full
from sdcxr.tuning.lycoris_methods import LYCORIS_METHODS
from sdcxr.tuning.peft_methods import PEFT_METHODS
from sdcxr.tuning.textual_inversion import TextualInversion

METHODS: dict[str, type[TuningMethod]] = {each.name: each for each in (Full, *PEFT_METHODS, *LYCORIS_METHODS)}


def register(method: type[TuningMethod]) -> type[TuningMethod]:
    """Add a method to the registry; also usable as a decorator."""
    METHODS[method.name] = method
    return method


def find_method(name: str) -> TuningMethod:
    """The method of that name.

    Raises:
        UserError: there is none; names the nearest.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=3) or sorted(METHODS)
        raise UserError(f"--method {name}: unknown (near: {', '.join(near)})")
    return METHODS[name]()


def tune(backbone: Any, config: TrainConfig) -> dict[str, TuningMethod]:
    """Let exactly what `--tune` names train, and modules without trained weights; return the methods by tuned part.

    Args:
        backbone: a `Backbone`, after `adapt`.
        config: the settings, of a task on a text-to-image base.

    Raises:
        UserError: the base has no such part, or nothing in it that the method serves.
    """
    methods: dict[str, TuningMethod] = dict.fromkeys(sorted(config.parts), find_method(config.method))
    if config.parts == {"token"}:
        methods = {"text": TextualInversion()}
    if missing := methods.keys() - backbone.parts.keys():
        raise UserError(f"--tune {config.tune}: this base has no part {', '.join(sorted(missing))} to tune")
    for name, part in backbone.parts.items():
        part.requires_grad_(False).eval()
        if name in methods:
            apply_method(methods[name], part.train(), config)
    for module in backbone.untrained.values():
        module.requires_grad_(True)
    return methods
