"""SV-Diff: weights rebuilt from factors."""

import torch
from torch import nn

from sdcxr.config import TrainConfig
from sdcxr.tuning.base import apply_method
from sdcxr.tuning.registry import find_method


def test_the_rebuilt_weight_is_in_float32_under_autocast():
    network = nn.Sequential(nn.Linear(6, 4))
    expected = network[0].weight.detach().clone()
    apply_method(find_method("svdiff"), network, TrainConfig(tune="unet", method="svdiff"))
    with torch.autocast("cpu", torch.bfloat16):
        rebuilt = network[0].weight
    torch.testing.assert_close(rebuilt, expected, atol=1e-6, rtol=1e-6)
