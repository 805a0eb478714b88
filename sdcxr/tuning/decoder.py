"""A tuning method on the encoder of a segmenter, whose decoder always trains."""

import copy
from typing import Any

from torch import Tensor, nn

from sdcxr.config import TrainConfig
from sdcxr.tuning.base import TuningMethod, copy_exactly, modules_of, take_attributes, trained_tensors
from sdcxr.tuning.vision import Linear

ENCODER = "encoder"  # of a network of segmentation_models_pytorch


class WithDecoder(TuningMethod):
    """A method for the encoder, and the rest of the network, which trains and is in its adapter too.

    `linear` leaves the encoder as it is.
    """

    name = ""
    serves = ("Module",)

    def __init__(self, inner: TuningMethod):
        self.inner = inner
        take_attributes(self, inner, but=("serves",))

    def inject(self, module: nn.Module, config: TrainConfig) -> list[str]:
        encoder = encoder_of(module)
        names: list[str] = []
        if not isinstance(self.inner, Linear):
            names = self.inner.inject(encoder, config) if any(modules_of(encoder, self.inner.serves)) else []
            if not names:
                return []
        rest = [name for name, _ in module.named_parameters() if not name.startswith(f"{ENCODER}.")]
        return [*(f"{ENCODER}.{name}" for name in names), *rest]

    def state(self, module: nn.Module) -> dict[str, Tensor]:
        if self.name == "full":
            return {}
        inner = {} if isinstance(self.inner, Linear) else self.inner.state(encoder_of(module))
        return {f"{ENCODER}.{name}": value for name, value in inner.items()} | _decoder(module)

    def load(self, module: nn.Module, state: dict[str, Tensor]) -> None:
        own = _decoder(module)
        of_encoder = {name.removeprefix(f"{ENCODER}."): state[name] for name in state.keys() - own.keys()}
        copy_exactly({name: state[name] for name in own if name in state}, own, f"an adapter of {self.name}")
        if of_encoder or not isinstance(self.inner, Linear):
            self.inner.load(encoder_of(module), of_encoder)

    def after_step(self, module: nn.Module, step: int, config: TrainConfig) -> None:
        self.inner.after_step(encoder_of(module), step, config)

    def merge(self, module: nn.Module) -> nn.Module:
        merged: Any = copy.deepcopy(module)
        if not isinstance(self.inner, Linear):
            merged.encoder = self.inner.merge(merged.encoder)
        return merged


def encoder_of(module: nn.Module) -> nn.Module:
    """The encoder of a segmenter."""
    return module.get_submodule(ENCODER)


def _decoder(module: nn.Module) -> dict[str, Tensor]:
    """What trains outside of the encoder, with the running statistics of its normalisations."""
    return {name: value for name, value in trained_tensors(module).items() if not name.startswith(f"{ENCODER}.")}
