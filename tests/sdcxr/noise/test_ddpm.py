"""Targets and weights, against closed forms and against diffusers' own schedulers."""

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from sdcxr.noise.ddpm import add_noise, min_snr_weight, prediction_target

ALPHAS = torch.tensor([1.0, 0.9999, 0.5, 0.02, 0.0])


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    return torch.randn(5, 2, 3, 3, generator=draws), torch.randn(5, 2, 3, 3, generator=draws)


@pytest.mark.parametrize(
    ("prediction", "snr", "weight"),
    [
        ("epsilon", 10.0, 0.5),
        ("epsilon", 5.0, 1.0),
        ("epsilon", 2.0, 1.0),
        ("epsilon", 0.0, 1.0),
        ("v_prediction", 0.0, 0.0),
        ("v_prediction", 4.0, 0.8),
        ("v_prediction", 9.0, 0.5),
        ("sample", 10.0, 5.0),
        ("sample", 3.0, 3.0),
        ("sample", 0.0, 0.0),
    ],
)
def test_min_snr_weight_at_gamma_5(prediction, snr, weight):
    assert min_snr_weight(torch.tensor([snr]), 5.0, prediction).tolist() == pytest.approx([weight])


@given(st.floats(0, 1e6), st.floats(0.1, 100))
def test_the_three_weights_weigh_the_same_error_of_x0(snr, gamma):
    """Squared errors of epsilon and v are snr and snr + 1 times that of x₀, so all weights come from one."""
    ratio = torch.tensor([snr], dtype=torch.float64)
    sample = min_snr_weight(ratio, gamma, "sample")
    torch.testing.assert_close(min_snr_weight(ratio, gamma, "v_prediction") * (ratio + 1), sample)
    torch.testing.assert_close(min_snr_weight(ratio, gamma, "epsilon") * ratio, sample, atol=1e-11, rtol=1e-6)


def test_without_noise_nothing_changes_and_without_signal_only_noise_is_left(pair):
    latents, noise = pair
    result = add_noise(latents, noise, ALPHAS)
    assert torch.equal(result[0], latents[0]) and torch.equal(result[4], noise[4])


def test_x0_and_noise_are_recovered_from_v(pair):
    latents, noise = pair
    x, v = add_noise(latents, noise, ALPHAS), prediction_target(latents, noise, ALPHAS, "v_prediction")
    alpha = ALPHAS.view(-1, 1, 1, 1)
    torch.testing.assert_close(alpha.sqrt() * x - (1 - alpha).sqrt() * v, latents)
    torch.testing.assert_close(alpha.sqrt() * v + (1 - alpha).sqrt() * x, noise)


def test_epsilon_and_sample_are_the_tensors_themselves(pair):
    latents, noise = pair
    assert prediction_target(latents, noise, ALPHAS, "epsilon") is noise
    assert prediction_target(latents, noise, ALPHAS, "sample") is latents


@pytest.mark.parametrize("zero_terminal", [False, True])
def test_noising_and_velocity_are_those_of_diffusers(pair, zero_terminal):
    latents, noise = pair
    schedule = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=zero_terminal
    )
    timesteps = torch.tensor([0, 1, 250, 998, 999])
    alphas = schedule.alphas_cumprod[timesteps]
    torch.testing.assert_close(add_noise(latents, noise, alphas), schedule.add_noise(latents, noise, timesteps))
    torch.testing.assert_close(
        prediction_target(latents, noise, alphas, "v_prediction"), schedule.get_velocity(latents, noise, timesteps)
    )
