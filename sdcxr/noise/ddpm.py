"""Targets and weights of the denoising loss, as pure functions."""

from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "sample"]


def noised(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """The latents after the forward process: √ᾱ·x₀ + √(1-ᾱ)·ε (Ho et al. 2020, arXiv 2006.11239, eq. 4).

    Args:
        latents: x₀, shape (batch, channels, h, w).
        noise: ε, the same shape.
        alphas_cumprod: ᾱ at each sample's timestep, shape (batch,), in [0, 1].
    """
    alpha = alphas_cumprod.view(-1, 1, 1, 1)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def target(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor, prediction: Prediction) -> Tensor:
    """What the network has to predict: ε, x₀, or v = √ᾱ·ε - √(1-ᾱ)·x₀ (Salimans & Ho, arXiv 2202.00512, app. D)."""
    if prediction == "epsilon":
        return noise
    if prediction == "sample":
        return latents
    alpha = alphas_cumprod.view(-1, 1, 1, 1)
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * latents


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
