"""The protocol of a tuning method, and the tensors of a module that training changes."""

from typing import ClassVar, Protocol

from torch import Tensor, nn

from sdcxr.config import TrainConfig


class TuningMethod(Protocol):
    """Chooses, or adds, the trainable parameters of one part (UNet, text encoder, …). One file a method."""

    name: ClassVar[str]
    """Value of `--method`."""

    def inject(self, module: nn.Module, config: TrainConfig) -> list[str]:
        """Prepare the part, adding modules where the method needs some, and return the names of what trains.

        Raises:
            UserError: the part has nothing that the method serves.
        """

    def state(self, module: nn.Module) -> dict[str, Tensor]:
        """What `adapter/` holds of the part after training; empty where the merged weights are all there is.

        One file for all, or a file for each tensor where the class has a true `file_per_tensor`.
        """

    def merge(self, module: nn.Module) -> nn.Module:
        """The part as plain diffusers knows it, with what was trained folded in; `module` itself stays as it is."""


def apply_method(method: TuningMethod, module: nn.Module, config: TrainConfig) -> None:
    """Let exactly the parameters that the method names require gradients.

    Raises:
        UserError: see `TuningMethod.inject`.
        ValueError: the method names parameters that the module does not have, or none.
    """
    names = set(method.inject(module, config))
    parameters = dict(module.named_parameters())
    if not names or not names <= parameters.keys():
        raise ValueError(f"--method {method.name} names {sorted(names - parameters.keys())[:3] or 'no parameters'}")
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in names)


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
