"""Pickled modules, as they were shared before torch warned of them, read with an allow-list of classes.

A pickle can name any function and have it called. What reads it here looks classes up in a list, so that anything else
ends the reading. torch's own restricted reader does that for the files of torch 1.6 and later; it knows no modules in
older files, for which this one restricts Python's unpickler in the same way.
"""

import io
import pickle
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sdcxr.errors import UserError

OLD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch's magic number, pickled: the first bytes before torch 1.6
HARMLESS = {
    ("collections", "OrderedDict"),
    ("builtins", "set"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch.nn.backends.thnn", "_get_thnn_function_backend"),  # of modules before torch 1.4; returns None
}


def load_pickled(file: Path, classes: list[Any]) -> Any:
    """What a file of torch holds, on the CPU.

    Args:
        file: tensors, or modules of the given classes, in containers.
        classes: all that it may hold beside tensors.

    Raises:
        UserError: it is damaged, or holds anything else.
    """
    import torch

    content = file.read_bytes()
    try:
        if not content.startswith(OLD):
            with torch.serialization.safe_globals(classes):
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        with warnings.catch_warnings(action="ignore"):  # the source of the classes has changed since
            restricted: Any = _restricted(classes)
            return torch.load(io.BytesIO(content), map_location="cpu", pickle_module=restricted, weights_only=False)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, AttributeError, TypeError) as error:
        names = ", ".join(sorted(kind.__name__ for kind in classes)) or "tensors"
        raise UserError(
            f"{file} is damaged, or holds something else than {names} ({_reason(error)}): download it again, or save "
            f"its state dict alone under this name"
        ) from None


def _restricted(classes: list[Any]) -> SimpleNamespace:
    """What torch.load needs of the module `pickle`, with an unpickler that knows the given classes only."""
    allowed = HARMLESS | {(kind.__module__, kind.__qualname__) for kind in classes}

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            module = "builtins" if module == "__builtin__" else module
            if (module, name) not in allowed:
                raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
            return super().find_class(module, name)

    def load(file: Any, **options: Any) -> Any:
        return Unpickler(file, **options).load()

    return SimpleNamespace(Unpickler=Unpickler, load=load, __name__="restricted")


def _reason(error: Exception) -> str:
    """The line that says why, in the page that torch writes about its restricted reader."""
    _, found, rest = str(error).partition("WeightsUnpickler error:")
    lines = (rest if found else str(error)).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
