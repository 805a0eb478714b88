"""Training must move the chosen parts and no others."""

import pytest
import torch
from torch import nn

from sdcxr.training.guards import assert_only_tuned_parts_moved, fingerprints


@pytest.fixture
def task() -> nn.ModuleDict:
    torch.manual_seed(0)
    task = nn.ModuleDict({"unet": nn.Linear(4, 4), "text": nn.Linear(4, 4), "vae": nn.Linear(4, 4)})
    task["vae"].requires_grad_(False)
    return task


def move(parameter: nn.Parameter) -> None:
    with torch.no_grad():
        parameter.view(-1)[1] += 1e-6


def test_moves_of_all_tuned_parts_pass(task):
    before = fingerprints(task)
    move(task["unet"].weight)
    move(task["text"].bias)
    assert_only_tuned_parts_moved(task, before)


def test_a_tuned_part_that_stays_is_named(task):
    before = fingerprints(task)
    move(task["unet"].weight)
    with pytest.raises(RuntimeError, match="no parameter of text moved"):
        assert_only_tuned_parts_moved(task, before)


def test_a_frozen_part_that_moves_is_named(task):
    before = fingerprints(task)
    for part in task.values():
        move(part.weight)
    with pytest.raises(RuntimeError, match=r"frozen parameters moved: vae\.weight"):
        assert_only_tuned_parts_moved(task, before)


def test_a_change_of_sign_is_a_move(task):
    before = fingerprints(task)
    with torch.no_grad():
        task["vae"].weight.neg_()
    move(task["unet"].weight)
    move(task["text"].weight)
    with pytest.raises(RuntimeError, match="frozen"):
        assert_only_tuned_parts_moved(task, before)


def test_a_frozen_part_that_a_fused_optimizer_moves_is_named(task):
    """torch does not count these changes."""
    before = fingerprints(task)
    optimizer = torch.optim.AdamW([*task["unet"].parameters(), *task["text"].parameters()], lr=0.1, fused=True)
    sum(part(torch.ones(1, 4)).sum() for part in (task["unet"], task["text"])).backward()
    task["text"].requires_grad_(False)  # as frozen, but in the optimizer
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"frozen parameters moved: text\.bias, text\.weight"):
        assert_only_tuned_parts_moved(task, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_number_of_threads_moves_nothing(dtype):
    torch.manual_seed(0)
    task = nn.ParameterList([torch.randn(300, 301).to(dtype) for _ in range(5)])
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            found.append(fingerprints(task))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(each[name], found[0][name]) for each in found for name in each)
