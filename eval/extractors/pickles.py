"""Safe loading of pickled weights: state dicts of files that may contain tensors and listed layers only.

A pickle can call any function. Here names are looked up in a list, and any other name is an error. Files of torch 1.6
and later are read by torch's own restricted unpickler; it does not support modules in older files, for which Python's
unpickler is restricted in the same way.

Of a pickled module only the tensors are kept, and its classes are never instantiated: their constructors would be
called with arguments from the file, and that of torchxrayvision's DenseNet downloads and unpickles what it is given.
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
    """Stands for any pickled module and keeps its attributes; without a constructor it takes no arguments."""

    dump_patches = False  # torch reads it if the pickle contains the source of the class
    attributes: dict[str, Any]

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        self.attributes = attributes


def load_state(file: Path, modules: Collection[type] = ()) -> dict[str, Any]:
    """The state dict of a torch file that contains a state dict or a pickled module; tensors are on the CPU.

    Args:
        file: the file.
        modules: classes that it may contain beside tensors.

    Raises:
        UserError: it is damaged or contains anything else.
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
            raise ValueError(f"it contains a {type(state).__name__}")
    except Exception as error:  # damaged files raise errors of any class
        short = ", ".join(sorted(kind.__name__ for kind in modules)) or "tensors"
        raise UserError(
            f"{file} is damaged, or contains something else than {short} ({_reason(error)}): "
            f"download it again, or save its state dict alone under this name"
        ) from None
    return state


def _tensors(layer: Layer, prefix: str = "") -> dict[str, Any]:
    """The module's `state_dict()`."""
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
    """The parts of the module `pickle` that torch.load uses, with an unpickler restricted to the list."""

    # Python's own, whose memo is a dictionary: that in C is an array of the largest index that a damaged file has.
    class Unpickler(pickle._Unpickler):
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
    """The reason alone, out of torch's long message about its restricted unpickler."""
    _, found, rest = str(error).partition("WeightsUnpickler error:")
    lines = (rest if found else str(error)).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
