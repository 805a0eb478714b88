"""State dicts out of pickles, as they were shared before torch warned of them.

A pickle can name any function and have it called. What reads it here looks names up in a list, so that anything else
ends the reading. For the files of torch 1.6 and later torch's own restricted reader does that; it knows no modules in
older files, for which this one restricts Python's unpickler in the same way.

Of a pickled module only the tensors are kept, and no class of it is ever looked up: a constructor of the list would be
called with what the file likes, and that of torchxrayvision's DenseNet downloads and unpickles whatever it is told.
"""

import io
import pickle
import warnings
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sdcxr.runtime.errors import UserError

OLD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch's magic number, pickled: the first bytes before torch 1.6
HARMLESS = {
    ("collections", "OrderedDict"),
    ("builtins", "set"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch.nn.backends.thnn", "_get_thnn_function_backend"),  # of modules before torch 1.4; returns None
}


class Layer:
    """What a pickled module becomes: its attributes. It has no constructor, and so takes no arguments."""

    dump_patches = False  # torch asks, where the pickle holds the source of the class
    attributes: dict[str, Any]

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        self.attributes = attributes


def load_state(file: Path, modules: Collection[type] = ()) -> dict[str, Any]:
    """The state dict of a file of torch that holds one, or a pickled module; tensors are on the CPU.

    Args:
        file: tensors, or modules of the given classes, in containers.
        modules: all that it may hold beside tensors.

    Raises:
        UserError: it is damaged, or holds anything else.
    """
    import torch

    content = file.read_bytes()
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in modules}
    try:
        if content.startswith(OLD):
            restricted: Any = _restricted(names)
            with warnings.catch_warnings(action="ignore"):  # the source of the classes has changed since
                found = torch.load(
                    io.BytesIO(content), map_location="cpu", pickle_module=restricted, weights_only=False
                )
        else:
            with torch.serialization.safe_globals([(Layer, name) for name in names]):
                found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        state = _tensors(found) if isinstance(found, Layer) else found
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
    except Exception as error:  # damage shows in whatever an unpickler stumbles over
        short = ", ".join(sorted(kind.__name__ for kind in modules)) or "tensors"
        raise UserError(
            f"{file} is damaged, or holds something else than {short} ({_reason(error)}): download it again, or save "
            f"its state dict alone under this name"
        ) from None
    return state


def _tensors(layer: Layer, prefix: str = "") -> dict[str, Any]:
    """What `state_dict()` of the module would give."""
    own = layer.attributes
    unsaved = own.get("_non_persistent_buffers_set", ())
    state = {
        prefix + name: tensor
        for name, tensor in [*own["_parameters"].items(), *own["_buffers"].items()]
        if tensor is not None and name not in unsaved
    }
    for name, module in own["_modules"].items():
        state |= _tensors(module, f"{prefix}{name}.")
    return state


def _restricted(modules: Collection[str]) -> SimpleNamespace:
    """What torch.load needs of the module `pickle`, with an unpickler that knows the list only."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            module = "builtins" if module == "__builtin__" else module
            if f"{module}.{name}" in modules:
                return Layer
            if (module, name) not in HARMLESS:
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
