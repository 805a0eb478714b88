"""Proof that training moves exactly the parts that were chosen."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sdcxr.tuning.base import trained_tensors


@dataclass(frozen=True)
class Fingerprints:
    """The state of a task before a step."""

    trained: dict[str, Tensor]
    """Two float64 sums of every trained tensor: equal for equal tensors, different (almost surely) otherwise."""
    frozen: dict[str, int]
    """Of every frozen parameter, how often it was changed in place so far (torch counts it)."""


@torch.no_grad()
def fingerprints(task: nn.Module) -> Fingerprints:
    """The present state; no weight is copied."""
    sums = {}
    for name, tensor in trained_tensors(task).items():
        values = tensor.detach().double()
        sums[name] = torch.stack([values.sum(), values.square().sum()])
    return Fingerprints(sums, {name: p._version for name, p in task.named_parameters() if not p.requires_grad})


def assert_only_tuned_parts_moved(task: nn.Module, before: Fingerprints) -> None:
    """Check after the first step that each tuned part changed and that no frozen parameter did.

    Raises:
        RuntimeError: names the parts; the run would have trained something else than it claims.
    """
    after = fingerprints(task)
    if moved := sorted(name for name, version in before.frozen.items() if after.frozen.get(name) != version):
        raise RuntimeError(f"frozen parameters moved: {', '.join(moved[:3])}")
    trainable = [name for name, p in task.named_parameters() if p.requires_grad]
    parts = {name.split(".")[0] for name in trainable}
    moving = {name.split(".")[0] for name in trainable if not torch.equal(before.trained[name], after.trained[name])}
    if parts != moving:
        raise RuntimeError(f"no parameter of {', '.join(sorted(parts - moving))} moved in the first step")
