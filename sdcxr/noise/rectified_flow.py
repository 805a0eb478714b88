"""Rectified flow: straight paths from data to noise, velocity targets, logit-normal and shifted times."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdcxr.noise.samplers import flow_sampler
from sdcxr.runtime.errors import UserError


class RectifiedFlow(nn.Module):
    """Flow over the share of noise σ in (0, 1) (Liu et al. 2022, arXiv 2209.03003; Esser et al. 2024, 2403.03206).

    The density of σ is the weighting: the squared error itself has weight 1.

    Args:
        shift: s of `shift_time`; 1 for none.
        logit_mean: m of the logit-normal density of σ before the shift.
        logit_std: s of that density; None draws σ evenly.
        time_scale: what the network's time is at σ = 1.
    """

    preview_sampler = "euler"

    def __init__(
        self, shift: float = 1.0, logit_mean: float = 0.0, logit_std: float | None = 1.0, time_scale: float = 1000.0
    ):
        super().__init__()
        if shift <= 0 or (logit_std is not None and logit_std <= 0) or time_scale <= 0:
            raise UserError("rectified flow: shift, logit_std and time_scale must be positive")
        self.shift, self.logit_mean, self.logit_std, self.time_scale = shift, logit_mean, logit_std, time_scale

    def draw_time(self, draws: np.random.Generator, part: int = 0, parts: int = 1) -> np.generic:
        u = torch.tensor((part + draws.random()) / parts, dtype=torch.float64)
        return np.float32(self.time(u).item())

    def time(self, u: Tensor) -> Tensor:
        """σ at the quantile u in [0, 1): quantile function of the density, then the shift."""
        sigma = u if self.logit_std is None else logit_normal_quantile(u, self.logit_mean, self.logit_std)
        return shift_time(sigma, self.shift)

    def stratum_start(self, part: int, parts: int) -> int:
        return 1000 * part // parts

    def corrupt(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return interpolate(x0, noise, t)

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return velocity(x0, noise)

    def weight(self, t: Tensor) -> Tensor | None:
        return None

    def model_time(self, t: Tensor) -> Tensor:
        return t * self.time_scale

    def sampler(self, scheduler: Any, name: str, steps: int) -> Any:
        return flow_sampler(scheduler, name, self.shift)


def refuse_settings_of_diffusion(config: Any) -> None:
    """Refuse settings that a flow does not know: its loss has weight 1, and its ends are all noise and none.

    Args:
        config: a `TrainConfig`.

    Raises:
        UserError: names the setting.
    """
    for name in ("snr_gamma", "prediction_type", "rescale_betas_zero_snr", "noise_offset"):
        if getattr(config, name):
            raise UserError(f"--{name} is for diffusion, and this base is trained by rectified flow: leave it out")


def interpolate(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """x_σ = (1-σ)·x₀ + σ·ε (Esser et al. 2024, arXiv 2403.03206, eq. 13).

    Args:
        x0: data, shape (batch, channels, h, w).
        noise: ε, the same shape.
        sigma: share of noise, shape (batch,), in [0, 1].
    """
    sigma = sigma.view(-1, 1, 1, 1)
    return (1 - sigma) * x0 + sigma * noise


def velocity(x0: Tensor, noise: Tensor) -> Tensor:
    """dx_σ/dσ = ε - x₀, the same at every σ."""
    return noise - x0


def logit_normal_quantile(u: Tensor, mean: float, std: float) -> Tensor:
    """The u-quantile of a logit-normal: sigmoid(mean + std·Φ⁻¹(u)) (arXiv 2403.03206, eq. 19), in [0, 1]."""
    return torch.sigmoid(mean + std * torch.special.ndtri(u))


def shift_time(sigma: Tensor, shift: float) -> Tensor:
    """s·σ / (1 + (s-1)·σ): more noise at higher resolutions (arXiv 2403.03206, eq. 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)
