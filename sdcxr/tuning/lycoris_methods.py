"""Orthogonal tuning, of convolutions too, with the functions of LyCORIS.

peft's OFT is wrong on convolutions larger than 1 x 1, and its BOFT falls back to a single block-diagonal factor
where it cannot compile a CUDA extension. The functions are called with plain PyTorch behind them: the fused kernels
that LyCORIS chooses on some GPUs would make a run depend on the machine.
"""

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.processes import without_autocast
from sdcxr.tuning.base import TuningMethod
from sdcxr.tuning.targets import target_layers


class Rotated(nn.Module):
    """A frozen layer with its weight times a trained rotation of its outputs, which begins as the identity.

    No parametrization of torch: a copy of one shares its class, so that merging the copy would break the other.

    Args:
        layer: linear or a convolution.
        blocks: zeros whose antisymmetric parts become rotations by Cayley's transform, (…, blocks, size, size).
        difference: of LyCORIS: the change of a weight (out, …) by them.
    """

    def __init__(self, layer: nn.Module, blocks: Tensor, difference: Any):
        super().__init__()
        self.layer, self.blocks = layer, nn.Parameter(blocks)
        self.difference = difference

    @property
    def weight(self) -> Tensor:
        """The rotated weight."""
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        # In half precision the rotations would be none, and the weight be rounded a second time.
        with without_autocast(weight.device):
            change: Tensor = self.difference(weight.float(), self.blocks.float(), None, backend="torch")
            return weight + change.to(weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return torch.func.functional_call(self.layer, {"weight": self.weight}, x)


class RotationMethod(TuningMethod):
    """Rotates the outputs of attention's projections and of the residual blocks' convolutions."""

    serves: ClassVar[tuple[str, ...]] = ("Linear", "Conv1d", "Conv2d", "Conv3d")
    options: ClassVar[tuple[str, ...]] = ("lora_rank", "lora_targets")
    additive: ClassVar[bool] = False
    grouped: ClassVar[bool] = True
    rank: ClassVar[int]
    """Default of `--lora_rank`, the largest side of a block."""

    def blocks(self, weight: Tensor, rank: int) -> tuple[Tensor | None, Any]:
        """Zeros for a weight, or None where its outputs cannot be cut into such blocks; and what applies them."""
        raise NotImplementedError

    def inject(self, module: nn.Module, config: TrainConfig) -> list[str]:
        rank = config.lora_rank or self.rank
        names = target_layers(module, config, self, also=("conv1", "conv2"))
        for name in names:
            layer = module.get_submodule(name)
            assert isinstance(layer.weight, Tensor)
            blocks, difference = self.blocks(layer.weight, rank)
            if blocks is None or blocks.shape[-1] < 2:
                raise UserError(
                    f"--method {self.name}: the {len(layer.weight)} outputs of {name} do not divide into blocks of 2 "
                    f"to {rank}: give another --lora_rank, or leave it out of --lora_targets"
                )
            module.set_submodule(name, Rotated(layer, blocks.to(layer.weight.device), difference))
        return [f"{name}.blocks" for name in names]

    @torch.no_grad()
    def merge(self, module: nn.Module) -> nn.Module:
        merged = copy.deepcopy(module)
        for name, rotated in list(merged.named_modules()):
            if isinstance(rotated, Rotated):
                rotated.layer.weight.copy_(rotated.weight)  # type: ignore[operator]
                merged.set_submodule(name, rotated.layer)
        return merged


class Oft(RotationMethod):
    """Block-diagonal rotations (Qiu et al. 2023, arXiv 2306.07280)."""

    name: ClassVar[str] = "oft"
    rank: ClassVar[int] = 4

    def blocks(self, weight: Tensor, rank: int) -> tuple[Tensor | None, Any]:
        from lycoris.functional import diag_oft

        return diag_oft.weight_gen(weight, rank)[0], diag_oft.diff_weight


class Boft(RotationMethod):
    """Products of block-diagonal rotations with a butterfly between them (Liu et al. 2024, arXiv 2311.06243)."""

    name: ClassVar[str] = "boft"
    rank: ClassVar[int] = 10  # the outputs over it have to be a power of two: 320, 640 and 1280 give 10, 768 gives 6
    factors: ClassVar[int] = 2

    def blocks(self, weight: Tensor, rank: int) -> tuple[Tensor | None, Any]:
        from lycoris.functional import boft, power2factorization

        if not power2factorization(len(weight), rank)[1]:
            return None, None
        return boft.weight_gen(weight, rank, self.factors)[0], boft.diff_weight


LYCORIS_METHODS: tuple[type[RotationMethod], ...] = (Oft, Boft)
