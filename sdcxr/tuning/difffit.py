"""DiffFit (Xie et al. 2023, arXiv 2304.06648): biases, norms, and a gain on the outputs of attention and feed-forward.

Gains as in the benchmark's UNet: per channel, 11 a transformer block. They are parameters of the plain modules, applied
by forward hooks, and are folded into the linear layer behind each.
"""

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sdcxr.config import TrainConfig
from sdcxr.tuning.base import TuningMethod, modules_of
from sdcxr.tuning.selectors import biases, in_use, norms


def _block(layers: str, whole: dict[str, str]) -> dict[str, str]:
    return {name: name for name in layers.split()} | whole


_BERT = _block("attention.self.query attention.self.key attention.self.value attention.output.dense output.dense", {})
_CLIP = _block(
    "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.out_proj",
    {"self_attn": "self_attn.out_proj", "mlp": "mlp.fc2"},
)
# By class of block: the modules whose output a gain multiplies, each with the linear layer that it is folded into.
GAINS: dict[str, dict[str, str]] = {
    "BasicTransformerBlock": _block(
        "attn1.to_q attn1.to_k attn1.to_v attn1.to_out.0 attn2.to_q attn2.to_k attn2.to_v attn2.to_out.0",
        {"attn1": "attn1.to_out.0", "attn2": "attn2.to_out.0", "ff": "ff.net.2"},
    ),
    # Of the text's own half, with the part of SD 3.5's blocks that attends to the image alone.
    "JointTransformerBlock": _block(
        "attn.to_q attn.to_k attn.to_v attn.to_out.0 attn.add_q_proj attn.add_k_proj attn.add_v_proj attn.to_add_out "
        "attn2.to_q attn2.to_k attn2.to_v attn2.to_out.0",
        {"attn": "attn.to_out.0", "attn2": "attn2.to_out.0", "ff": "ff.net.2", "ff_context": "ff_context.net.2"},
    ),
    "CLIPEncoderLayer": _CLIP,
    "SiglipEncoderLayer": _CLIP,
    "T5Block": _block(
        "layer.0.SelfAttention.q layer.0.SelfAttention.k layer.0.SelfAttention.v layer.0.SelfAttention.o",
        {"layer.1.DenseReluDense": "layer.1.DenseReluDense.wo"},
    ),
    "BertLayer": _BERT,
    "RobertaLayer": _BERT,
    "XLMRobertaLayer": _BERT,
    "CamembertLayer": _BERT,
    "ElectraLayer": _BERT,
}


class DiffFit(TuningMethod):
    """A gain is 1 + gamma with gamma from 0, so that weight decay draws it to 1."""

    name: ClassVar[str] = "difffit"
    serves: ClassVar[tuple[str, ...]] = tuple(GAINS)
    additive: ClassVar[bool] = False

    def inject(self, module: nn.Module, config: TrainConfig) -> list[str]:
        for scaled, layer in _pairs(module):
            scaled.register_parameter("gamma", nn.Parameter(layer.weight.new_zeros(layer.out_features)))
            scaled.register_forward_hook(_apply_gain)
        gammas = {name for name, _ in module.named_parameters() if name.endswith(".gamma")}
        return in_use(module, gammas | biases(module) | norms(module))

    @torch.no_grad()
    def merge(self, module: nn.Module) -> nn.Module:
        merged = copy.deepcopy(module)
        for scaled, layer in _pairs(merged):
            if not hasattr(scaled, "gamma"):  # in a layer that no step reaches
                continue
            gain = 1 + scaled.gamma
            layer.weight.mul_(gain[:, None])
            if layer.bias is not None:
                layer.bias.mul_(gain)
            del scaled.gamma
            hooks = scaled._forward_hooks
            for key in [key for key, hook in hooks.items() if hook is _apply_gain]:
                del hooks[key]
        return merged


def _pairs(module: nn.Module) -> list[tuple[Any, Any]]:
    """Every module that gets a gain, with the linear layer that it is folded into."""
    pairs = []
    for _, block in modules_of(module, GAINS):
        kind = next(base.__name__ for base in type(block).__mro__ if base.__name__ in GAINS)
        present = dict(block.named_modules())
        pairs += [(present[at], present[layer]) for at, layer in GAINS[kind].items() if at in present]
    return pairs


def _apply_gain(module: Any, _: Any, output: Any) -> Any:
    if isinstance(output, tuple):
        return (_apply_gain(module, None, output[0]), *output[1:])
    gamma: Tensor = module.gamma
    return torch.addcmul(output, output, gamma.to(output.dtype))  # 1 + gamma would round gamma away in bfloat16
