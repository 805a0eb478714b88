"""Denoising diffusion (DDPM): forward process, prediction targets and min-SNR loss weights."""

from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from sdcxr.noise.samplers import diffusion_sampler
from sdcxr.runtime.errors import UserError

Prediction = Literal["epsilon", "v_prediction", "sample"]


class Ddpm(nn.Module):
    """Diffusion over discrete timesteps t = 0 … T-1 (Ho et al. 2020, arXiv 2006.11239).

    Args:
        alphas_cumprod: ᾱ of every timestep, shape (T,), in [0, 1].
        prediction: what the network predicts.
        snr_gamma: cap of the min-SNR loss weight; None for plain mean squared error.
    """

    preview_sampler = "dpm++"
    alphas_cumprod: Tensor

    def __init__(self, alphas_cumprod: Tensor, prediction: Prediction, snr_gamma: float | None = None):
        super().__init__()
        if prediction not in get_args(Prediction):
            raise UserError(f"prediction type {prediction!r}: expected one of {', '.join(get_args(Prediction))}")
        self.prediction, self.snr_gamma = prediction, snr_gamma
        self.register_buffer("alphas_cumprod", alphas_cumprod.float(), persistent=False)

    def draw_time(self, draws: np.random.Generator, part: int = 0, parts: int = 1) -> np.generic:
        first, last = (self.stratum_start(each, parts) for each in (part, part + 1))
        return np.int64(draws.integers(first, last))

    def stratum_start(self, part: int, parts: int) -> int:
        return len(self.alphas_cumprod) * part // parts

    def corrupt(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return add_noise(x0, noise, self.alphas_cumprod[t])

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return prediction_target(x0, noise, self.alphas_cumprod[t], self.prediction)

    def weight(self, t: Tensor) -> Tensor | None:
        if self.snr_gamma is None:
            return None
        alpha = self.alphas_cumprod[t]
        return min_snr_weight(alpha / (1 - alpha), self.snr_gamma, self.prediction)

    def model_time(self, t: Tensor) -> Tensor:
        return t

    def sampler(self, scheduler: Any, name: str, steps: int) -> Any:
        return diffusion_sampler(scheduler, name, steps)


def add_noise(x0: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """The forward process √ᾱ·x₀ + √(1-ᾱ)·ε (Ho et al. 2020, arXiv 2006.11239, eq. 4).

    Args:
        x0: data, shape (batch, channels, h, w).
        noise: ε, the same shape.
        alphas_cumprod: ᾱ at each sample's timestep, shape (batch,), in [0, 1].
    """
    alpha = alphas_cumprod.view(-1, 1, 1, 1)
    return alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise


def prediction_target(x0: Tensor, noise: Tensor, alphas_cumprod: Tensor, prediction: Prediction) -> Tensor:
    """What the network has to predict: ε, x₀, or v = √ᾱ·ε - √(1-ᾱ)·x₀ (Salimans & Ho, arXiv 2202.00512, app. D)."""
    if prediction == "epsilon":
        return noise
    if prediction == "sample":
        return x0
    alpha = alphas_cumprod.view(-1, 1, 1, 1)
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * x0


def min_snr_weight(snr: Tensor, gamma: float, prediction: Prediction) -> Tensor:
    """Min-SNR-γ weight of each sample's squared error (Hang et al. 2023, arXiv 2303.09556).

    Args:
        snr: signal-to-noise ratio ᾱ / (1-ᾱ) at each sample's timestep, shape (batch,), 0 or more.
        gamma: where the weight is capped; 5 in the paper.
        prediction: what the network predicts.

    Returns:
        Weights of shape (batch,), finite for every snr.
    """
    capped = snr.clamp(max=gamma)
    if prediction == "sample":
        return capped
    if prediction == "v_prediction":
        return capped / (snr + 1)
    # At SNR 0 (zero-terminal schedules) the limit of min(snr, γ) / snr is 1.
    return torch.where(snr > 0, capped / snr.clamp(min=1e-12), torch.ones_like(snr))


def training_process(
    scheduler: Any,
    prediction_type: Prediction | None = None,
    rescale_betas_zero_snr: bool = False,
    snr_gamma: float | None = None,
) -> tuple[Ddpm, Any]:
    """The process to train on, and the base's inference scheduler changed to fit it.

    Args:
        scheduler: the diffusers scheduler of the base.
        prediction_type: another prediction than the base's.
        rescale_betas_zero_snr: a schedule without signal at its end (Lin et al., arXiv 2305.08891).
        snr_gamma: see `Ddpm`.

    Raises:
        UserError: zero terminal SNR with a prediction of the noise, which teaches nothing where no signal is left.
    """
    from diffusers import DDIMScheduler, DDPMScheduler

    without_clipping(scheduler)
    changes: dict[str, Any] = {} if prediction_type is None else {"prediction_type": prediction_type}
    if rescale_betas_zero_snr:
        if (prediction_type or scheduler.config.prediction_type) == "epsilon":
            raise UserError(
                "--rescale_betas_zero_snr: where no signal is left, the noise is the input itself and its prediction "
                "teaches nothing; add --prediction_type v_prediction"
            )
        # Sampling has to begin at the very last timestep (arXiv 2305.08891, sec. 3.3), which PNDM cannot.
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        scheduler = DDIMScheduler.from_config(scheduler.config, **changes)
    elif changes:
        scheduler = type(scheduler).from_config(scheduler.config, **changes)
    schedule = DDPMScheduler.from_config(scheduler.config)
    return Ddpm(schedule.alphas_cumprod, schedule.config.prediction_type, snr_gamma), scheduler


def without_clipping(scheduler: Any) -> None:
    """Let samplers that are made from a scheduler leave latents as they are, unless its configuration says otherwise.

    Latents are not confined to [-1, 1], to which DDIM, made from a silent configuration, clips them.
    """
    if "clip_sample" not in scheduler.config:
        scheduler.register_to_config(clip_sample=False)
