"""Tuning methods of image classifiers that add modules, by hooks, so that the names of the network's own stay.

All but prompts are folded into plain layers when the classifier is saved.
"""

import copy
import re
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sdcxr.backbones.prompt_tokens import insert_prompts, prompt_place, transformer_blocks
from sdcxr.config import TrainConfig
from sdcxr.tuning.base import TuningMethod
from sdcxr.tuning.vision import Attention, Linear, VisionMethod, body, is_norm

# GELU(k x) / k is ReLU(x) to 0.17 / k, which is how AdaptFormer's ReLU becomes a part of a plain MLP.
SHARPNESS = 1024.0
PLAIN_LAYERS = ("Linear", "Conv2d", "Conv2dSame", "Conv3d")  # whose output is their weight and bias times the input


class ScaleShift(nn.Module):
    """y * gamma + beta along one dimension."""

    def __init__(self, width: int, dimension: int):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.dimension = dimension

    def forward(self, y: Tensor) -> Tensor:
        shape = [1] * y.ndim
        shape[self.dimension] = -1
        return y * self.gamma.view(shape) + self.beta.view(shape)


class SSF(VisionMethod):
    """Scale and shift of features (Lian et al. 2022, arXiv 2210.08823), behind each layer into which it can be folded.

    Those are layers and normalisations with a weight and a bias: in a ResNet the batch normalisations, as its
    convolutions have no bias. Begins as the identity, not with the paper's random scales.
    """

    name: ClassVar[str] = "ssf"
    additive: ClassVar[bool] = False

    def sites(self, network: nn.Module) -> list[str]:
        return [name for name, each in body(network).items() if _is_affine(each)]

    def add(self, network: nn.Module, config: TrainConfig) -> list[str]:
        names = []
        for name in self.sites(network):
            layer: Any = network.get_submodule(name)
            inner = _before_activation(layer)
            inner.add_module("ssf", ScaleShift(len(layer.bias), _channels_at(layer)))
            inner.register_forward_hook(_scale)
            prefix = f"{name}.drop.ssf" if inner is not layer else f"{name}.ssf"
            names += [f"{prefix}.gamma", f"{prefix}.beta"]
        return names

    @torch.no_grad()
    def merge(self, module: nn.Module) -> nn.Module:
        merged = copy.deepcopy(module)
        for layer in list(merged.modules()):
            if not _is_affine(layer):
                continue
            plain: Any = layer
            inner = _before_activation(plain)
            ssf = _remove(inner, "ssf", _scale)
            if ssf is not None:
                plain.weight.mul_(ssf.gamma.view(-1, *[1] * (plain.weight.ndim - 1)))
                plain.bias.mul_(ssf.gamma).add_(ssf.beta)
        return merged


