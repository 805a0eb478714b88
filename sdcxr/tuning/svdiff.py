"""SV-Diff (Han et al. 2023, arXiv 2303.11305): the singular values of linear layers and convolutions train.

W = U diag(relu(sigma + delta)) V. A layer keeps its factors in place of W and applies one after the other, V as a layer
of its own with W's inputs, U as a linear one: 26 % more numbers than W in Stable Diffusion's UNet, and no W to rebuild
and keep in every step.
"""

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from sdcxr.config import TrainConfig
from sdcxr.runtime.processes import processes, without_autocast
from sdcxr.tuning.base import TuningMethod

PATIENCE = 2.0  # seconds before a bar is shown
SMALLEST = 1e-6  # singular value over the largest, below which the eigenvalues of WWᵀ do not tell it from 0


class SpectralLayer(nn.Module):
    """A linear layer or convolution in factored form, with a trained shift of its singular values.

    Args:
        layer: an nn.Linear, or an nn.Conv2d with one group; it is left without a weight.
    """

    def __init__(self, layer: Any):
        super().__init__()
        weight = layer.weight.detach()
        left, sigma, right = decompose(weight.flatten(1))
        self.left, self.sigma, self.right = (
            nn.Parameter(factor.to(weight.dtype), requires_grad=False)
            for factor in (left, sigma, right.reshape(-1, *weight.shape[1:]))
        )
        self.delta = nn.Parameter(torch.zeros_like(self.sigma))
        self.bias = layer.bias
        layer.weight = None
        self._layer = (layer,)  # not a submodule: only its settings are needed

    def forward(self, x: Tensor) -> Tensor:
        (layer,) = self._layer
        values = self.values()
        if isinstance(layer, nn.Linear):
            hidden = functional.linear(x, self.right)
            # Multiplied in float32: rounded to bfloat16, the values would lose small shifts.
            return functional.linear((hidden * values).to(hidden.dtype), self.left, self.bias)
        hidden = layer._conv_forward(x, self.right, None)
        hidden = (hidden * values[:, None, None]).to(hidden.dtype)
        return functional.conv2d(hidden, self.left[:, :, None, None], self.bias)

    def values(self) -> Tensor:
        """The singular values, shape (rank,)."""
        return functional.relu(self.sigma + self.delta)

    @property
    def weight(self) -> Tensor:
        """W with its shifts, rebuilt: for networks that read it, or its dtype, beside calling the layer."""
        with without_autocast(self.left.device):  # in half precision W would lose small shifts
            weight = (self.left * self.values()) @ self.right.flatten(1)
        return weight.view(len(weight), *self.right.shape[1:])

    @torch.no_grad()
    def plain(self) -> nn.Module:
        """A layer of the class that it was, with the shifted weight."""
        layer = copy.copy(self._layer[0])
        layer._parameters = dict(layer._parameters)
        layer.weight = nn.Parameter(self.weight)
        layer.bias = None if self.bias is None else nn.Parameter(self.bias.detach().clone())
        return layer.train(self.training)


def decompose(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular value decomposition of (m, n) into (m, r), (r,) and (r, n) with r = min(m, n), values falling.

    In float64, so that an adapter's shifts meet the same directions on every machine; by the eigenvectors of the
    smaller of W Wᵀ and Wᵀ W, which takes a half to an eighth of the time of an SVD.
    """
    wide = matrix.double() if matrix.shape[0] <= matrix.shape[1] else matrix.double().T
    if not matrix.is_meta:
        squares, vectors = torch.linalg.eigh(wide @ wide.T)
        sigma, left = squares.flip(0).clamp(min=0).sqrt(), vectors.flip(1)
        if sigma[-1] > SMALLEST * sigma[0]:
            right = left.T @ wide / sigma[:, None]
            return (left, sigma, right) if wide.shape == matrix.shape else (right.T, sigma, left.T)
    left, sigma, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    return left, sigma, right


class SVDiff(TuningMethod):
    """See above."""

    name: ClassVar[str] = "svdiff"
    serves: ClassVar[tuple[str, ...]] = ("Linear", "Conv2d")
    learning_rate_factor: ClassVar[float] = 20.0

    def inject(self, module: nn.Module, config: TrainConfig) -> list[str]:
        sites = [
            (parent, name, child)
            for parent in module.modules()
            for name, child in parent.named_children()
            if type(child) is nn.Linear or (type(child) is nn.Conv2d and child.groups == 1)
        ]
        quiet = not processes().is_main_process
        for parent, name, child in tqdm(sites, "decomposing weights", unit="layer", delay=PATIENCE, disable=quiet):
            setattr(parent, name, SpectralLayer(child))
        names = [name for name, _ in module.named_parameters() if name.rsplit(".", 1)[-1] == "delta"]
        return [name for name in names if not name.startswith("pooler.")]

    def merge(self, module: nn.Module) -> nn.Module:
        plain = {id(each): each.plain() for each in module.modules() if isinstance(each, SpectralLayer)}
        return copy.deepcopy(module, plain)
