"""What training changes: trainable parameters and the buffers that their modules move."""

import pytest
import torch
from torch import nn

from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError
from sdcxr.tuning.base import apply_method, trained_tensors
from sdcxr.tuning.full import Full


class Table(nn.Module):
    """A constant table beside a layer, as the positions of a transformer are."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("positions", torch.zeros(3))
        self.layer = nn.Linear(2, 2)


def test_all_of_a_tuned_part_is_kept_but_its_constant_tables():
    assert set(trained_tensors(Table())) == {"layer.weight", "layer.bias"}


def test_running_statistics_are_kept_with_what_trains():
    part = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    statistics = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert statistics < set(trained_tensors(part))
    part.requires_grad_(False)
    assert set(trained_tensors(part)) == statistics  # in training mode they still move
    assert not trained_tensors(part.eval())


def test_buffers_that_are_not_saved_are_not_kept():
    part = nn.Linear(1, 1)
    part.register_buffer("cache", torch.zeros(1), persistent=False)
    assert set(trained_tensors(part)) == {"weight", "bias"}


def test_a_method_without_anything_to_train_is_refused():
    class Nothing(Full):
        def inject(self, module, config):
            return []

    class Elsewhere(Full):
        serves = ("GroupNorm", "Conv2d")

    for wrong, lacks in ((Nothing(), "nothing that it trains"), (Elsewhere(), "none of GroupNorm, Conv2d")):
        with pytest.raises(UserError, match=f"--method full: Linear has {lacks}"):
            apply_method(wrong, nn.Linear(1, 1), TrainConfig())


def test_a_method_that_names_something_else_is_a_bug():
    class Absent(Full):
        def inject(self, module, config):
            return ["weight", "absent"]

    with pytest.raises(ValueError, match="--method full names"):
        apply_method(Absent(), nn.Linear(1, 1), TrainConfig())


def test_only_what_the_method_names_requires_gradients():
    class Bias(Full):
        def inject(self, module, config):
            return ["bias"]

    part = nn.Linear(2, 2)
    apply_method(Bias(), part, TrainConfig())
    assert [name for name, p in part.named_parameters() if p.requires_grad] == ["bias"]
