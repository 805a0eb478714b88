"""FLOPs of a training step, peak FLOP/s of the device, and MFU (model FLOPs utilization).

Model FLOPs utilization (MFU, Chowdhery et al. 2022, arXiv 2204.02311, appendix B) is the work that the model needs over
the work that the device could have done meanwhile: recomputed activations do not count. The reference is not a maker's
figure but a plain matrix product on the same device, so that there is no table of cards to keep.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

RUNS = 5  # products measured, of which the median counts
CPU_SECONDS = 0.15  # for all of them together on a CPU


def training_flops(task: nn.Module, batch: dict[str, Tensor]) -> int:
    """Operations of one forward and backward pass of a task's loss, a multiply-add being two.

    Nothing is computed and no weight is copied: the pass runs on the meta device, where tensors are shapes. The task
    stays as it is: weights, gradients, running statistics, modes, random state.

    Args:
        task: a task (see `sdcxr.tasks.base.Task`), not wrapped, with `requires_grad` set as it is trained.
        batch: what its `forward` takes, of any values, on any device. The count is of this whole batch.
    """
    with flop_counter() as counter:
        _meta_pass(task, batch)
    return int(counter.get_total_flops())


def without_gradient(task: nn.Module, batch: dict[str, Tensor]) -> list[str]:
    """Names of the parameters of a task that train and do not reach its loss, by the same pass as `training_flops`."""
    passed = _meta_pass(task, batch)
    return [name for name, p in task.named_parameters() if p.requires_grad and passed[f"task.{name}"].grad is None]


def _meta_pass(task: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """One forward and backward pass without values; the tensors that stood for the task's, with their gradients."""
    bench = _Bench(task)
    state = {
        name: torch.empty_like(tensor, device="meta").requires_grad_(tensor.requires_grad)
        for name, tensor in [*bench.named_parameters(), *bench.named_buffers()]
    }
    shapes = {name: torch.empty_like(value, device="meta") for name, value in batch.items()}
    with torch.enable_grad(), _without_recomputation(task):
        torch.func.functional_call(bench, state, (shapes,)).mean().backward()
    return state


def flop_counter() -> FlopCounterMode:
    """torch's counter, with the gradients of grouped convolutions counted right.

    It takes that of their weights for one of an ungrouped convolution (https://github.com/pytorch/pytorch/issues/119806):
    at 512 px Sana 0.6B would need 5.2 TFLOP instead of 0.95.
    """
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward})


def _convolution_backward(
    grad_shape: Any, x_shape: Any, w_shape: Any, *others: Any, out_shape: Any = None, **_: Any
) -> int:
    """Each gradient, of the input and of the weights, takes what the forward pass takes."""
    transposed, wanted = others[4], others[7]
    return int(conv_flop_count(x_shape, w_shape, grad_shape, transposed=transposed) * sum(wanted[:2]))


class _Bench(nn.Module):
    """A task with the frozen parts of its backbone that are no modules of the task."""

    def __init__(self, task: nn.Module):
        super().__init__()
        self.task = task
        owned = set(task.modules())
        backbone: Any = getattr(task, "backbone", None)
        held = backbone.parts.values() if backbone is not None else ()
        # Each module once: `functional_call` would restore one with two names to meta weights.
        self.held = nn.ModuleList(part for part in held if isinstance(part, nn.Module) and part not in owned)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        loss: Tensor = self.task.forward(batch)  # not the compiled call, if there is one
        return loss


@contextmanager
def _without_recomputation(task: nn.Module) -> Iterator[None]:
    """Gradient checkpointing off: its second forward pass is no work that the model needs."""
    names = ("gradient_checkpointing", "grad_checkpointing")  # of diffusers and transformers, of timm
    recomputing = [(module, name) for module in task.modules() for name in names if getattr(module, name, False)]
    for module, name in recomputing:
        setattr(module, name, False)
    try:
        yield
    finally:
        for module, name in recomputing:
            setattr(module, name, True)


@torch.no_grad()
def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a square matrix product of random numbers, as this device does it now, with the present threads.

    8192³ on an accelerator; on a CPU the largest power of two that keeps the whole under a third of a second.
    """
    if device.type != "cpu":
        _seconds(8192, device, dtype)  # the first calls choose and load a kernel
        return 2 * 8192**3 / _seconds(8192, device, dtype)
    side = 128
    seconds = _seconds(side, device, dtype)
    while side < 2048 and 8 * seconds * (RUNS + 1) < CPU_SECONDS:  # twice the side is eight times the work
        side *= 2
        seconds = _seconds(side, device, dtype)
    return 2 * side**3 / seconds


def _seconds(side: int, device: torch.device, dtype: torch.dtype) -> float:
    """Median time of a product of two (side, side) matrices."""
    generator = torch.Generator(device).manual_seed(0)
    # Random, because a GPU runs faster, and says too much, on constant numbers.
    a, b = (torch.randn(side, side, device=device, generator=generator).to(dtype) for _ in range(2))
    out = a @ b
    times = []
    for _ in range(RUNS):
        _wait(device)
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        _wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
