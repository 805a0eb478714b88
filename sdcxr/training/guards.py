"""Proof that training moves exactly the parts that were chosen; the images behind a loss that is not finite."""

from collections.abc import Sequence

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from sdcxr.data.stream import Stream

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an element
NOT_FINITE = "is not finite at step"  # what the error of a diverged run says
NAMED = 5  # ids in it


@torch.no_grad()
def fingerprints(task: nn.Module) -> dict[str, Tensor]:
    """Two sums of the bits of every parameter, by name: equal for equal tensors, different (almost surely) otherwise.

    Of whole numbers modulo 2^64, so that they do not depend on the number of threads, which may change meanwhile.
    Frozen parameters too: torch's own count of changes in place (`_version`) does not see those of a fused optimizer.
    """
    sums = {}
    for name, parameter in task.named_parameters():
        bits = parameter.detach().view(BITS[parameter.element_size()]).long()
        sums[name] = torch.stack([bits.sum(), bits.square().sum()])
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


def first_nonfinite(seen: Sequence[tuple[Tensor, Tensor]], stream: Stream, images_per_step: int, processes: int) -> str:
    """Step and ids of the images with the first loss that is not finite, on any process, as text; "" without one.

    Args:
        seen: positions and losses, each (batch,).
        stream: what lies at a position.
        images_per_step: over all processes.
        processes: number of them; all call this.
    """
    bad = [(int(p), stream.index(int(p))) for at, loss in seen for p in at[~loss.isfinite().cpu()]]
    if processes > 1:
        bad = gather_object(bad)
    if not bad:
        return ""
    first = min(bad)[0] // images_per_step
    ids = [stream.examples.ids[i] for position, i in sorted(bad) if position // images_per_step == first]
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return f" (first in step {first + 1}, images {', '.join(ids[:NAMED])}{more})"
