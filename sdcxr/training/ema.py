"""Exponential moving average (EMA) of the trained weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sdcxr.tuning.base import trained_tensors


class EMA:
    """Average of a module's trainable parameters, with a ramp so that short runs are not dominated by the start.

    The running statistics of batch normalisation are averaged too: those of the raw weights do not fit the average.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.parameters = {name: value for name, value in trained_tensors(module).items() if value.is_floating_point()}
        self.averages = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update after optimizer step `step` (from 1), with decay min(decay, (1 + step) / (10 + step))."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.averages.values()), list(self.parameters.values()), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Swap the averages into the module inside the block, without copying."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.data, self.averages[name] = self.averages[name], parameter.data

    def load(self, averages: dict[str, Tensor]) -> None:
        """Take saved averages; a missing or unknown name is a KeyError."""
        if averages.keys() != self.averages.keys():
            raise KeyError("the saved averages are of other parameters")
        for name, average in self.averages.items():
            average.copy_(averages[name])
