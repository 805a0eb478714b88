"""A toy tuning method, to copy when a method is added: a trainable scale in front of every linear layer's output."""

import copy
from typing import ClassVar

import torch
from torch import Tensor, nn

from sdcxr.config import TrainConfig
from sdcxr.tuning.base import TuningMethod


class Scaled(nn.Module):
    """A frozen linear layer, its output times a trained scale of ones."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.linear, self.scale = linear, nn.Parameter(torch.ones(linear.out_features))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.scale


class OutputScale(TuningMethod):
    """One scale for each output of every linear layer."""

    name: ClassVar[str] = "output_scale"
    serves: ClassVar[tuple[str, ...]] = ("Linear",)
    additive: ClassVar[bool] = False

    def inject(self, module: nn.Module, config: TrainConfig) -> list[str]:
        for parent in list(module.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear:
                    setattr(parent, name, Scaled(child))
        return [name for name, _ in module.named_parameters() if name.endswith(".scale")]

    def merge(self, module: nn.Module) -> nn.Module:
        merged = copy.deepcopy(module)
        for parent in list(merged.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, Scaled):
                    child.linear.weight.data *= child.scale.data[:, None]
                    if child.linear.bias is not None:
                        child.linear.bias.data *= child.scale.data
                    setattr(parent, name, child.linear)
        return merged
