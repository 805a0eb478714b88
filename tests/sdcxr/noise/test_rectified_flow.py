"""Rectified flow against its formulas, closed forms and scipy-free quantiles."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdcxr.noise.rectified_flow import RectifiedFlow, interpolate, logit_normal_quantile, shift_time, velocity
from sdcxr.runtime.errors import UserError


@pytest.mark.parametrize(("sigma", "expected"), [(0.0, 2.0), (0.25, 1.0), (0.5, 0.0), (1.0, -2.0)])
def test_paths_are_straight_from_data_to_noise(sigma, expected):
    x0, noise = torch.full((1, 1, 2, 2), 2.0), torch.full((1, 1, 2, 2), -2.0)
    assert interpolate(x0, noise, torch.tensor([sigma])).unique().tolist() == [expected]


def test_the_velocity_is_the_derivative_of_the_path():
    draws = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 1, 4, 4, generator=draws, dtype=torch.float64)
    early, late = (interpolate(x0, noise, torch.full((3,), sigma, dtype=torch.float64)) for sigma in (0.3, 0.7))
    torch.testing.assert_close((late - early) / 0.4, velocity(x0, noise))
    # One Euler step of size σ along the velocity undoes the corruption.
    torch.testing.assert_close(late - 0.7 * velocity(x0, noise), x0)


@pytest.mark.parametrize(
    ("sigma", "shift", "expected"),
    [(0.5, 1.0, 0.5), (0.5, 3.0, 0.75), (0.25, 3.0, 0.5), (0.0, 3.0, 0.0), (1.0, 6.0, 1.0)],
)
def test_shifted_times(sigma, shift, expected):
    assert shift_time(torch.tensor(sigma), shift).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("u", "mean", "std", "expected"),
    [
        (0.5, 0.0, 1.0, 0.5),
        (0.5, 1.0, 2.0, 1 / (1 + math.exp(-1))),
        (0.8413447460685429, 0.0, 1.0, 1 / (1 + math.exp(-1))),  # Φ(1)
        (0.022750131948179195, 0.5, 1.0, 1 / (1 + math.exp(1.5))),  # Φ(-2)
    ],
)
def test_logit_normal_quantiles(u, mean, std, expected):
    assert logit_normal_quantile(torch.tensor(u, dtype=torch.float64), mean, std).item() == pytest.approx(expected)


def test_drawn_times_follow_the_density_and_stay_in_their_stratum():
    flow, draws = RectifiedFlow(shift=3.0), np.random.default_rng(0)
    times = [float(flow.draw_time(draws)) for _ in range(4000)]
    assert all(0 < t < 1 for t in times)
    assert np.median(times) == pytest.approx(0.75, abs=0.01)  # the shifted median of the logit-normal
    quarter = [float(flow.draw_time(draws, 1, 4)) for _ in range(200)]
    low, high = flow.time(torch.tensor([0.25, 0.5]))
    assert low - 1e-6 <= min(quarter) and max(quarter) <= high + 1e-6
    even = RectifiedFlow(logit_std=None)
    assert float(even.draw_time(np.random.default_rng(1))) == pytest.approx(np.random.default_rng(1).random())


@given(st.floats(0, 0.999), st.floats(0.1, 10))
def test_times_grow_with_their_quantile(u, shift):
    flow = RectifiedFlow(shift=shift)
    lower, higher = flow.time(torch.tensor([u, u + 0.0009], dtype=torch.float64))
    assert lower <= higher


def test_the_process_is_its_formulas():
    flow = RectifiedFlow(time_scale=1000)
    x0, noise, t = torch.ones(2, 1, 2, 2), torch.zeros(2, 1, 2, 2), torch.tensor([0.25, 1.0])
    assert flow.corrupt(x0, noise, t)[:, 0, 0, 0].tolist() == [0.75, 0.0]
    assert flow.target(x0, noise, t).unique().tolist() == [-1.0]
    assert flow.weight(t) is None and flow.model_time(t).tolist() == [250.0, 1000.0]
    assert [flow.stratum_start(part, 8) for part in (0, 1, 7)] == [0, 125, 875]


def test_impossible_settings_and_other_samplers_are_refused():
    for wrong in ({"shift": 0.0}, {"logit_std": -1.0}, {"time_scale": 0.0}):
        with pytest.raises(UserError, match="must be positive"):
            RectifiedFlow(**wrong)
    with pytest.raises(UserError, match="--scheduler pndm: this model is sampled with euler"):
        RectifiedFlow().sampler(None, "pndm", 10)
