"""Proof that training moves exactly the parts that were chosen."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def fingerprints(task: nn.Module) -> dict[str, Tensor]:
    """Two float64 sums of every parameter, by name: equal for equal tensors, different (almost surely) otherwise.

    Frozen ones too: torch's own count of changes in place (`_version`) does not see those of a fused optimizer.
    """
    sums = {}
    for name, parameter in task.named_parameters():
        values = parameter.detach().double()
        sums[name] = torch.stack([values.sum(), values.square().sum()])
    return sums


def assert_only_tuned_parts_moved(task: nn.Module, before: dict[str, Tensor]) -> None:
    """Check after the first step that each tuned part changed and that no frozen parameter did.

    Raises:
        RuntimeError: names the parts; the run would have trained something else than it claims.
    """
    after = fingerprints(task)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    trainable = {name for name, parameter in task.named_parameters() if parameter.requires_grad}
    if moved - trainable:
        raise RuntimeError(f"frozen parameters moved: {', '.join(sorted(moved - trainable)[:3])}")
    still = {name.split(".")[0] for name in trainable} - {name.split(".")[0] for name in moved}
    if still:
        raise RuntimeError(f"no parameter of {', '.join(sorted(still))} moved in the first step")
