"""The average of the weights: its values, its swap, and what it averages."""

import pytest
import torch
from torch import nn

from sdcxr.training.ema import EMA


def set_all(module: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)


def test_values_with_the_ramp():
    """Decays (1 + 1) / (10 + 1), (1 + 2) / (10 + 2), then the cap of 0.26."""
    module = nn.Linear(1, 1)
    set_all(module, 0.0)
    ema = EMA(module, 0.26)
    values = []
    for step in (1, 2, 3):
        set_all(module, float(step))
        ema.update(step)
        values.append(ema.averages["weight"].item())
    first = 1 - 2 / 11
    second = 0.25 * first + 0.75 * 2
    assert values == pytest.approx([first, second, 0.26 * second + 0.74 * 3])


def test_swap_shows_the_average_and_gives_the_weights_back_exactly():
    module = nn.Linear(3, 2)
    initial = module.weight.detach().clone()
    ema = EMA(module, 0.9)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    for step in range(1, 4):
        module(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        ema.update(step)
    trained, averaged = module.weight.detach().clone(), ema.averages["weight"].clone()
    assert not torch.equal(trained, averaged) and not torch.equal(averaged, initial)
    with ema.applied():
        assert torch.equal(module.weight, averaged)
    assert torch.equal(module.weight, trained)
    assert torch.equal(ema.averages["weight"], averaged)


def test_the_weights_come_back_after_an_error_inside():
    module = nn.Linear(1, 1)
    ema = EMA(module, 0.9)
    set_all(module, 5.0)
    with pytest.raises(ValueError), ema.applied():
        assert module.weight.item() != 5.0
        raise ValueError
    assert module.weight.item() == 5.0


def test_training_goes_on_after_a_swap():
    module = nn.Linear(1, 1)
    set_all(module, 0.0)
    ema = EMA(module, 0.0)
    with ema.applied():
        pass
    set_all(module, 1.0)
    ema.update(1000)
    assert ema.averages["weight"].item() == 1.0


def test_frozen_parameters_are_not_averaged():
    module = nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.BatchNorm1d(1)})
    module["b"].requires_grad_(False).eval()
    assert set(EMA(module, 0.9).averages) == {"a.weight", "a.bias"}


def test_running_statistics_are_averaged_with_their_weights():
    module = nn.ModuleDict({"a": nn.BatchNorm1d(1)})
    ema = EMA(module, 0.0)
    module["a"](torch.tensor([[10.0], [30.0]]))
    ema.update(1000)
    with ema.applied():
        assert module["a"].running_mean.item() == pytest.approx(2.0)
    assert set(ema.averages) == {"a.weight", "a.bias", "a.running_mean", "a.running_var"}


def test_averages_of_other_parameters_are_refused():
    ema = EMA(nn.Linear(1, 1), 0.9)
    with pytest.raises(KeyError):
        ema.load({"weight": torch.zeros(1, 1)})
    ema.load({"weight": torch.full((1, 1), 2.0), "bias": torch.full((1,), 3.0)})
    assert ema.averages["weight"].item() == 2.0
