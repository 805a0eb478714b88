"""Registry of tuning methods by the name that `--method` takes."""

import difflib

from sdcxr.runtime.errors import UserError
from sdcxr.tuning.base import TuningMethod
from sdcxr.tuning.full import Full

METHODS: dict[str, type[TuningMethod]] = {Full.name: Full}


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
