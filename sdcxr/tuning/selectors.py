"""Methods that let some of a part's own parameters train and add none: attention, bias, norm, and their unions.

The rules are those of the code behind Dutt et al. 2024 (arXiv 2305.08252), by class of module instead of by name.
"""

from typing import ClassVar

from torch import nn

from sdcxr.config import TrainConfig
from sdcxr.tuning.base import TuningMethod, modules_of

# Classes by family: attention with its projections; in diffusers' denoisers the whole block around it, which the paper
# takes for attention tuning (a UNet's `attentions.*`: also feed-forward layers, norms, projections).
ATTENTION = (
    "Attention", "Flux2Attention", "Flux2ParallelSelfAttention", "MultiheadAttention",  # diffusers, torch
    "CLIPAttention", "SiglipAttention", "T5Attention", "UMT5Attention", "ModernBertAttention", "MPNetAttention",
    "BertAttention", "RobertaAttention", "XLMRobertaAttention", "CamembertAttention", "ElectraAttention",
    "DebertaAttention", "DebertaV2Attention", "AlbertAttention", "DistilBertSelfAttention",
)  # fmt: skip
ATTENTION_BLOCKS = ("Transformer2DModel", "DualTransformer2DModel", *ATTENTION)
NORMS = (
    "LayerNorm", "GroupNorm", "RMSNorm", "_NormBase",  # the last is that of batch and instance normalisation
    "T5LayerNorm", "UMT5LayerNorm", "GemmaRMSNorm", "Gemma2RMSNorm",
)  # fmt: skip
BIASED = ("Linear", "_ConvNd", *NORMS)


def attention_blocks(module: nn.Module) -> set[str]:
    return _within(module, ATTENTION_BLOCKS)


def attention_layers(module: nn.Module) -> set[str]:
    return _within(module, ATTENTION)


def biases(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_parameters() if name.rsplit(".", 1)[-1] == "bias"}


def norms(module: nn.Module) -> set[str]:
    return _within(module, NORMS)


def _within(module: nn.Module, kinds: tuple[str, ...]) -> set[str]:
    """Names of all parameters of the submodules of some classes."""
    own = dict(modules_of(module, kinds))
    return {f"{at}.{name}".lstrip(".") for at, each in own.items() for name, _ in each.named_parameters()}


def in_use(module: nn.Module, names: set[str]) -> list[str]:
    """Those of the names that a step reaches, in the part's order: the states of tokens do not pass BERT's pooler."""
    return [name for name, _ in module.named_parameters() if name in names and not name.startswith("pooler.")]


class Selector(TuningMethod):
    """What all selectors share; `rules` name the parameters."""

    rules: ClassVar[tuple[str, ...]]

    def inject(self, module: nn.Module, config: TrainConfig) -> list[str]:
        return in_use(module, set().union(*(RULES[rule](module) for rule in self.rules)))

    def merge(self, module: nn.Module) -> nn.Module:
        return module


RULES = {"attention": attention_blocks, "attention_layers": attention_layers, "bias": biases, "norm": norms}


class Attention(Selector):
    """Attention tuning as in the benchmark: whole transformer blocks of a UNet, attention layers of a text encoder."""

    name: ClassVar[str] = "attention"
    serves: ClassVar[tuple[str, ...]] = ATTENTION_BLOCKS
    learning_rate_factor: ClassVar[float] = 2.0  # 31 % of the UNet: 1e-4, as in the benchmark
    rules: ClassVar[tuple[str, ...]] = ("attention",)


class AttentionLayers(Selector):
    """Attention tuning in the narrow sense (Touvron et al. 2022, arXiv 2203.09795): queries, keys, values, output."""

    name: ClassVar[str] = "attention_layers"
    serves: ClassVar[tuple[str, ...]] = ATTENTION
    learning_rate_factor: ClassVar[float] = 2.0
    rules: ClassVar[tuple[str, ...]] = ("attention_layers",)


class Bias(Selector):
    """Bias tuning (BitFit, Ben Zaken et al. 2022, arXiv 2106.10199): every bias of layers and norms."""

    name: ClassVar[str] = "bias"
    serves: ClassVar[tuple[str, ...]] = BIASED
    rules: ClassVar[tuple[str, ...]] = ("bias",)


class Norm(Selector):
    """Norm tuning (Basu et al. 2023, arXiv 2304.01917): scales and shifts of all normalisations."""

    name: ClassVar[str] = "norm"
    serves: ClassVar[tuple[str, ...]] = NORMS
    rules: ClassVar[tuple[str, ...]] = ("norm",)


class BiasNorm(Selector):
    """Biases and normalisations."""

    name: ClassVar[str] = "bias+norm"
    serves: ClassVar[tuple[str, ...]] = BIASED
    rules: ClassVar[tuple[str, ...]] = ("bias", "norm")


class BiasNormAttention(Selector):
    """Biases, normalisations and `attention`."""

    name: ClassVar[str] = "bias+norm+attention"
    serves: ClassVar[tuple[str, ...]] = (*ATTENTION_BLOCKS, *BIASED)
    learning_rate_factor: ClassVar[float] = 2.0
    rules: ClassVar[tuple[str, ...]] = ("bias", "norm", "attention")


SELECTORS: tuple[type[Selector], ...] = (Attention, AttentionLayers, Bias, Norm, BiasNorm, BiasNormAttention)