class TSA(VisionMethod):
    """Task-specific adapters (Li et al. 2022, arXiv 2107.00358): a 1×1 convolution parallel to each one of the blocks.

    It begins with zeros, where the paper has 1e-4 times the identity; as ones, which one implementation has, it would
    destroy the network.
    """

    name: ClassVar[str] = "tsa"
    kinds: ClassVar[tuple[str, ...]] = ("cnn",)

    def sites(self, network: nn.Module) -> list[str]:
        stem = r"^\w+\.embedder"  # of transformers
        if hasattr(network, "group_matcher"):
            of_timm: Any = network
            groups = of_timm.group_matcher()
            by_name = isinstance(groups, dict) and isinstance(groups.get("stem"), str)
            stem = groups["stem"] if by_name else re.escape(str(of_timm.pretrained_cfg["first_conv"]))
        names = [name for name, each in body(network).items() if _has_centre(each)]
        beside = {"downsample", "shortcut", "se"}  # of the blocks' own path
        return [name for name in names if not re.match(stem, name) and beside.isdisjoint(name.split("."))]

    def add(self, network: nn.Module, config: TrainConfig) -> list[str]:
        names = self.sites(network)
        for name in names:
            conv: Any = network.get_submodule(name)
            tsa = nn.Conv2d(conv.in_channels, conv.out_channels, 1, conv.stride, groups=conv.groups, bias=False)
            nn.init.zeros_(tsa.weight)
            conv.add_module("tsa", tsa)
            conv.register_forward_hook(_add_tsa)
        return [f"{name}.tsa.weight" for name in names]

    @torch.no_grad()
    def merge(self, module: nn.Module) -> nn.Module:
        merged = copy.deepcopy(module)
        for conv in list(merged.modules()):
            if _has_centre(conv) and (tsa := _remove(conv, "tsa", _add_tsa)) is not None:
                plain: Any = conv
                height, width = plain.kernel_size
                plain.weight[:, :, height // 2, width // 2] += tsa.weight[:, :, 0, 0]
        return merged


class Bottleneck(nn.Module):
    """AdaptFormer's branch: down, ReLU, up, times a fixed scale."""

    scale = 0.1

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        for begun_at_zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(begun_at_zero)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.up(self.down(x).relu()) * self.scale
        return y


class AdaptFormer(VisionMethod):
    """A bottleneck of `--adapter_width` parallel to the MLP of each block (Chen et al. 2022, arXiv 2205.13535).

    The saved network is plain: its MLPs are wider by the bottleneck, whose ReLU is a GELU of a steep slope.
    """

    name: ClassVar[str] = "adaptformer"
    kinds: ClassVar[tuple[str, ...]] = ("vit",)
    options: ClassVar[tuple[str, ...]] = ("adapter_width",)
    additive: ClassVar[bool] = False

    def sites(self, network: nn.Module) -> list[str]:
        mlps: dict[str, Any] = {f"{name}.mlp": block.mlp for name, block in transformer_blocks(network).items()}
        plain = all(_is_plain_mlp(mlp) for mlp in mlps.values())
        return list(mlps) if plain and len({mlp.fc1.in_features for mlp in mlps.values()}) == 1 else []

    def add(self, network: nn.Module, config: TrainConfig) -> list[str]:
        names = self.sites(network)
        for name in names:
            mlp: Any = network.get_submodule(name)
            mlp.add_module("adapter", Bottleneck(mlp.fc1.in_features, config.adapter_width))
            mlp.register_forward_hook(_add_adapter)
        ends = ("down.weight", "down.bias", "up.weight", "up.bias")
        return [f"{name}.adapter.{end}" for name in names for end in ends]

    @torch.no_grad()
    def merge(self, module: nn.Module) -> nn.Module:
        merged: Any = copy.deepcopy(module)
        for block in transformer_blocks(merged).values():
            mlp: Any = block.mlp
            adapter: Any = _remove(mlp, "adapter", _add_adapter)
            if adapter is None:
                continue
            mlp.fc1 = _wider(
                [mlp.fc1.weight, SHARPNESS * adapter.down.weight], [mlp.fc1.bias, SHARPNESS * adapter.down.bias], dim=0
            )
            scale = adapter.scale
            mlp.fc2 = _wider(
                [mlp.fc2.weight, scale / SHARPNESS * adapter.up.weight], [mlp.fc2.bias + scale * adapter.up.bias], dim=1
            )
            hidden, width = mlp.fc1.out_features, mlp.fc1.in_features
            if hasattr(merged, "config"):
                merged.config.intermediate_size = hidden
            else:  # as timm counts: int(width * mlp_ratio)
                merged.changed_model_args = {"mlp_ratio": (hidden + 0.5) / width}
        return merged


class ShallowPrompts(VisionMethod):
    """Visual prompt tuning (Jia et al. 2022, arXiv 2203.12119): `--prompt_tokens` before the first block."""

    name: ClassVar[str] = "vpt-shallow"
    kinds: ClassVar[tuple[str, ...]] = ("vit",)
    options: ClassVar[tuple[str, ...]] = ("prompt_tokens",)
    additive: ClassVar[bool] = False
    deep: ClassVar[bool] = False

    def sites(self, network: nn.Module) -> list[str]:
        return list(transformer_blocks(network)) if prompt_place(network) else []

    def add(self, network: nn.Module, config: TrainConfig) -> list[str]:
        return insert_prompts(network, config.prompt_tokens, self.deep)


class DeepPrompts(ShallowPrompts):
    """Visual prompt tuning with other tokens before every block."""

    name: ClassVar[str] = "vpt-deep"
    deep: ClassVar[bool] = True


def _is_affine(layer: nn.Module) -> bool:
    """Whether a scale and a shift of a layer's output are one of its weight and bias."""
    if getattr(layer, "weight", None) is None or getattr(layer, "bias", None) is None:
        return False
    if is_norm(layer):
        return isinstance(getattr(layer, "drop", None), nn.Identity) or not hasattr(layer, "act")
    return type(layer).__name__ in PLAIN_LAYERS


def _before_activation(layer: nn.Module) -> nn.Module:
    """The module whose output a scale belongs to: timm's normalisations with an activation have one in between."""
    return layer.drop if hasattr(layer, "act") and isinstance(layer.drop, nn.Module) else layer


def _channels_at(layer: nn.Module) -> int:
    """The dimension of a layer's output that its bias is along."""
    if isinstance(layer, nn.Linear):
        return -1
    if isinstance(layer, nn.LayerNorm):
        of_images = "2d" in type(layer).__name__ or getattr(layer, "data_format", "") == "channels_first"
        return 1 if of_images else -1
    return 1


def _has_centre(layer: nn.Module) -> bool:
    """Whether a 1×1 convolution of the same stride can be added to the middle of a convolution's kernel."""
    if type(layer).__name__ != "Conv2d" or not isinstance(layer, nn.Conv2d) or isinstance(layer.padding, str):
        return False
    sides = zip(layer.kernel_size, layer.padding, layer.dilation, strict=True)
    return all(kernel % 2 and padding == dilation * (kernel // 2) for kernel, padding, dilation in sides)


def _is_plain_mlp(mlp: Any) -> bool:
    """Whether an MLP is fc1, GELU and fc2, so that a wider one is plain too."""
    layers = (getattr(mlp, "fc1", None), getattr(mlp, "fc2", None))
    activation = getattr(mlp, "act", None) or getattr(mlp, "activation_fn", None)
    between = isinstance(getattr(mlp, "norm", None), nn.Module) and not isinstance(mlp.norm, nn.Identity)
    exact = type(activation).__name__ in ("GELU", "GELUActivation")
    return all(isinstance(layer, nn.Linear) for layer in layers) and exact and not between


def _wider(weights: list[Tensor], biases: list[Tensor], dim: int) -> nn.Linear:
    weight, bias = torch.cat(weights, dim=dim), torch.cat(biases)
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer


def _remove(module: nn.Module, child: str, hook: Callable[..., Any]) -> Any:
    """Take a child and its forward hook out of a module, and return the child; None if it has none."""
    if not isinstance(getattr(module, child, None), nn.Module):
        return None
    taken = getattr(module, child)
    delattr(module, child)
    for key in [key for key, each in module._forward_hooks.items() if each is hook]:
        del module._forward_hooks[key]
    return taken


def _scale(layer: Any, args: Any, output: Tensor) -> Tensor:
    scaled: Tensor = layer.ssf(output)
    return scaled


def _add_tsa(conv: Any, args: tuple[Tensor], output: Tensor) -> Tensor:
    return output + conv.tsa(args[0])


def _add_adapter(mlp: Any, args: tuple[Tensor], output: Tensor) -> Tensor:
    return output + mlp.adapter(args[0])


# By name; they come before methods of the same name for parts of a text-to-image model.
OF_CLASSIFIERS: dict[str, type[TuningMethod]] = {
    each.name: each for each in (Linear, Attention, SSF, TSA, AdaptFormer, ShallowPrompts, DeepPrompts)
}
