"""A tuning method on the encoder of a segmenter, whose decoder always trains."""

import copy

from torch import Tensor, nn

from sdcxr.config import TrainConfig
from sdcxr.tuning.base import TuningMethod, copy_exactly, modules_of, take_attributes, trained_tensors
from sdcxr.tuning.vision import Linear

ENCODERS = ("encoder", "vit", "swinViT")  # of segmentation_models_pytorch, of MONAI's UNETR and Swin UNETR


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
        at = encoder_name(module)
        rest = [name for name, _ in module.named_parameters() if not name.startswith(f"{at}.")]
        return [*(f"{at}.{name}" for name in names), *rest]

    def state(self, module: nn.Module) -> dict[str, Tensor]:
        if self.name == "full":
            return {}
        inner = {} if isinstance(self.inner, Linear) else self.inner.state(encoder_of(module))
        return {f"{encoder_name(module)}.{name}": value for name, value in inner.items()} | _decoder(module)

    def load(self, module: nn.Module, state: dict[str, Tensor]) -> None:
        own = _decoder(module)
        at = f"{encoder_name(module)}."
        of_encoder = {name.removeprefix(at): state[name] for name in state.keys() - own.keys()}
        copy_exactly({name: state[name] for name in own if name in state}, own, f"an adapter of {self.name}")
        if of_encoder or not isinstance(self.inner, Linear):
            self.inner.load(encoder_of(module), of_encoder)

    def after_step(self, module: nn.Module, step: int, config: TrainConfig) -> None:
        self.inner.after_step(encoder_of(module), step, config)

    def merge(self, module: nn.Module) -> nn.Module:
        merged = copy.deepcopy(module)
        if not isinstance(self.inner, Linear):
            setattr(merged, encoder_name(merged), self.inner.merge(encoder_of(merged)))
        return merged


def encoder_name(module: nn.Module) -> str:
    """Name of the encoder in a segmenter."""
    return next(name for name in ENCODERS if hasattr(module, name))


def encoder_of(module: nn.Module) -> nn.Module:
    """The encoder of a segmenter."""
    return module.get_submodule(encoder_name(module))


def _decoder(module: nn.Module) -> dict[str, Tensor]:
    """What trains outside of the encoder, with the running statistics of its normalisations."""
    at = f"{encoder_name(module)}."
    return {name: value for name, value in trained_tensors(module).items() if not name.startswith(at)}
