"""The protocol of a tuning method, and the tensors of a module that training changes."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError


class NothingToTune(UserError):
    """A part without anything that the method acts on."""


class TuningMethod(Protocol):
    """Chooses, or adds, the trainable parameters of one part (UNet, text encoder, …).

    A method is a subclass with a name, `serves`, `inject` and `merge`, and what of the rest differs from here.
    """

    name: ClassVar[str]
    """Value of `--method`."""
    serves: ClassVar[tuple[str, ...]]
    """Names of the classes (or of base classes) of the modules that it acts on: a part without any is refused."""
    options: ClassVar[tuple[str, ...]] = ()
    """Settings of `TrainConfig` that `inject` reads: recorded in the adapter, which is injected with them again."""
    learning_rate_factor: ClassVar[float] = 10.0
    """Default learning rate over that of full fine-tuning; a given --learning_rate is taken as it is."""
    additive: ClassVar[bool] = True
    """Whether the change of the merged weights may be scaled, and added to that of other adapters.

    As a difference of weights: W + Σ scale (merged W - W). Not so where the method multiplies (rotations, gains).
    """
    by_run_length: ClassVar[bool] = False
    """Whether what it does in a step depends on --max_train_steps, which then cannot change within a run."""
    file_per_tensor: ClassVar[bool] = False
    """Whether the adapter has a file for each tensor of `state`, named after it, and not one for the part."""

    def inject(self, module: nn.Module, config: TrainConfig) -> list[str]:
        """Prepare the part, adding modules where the method needs some, and return the names of what trains.

        No name: there is nothing to train, and the part is refused. New modules change nothing before training.

        Raises:
            UserError: a setting is wrong.
        """
        raise NotImplementedError

    def state(self, module: nn.Module) -> dict[str, Tensor]:
        """What `adapter/` holds of an injected part; its own tensors, not copies.

        Empty where the merged weights are all there is.
        """
        return trained_tensors(module)

    def load(self, module: nn.Module, state: dict[str, Tensor]) -> None:
        """Put what `state` returned into an injected part.

        Raises:
            UserError: a tensor is missing, unknown or of another shape.
        """
        copy_exactly(state, self.state(module), f"an adapter of {self.name}")

    def after_step(self, module: nn.Module, step: int, config: TrainConfig) -> None:
        """Called after optimizer step `step` (from 1) while the gradients are still there."""
        return

    def merge(self, module: nn.Module) -> nn.Module:
        """The part as plain diffusers knows it, with what was trained folded in; `module` itself stays as it is."""
        raise NotImplementedError


def take_attributes(method: TuningMethod, inner: TuningMethod, but: tuple[str, ...] = ()) -> None:
    """Give a method that wraps another one the other's name, options and properties, `but` some."""
    for name in TuningMethod.__annotations__.keys() - set(but):
        setattr(method, name, getattr(inner, name))


@torch.no_grad()
def copy_exactly(source: dict[str, Tensor], target: dict[str, Tensor], what: str) -> None:
    """Copy tensors into those of the same names.

    Raises:
        UserError: names or shapes differ; `what` begins the message. Nothing was copied then.
    """
    for wrong, names in (
        ("lacks", sorted(target.keys() - source.keys())),
        ("holds more than fits here:", sorted(source.keys() - target.keys())),
        (
            "has another shape of",
            sorted(n for n in target.keys() & source.keys() if target[n].shape != source[n].shape),
        ),
    ):
        if names:
            raise UserError(f"{what} {wrong} {', '.join(names[:3])} ({len(names)} in all)")
    for name, tensor in target.items():
        tensor.copy_(source[name])


def modules_of(module: nn.Module, kinds: Iterable[str]) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of all within a part whose class, or a base class of it, has one of these names."""
    wanted = set(kinds)
    for name, each in module.named_modules():
        if wanted.intersection(base.__name__ for base in type(each).__mro__):
            yield name, each


def apply_method(method: TuningMethod, module: nn.Module, config: TrainConfig) -> None:
    """Let exactly the parameters that the method names require gradients.

    Submodules that the module names as `unreached` are left as they are: no step needs them, and several processes
    would wait for their gradients.

    Raises:
        NothingToTune: there is nothing in the module that the method acts on.
        UserError: see `TuningMethod.inject`.
        ValueError: the method names parameters that the module does not have.
    """
    with out_of_sight(module, getattr(module, "unreached", ())):
        found = any(modules_of(module, method.serves))
        names = set(method.inject(module, config)) if found else set()
    if not names:
        kinds = ", ".join(kind.lstrip("_") for kind in method.serves[:5])
        more = ", …" if len(method.serves) > 5 else ""
        lacks = "nothing that it trains" if found else f"none of {kinds}{more}"
        raise NothingToTune(f"--method {method.name}: {type(module).__name__} has {lacks}")
    parameters = dict(module.named_parameters())
    if not names <= parameters.keys():
        raise ValueError(f"--method {method.name} names {sorted(names - parameters.keys())[:3]}")
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in names)


@contextmanager
def out_of_sight(module: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Inside, the submodules of these names are identities, in which a method finds nothing."""
    hidden = {name: module.get_submodule(name) for name in names}
    for name in hidden:
        module.set_submodule(name, nn.Identity())
    try:
        yield
    finally:
        for name, each in hidden.items():
            module.set_submodule(name, each)


def trained_tensors(module: nn.Module) -> dict[str, Tensor]:
    """What training changes: trainable parameters, and persistent buffers that their modules move.

    Such buffers are the running statistics of batch normalisation. Frozen weights and constant tables (positions) are
    in the base already.
    """
    tensors: dict[str, Tensor] = {name: p for name, p in module.named_parameters() if p.requires_grad}
    for prefix, part in module.named_modules():
        if any(p.requires_grad for p in part.parameters(recurse=False)) or _has_running_statistics(part):
            for name, buffer in part.named_buffers(prefix, recurse=False):
                if name.rsplit(".", 1)[-1] not in part._non_persistent_buffers_set:
                    tensors[name] = buffer
    return tensors


def _has_running_statistics(module: nn.Module) -> bool:
    return bool(module.training and getattr(module, "track_running_stats", False))
