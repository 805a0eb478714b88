"""The protocol of a noise process: time, corruption, target, loss weight and sampler of diffusion or flow."""

from typing import Any, Protocol

import numpy as np
from torch import Tensor


class NoiseProcess(Protocol):
    """Between data x₀ and noise ε: an `nn.Module`, so that its tables move to the device with the task.

    `x0` and `noise` have the shape (batch, channels, h, w); `t` is what `draw_time` returned, as a tensor (batch,).
    """

    preview_sampler: str
    """A sampler that needs few steps, for validation pictures."""

    def draw_time(self, draws: np.random.Generator, part: int = 0, parts: int = 1) -> np.generic:
        """One time from the sample's own generator, within one of `parts` equal strata of the distribution."""

    def stratum_start(self, part: int, parts: int) -> int:
        """Where a stratum begins, as an integer in [0, 1000): the name of its column in the validation log."""

    def corrupt(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t, the input of the network."""

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network has to predict from x_t."""

    def weight(self, t: Tensor) -> Tensor | None:
        """Weight of each sample's squared error in training, shape (batch,); None for 1."""

    def model_time(self, t: Tensor) -> Tensor:
        """The time as the network takes it, shape (batch,)."""

    def sampler(self, scheduler: Any, name: str, steps: int) -> Any:
        """A diffusers scheduler of the given name (see `--scheduler`) with the noise schedule of `scheduler`.

        Raises:
            UserError: there is no such sampler for this process, or it cannot follow the schedule in so many steps.
        """
