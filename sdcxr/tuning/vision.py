"""Tuning methods of image classifiers that choose among the parameters there are: of convolutional networks ("cnn") and
of vision transformers ("vit"). The last layer trains with every method, and is named by none but `linear`.
"""

import copy
from typing import ClassVar

from torch import nn

from sdcxr.backbones.image_classifier import head_of, is_in
from sdcxr.backbones.prompt_tokens import attention_of, transformer_blocks
from sdcxr.config import TrainConfig
from sdcxr.tuning.base import TuningMethod

BATCH_NORM = nn.modules.batchnorm._BatchNorm


class VisionMethod(TuningMethod):
    """A method for classifiers."""

    serves: ClassVar[tuple[str, ...]] = ("Module",)
    kinds: ClassVar[tuple[str, ...]] = ("cnn", "vit")
    """Of networks that it is for."""

    def sites(self, network: nn.Module) -> list[str]:
        """Names of what it acts on, before `inject`: parameters that train, or modules that get new ones."""
        raise NotImplementedError

    def inject(self, module: nn.Module, config: TrainConfig) -> list[str]:
        return self.sites(module)

    def merge(self, module: nn.Module) -> nn.Module:
        return copy.deepcopy(module)


class Linear(VisionMethod):
    """Linear probing: nothing but the last layer trains."""

    name: ClassVar[str] = "linear"

    def sites(self, network: nn.Module) -> list[str]:
        return [name for name, _ in network.named_parameters() if is_in(name, head_of(network))]


class Norm(VisionMethod):
    """Weights and biases of all normalisations.

    BatchNorm (Frankle et al. 2020, arXiv 2003.00152), whose running statistics then move too; LayerNorm (Basu et al.
    2023, arXiv 2304.01917).
    """

    name: ClassVar[str] = "norm"

    def sites(self, network: nn.Module) -> list[str]:
        norms = [name for name, each in body(network).items() if is_norm(each)]
        return [name for name, _ in network.named_parameters() if name.rpartition(".")[0] in norms]


class Bias(VisionMethod):
    """All biases: TinyTL (Cai et al. 2020, arXiv 2007.11622), BitFit (Ben Zaken et al. 2022, arXiv 2106.10199)."""

    name: ClassVar[str] = "bias"

    def sites(self, network: nn.Module) -> list[str]:
        names = [name for name, _ in network.named_parameters() if name.rpartition(".")[2] == "bias"]
        return [name for name in names if not is_in(name, head_of(network))]


class Attention(VisionMethod):
    """The attention of all blocks and the position embedding (Touvron et al. 2022, arXiv 2203.09795)."""

    name: ClassVar[str] = "attention"
    kinds: ClassVar[tuple[str, ...]] = ("vit",)

    def sites(self, network: nn.Module) -> list[str]:
        attentions = [f"{name}.{attention_of(block)}" for name, block in transformer_blocks(network).items()]
        positions = ("pos_embed", "position_embeddings")
        names = [name for name, _ in network.named_parameters()]
        return [name for name in names if is_in(name, attentions) or name.rpartition(".")[2] in positions]


def kind_of(network: nn.Module) -> str:
    """Whether a network is a vision transformer ("vit") or convolutional ("cnn")."""
    return "vit" if transformer_blocks(network) else "cnn"


def body(network: nn.Module) -> dict[str, nn.Module]:
    """All modules by name, without the last layer."""
    return {name: each for name, each in network.named_modules() if not is_in(name, head_of(network))}


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation, also of a library's own class (RMSNorm)."""
    named = type(module).__name__.removesuffix("2d").removesuffix("Act").removesuffix("2d").endswith("Norm")
    return named or isinstance(module, nn.LayerNorm | nn.GroupNorm | BATCH_NORM)
