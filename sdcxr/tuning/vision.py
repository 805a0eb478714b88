"""What tuning methods of image classifiers share: the kinds of networks, and the last layer, which always trains."""

import copy
from typing import ClassVar

from torch import Tensor, nn

from sdcxr.backbones.image_classifier import head_of, is_in
from sdcxr.backbones.prompt_tokens import attention_of, transformer_blocks
from sdcxr.config import TrainConfig
from sdcxr.tuning.base import TuningMethod, copy_exactly, take_attributes
from sdcxr.tuning.selectors import NORMS


class VisionMethod(TuningMethod):
    """A method for classifiers."""

    serves: ClassVar[tuple[str, ...]] = ("Module",)
    kinds: ClassVar[tuple[str, ...]] = ("cnn", "vit")
    """Of networks that it is for."""

    def sites(self, network: nn.Module) -> list[str]:
        """Names of what it acts on, before `inject`: parameters that train, or modules that get new ones."""
        raise NotImplementedError

    def add(self, network: nn.Module, config: TrainConfig) -> list[str]:
        """Add the modules that it needs, and return the names of what trains beside the last layer."""
        return self.sites(network)

    def inject(self, module: nn.Module, config: TrainConfig) -> list[str]:
        return [*self.add(module, config), *last_layer(module)]

    def merge(self, module: nn.Module) -> nn.Module:
        return copy.deepcopy(module)


class Linear(VisionMethod):
    """Linear probing: nothing but the last layer trains."""

    name: ClassVar[str] = "linear"

    def sites(self, network: nn.Module) -> list[str]:
        return list(last_layer(network))


class Attention(VisionMethod):
    """The attention of all blocks and the position embedding (Touvron et al. 2022, arXiv 2203.09795)."""

    name: ClassVar[str] = "attention"
    kinds: ClassVar[tuple[str, ...]] = ("vit",)
    learning_rate_factor: ClassVar[float] = 2.0

    def sites(self, network: nn.Module) -> list[str]:
        attentions = [f"{name}.{attention_of(block)}" for name, block in transformer_blocks(network).items()]
        positions = ("pos_embed", "position_embeddings")
        names = [name for name, _ in network.named_parameters()]
        return [name for name in names if is_in(name, attentions) or name.rpartition(".")[2] in positions]


class WithLastLayer(TuningMethod):
    """A method for networks of all kinds, and the last layer, which trains and is in its adapter too."""

    name: ClassVar[str] = ""  # of the method, as the others
    serves: ClassVar[tuple[str, ...]] = ()

    def __init__(self, inner: TuningMethod):
        self.inner = inner
        take_attributes(self, inner)

    def inject(self, module: nn.Module, config: TrainConfig) -> list[str]:
        names = self.inner.inject(module, config)
        return [*names, *last_layer(module)] if names else []

    def state(self, module: nn.Module) -> dict[str, Tensor]:
        return self.inner.state(module) | last_layer(module)

    def load(self, module: nn.Module, state: dict[str, Tensor]) -> None:
        own = last_layer(module)
        copy_exactly({name: value for name, value in state.items() if name in own}, own, f"an adapter of {self.name}")
        held = self.inner.state(module).keys()
        self.inner.load(module, {name: value for name, value in state.items() if name not in own or name in held})

    def after_step(self, module: nn.Module, step: int, config: TrainConfig) -> None:
        self.inner.after_step(module, step, config)

    def merge(self, module: nn.Module) -> nn.Module:
        return self.inner.merge(module)


def last_layer(network: nn.Module) -> dict[str, Tensor]:
    """The parameters of the last layer by name."""
    head = head_of(network)
    return {name: parameter for name, parameter in network.named_parameters() if is_in(name, head)}


def kind_of(network: nn.Module) -> str:
    """Whether a network is a vision transformer ("vit") or convolutional ("cnn")."""
    return "vit" if transformer_blocks(network) else "cnn"


def body(network: nn.Module) -> dict[str, nn.Module]:
    """All modules by name, without the last layer."""
    return {name: each for name, each in network.named_modules() if not is_in(name, head_of(network))}


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation."""
    return not {base.__name__ for base in type(module).__mro__}.isdisjoint(NORMS)
