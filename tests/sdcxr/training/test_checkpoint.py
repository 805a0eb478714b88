"""Checkpoints come back bit for bit, are whole or absent, and never come from another run."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sdcxr.training import checkpoint
from sdcxr.training.ema import EMA
from sdcxr.tuning.base import trained_tensors


class Task(nn.Module):
    """A tuned part with a buffer, and a frozen one."""

    def __init__(self, width: int = 3, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.unet = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))
        self.vae = nn.Linear(2, 2).requires_grad_(False)


def trained(steps: int, width: int = 3, seed: int = 0) -> tuple[Task, torch.optim.Optimizer, EMA]:
    task = Task(width, seed)
    optimizer = torch.optim.AdamW(task.unet.parameters(), lr=0.1, fused=True)
    ema = EMA(task, 0.9)
    train(task, optimizer, ema, 0, steps)
    return task, optimizer, ema


def train(task: Task, optimizer: torch.optim.Optimizer, ema: EMA, start: int, stop: int) -> None:
    for step in range(start, stop):
        data = torch.randn(5, 2, generator=torch.Generator().manual_seed(step))
        task.unet(data).square().sum(dim=1).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(step + 1)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_training_goes_on_bit_for_bit(tmp_path):
    task, optimizer, ema = trained(3)
    checkpoint.save(tmp_path, 3, task, optimizer, ema, keep=2, losses=[0.1, 1 / 3])
    train(task, optimizer, ema, 3, 6)

    again, its_optimizer, its_ema = trained(0, seed=99)
    assert checkpoint.load(tmp_path / "checkpoint-3", again, its_optimizer, its_ema) == (3, [0.1, 1 / 3])
    train(again, its_optimizer, its_ema, 3, 6)
    assert same(task.unet.state_dict(), again.unet.state_dict())
    assert same(checkpoint.optimizer_state(task, optimizer), checkpoint.optimizer_state(again, its_optimizer))
    assert same(ema.averages, its_ema.averages)


def test_a_checkpoint_holds_the_tuned_part_with_its_buffers_and_no_frozen_one(tmp_path):
    task, optimizer, ema = trained(1)
    names = trained_tensors(task).keys()
    assert "unet.1.running_mean" in names and "unet.0.weight" in names
    assert not any(name.startswith("vae") for name in names)
    checkpoint.save(tmp_path, 1, task, optimizer, ema, keep=1)
    files = {path.name for path in (tmp_path / "checkpoint-1").iterdir()}
    assert files == {"model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"}


def test_checkpoints_of_version_0_1_are_read(tmp_path):
    """They repeat what is frozen in a tuned part, and average floating buffers that are not saved."""
    task, optimizer, ema = trained(2)
    task.unet[0].bias.requires_grad_(False)
    task.unet.register_buffer("filter", torch.ones(3), persistent=False)
    ema = EMA(task, 0.9)
    optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad])
    checkpoint.save(tmp_path, 2, task, optimizer, ema, keep=1)
    folder = tmp_path / "checkpoint-2"
    for name, surplus in (("model", {"unet.0.bias": torch.zeros(3)}), ("ema", {"unet.filter": torch.ones(3)})):
        save_file(load_file(folder / f"{name}.safetensors") | surplus, folder / f"{name}.safetensors")
    state = json.loads((folder / "state.json").read_text())
    state["files"] = {name: (folder / name).stat().st_size for name in state["files"]}
    (folder / "state.json").write_text(json.dumps(state))
    bias = task.unet[0].bias.detach().clone()
    assert checkpoint.load(folder, task, optimizer, ema) == (2, [])
    assert torch.equal(task.unet[0].bias, bias) and "unet.filter" not in ema.averages


def test_the_newest_are_kept_in_order_of_their_steps(tmp_path):
    task, optimizer, ema = trained(1)
    for step in (2, 10, 9, 100):
        checkpoint.save(tmp_path, step, task, optimizer, ema, keep=2)
    assert [path.name for path in checkpoint.existing(tmp_path)] == ["checkpoint-10", "checkpoint-100"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-100"]


def cut(folder: Path, name: str) -> None:
    os.truncate(folder / name, (folder / name).stat().st_size - 1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: cut(folder, "model.safetensors"),
        lambda folder: (folder / "ema.safetensors").unlink(),
        lambda folder: (folder / "state.json").unlink(),
        lambda folder: (folder / "state.json").write_text('{"ste'),
        lambda folder: (folder / "state.json").write_text("{}"),
        lambda folder: (folder / "state.json").write_text("[]"),
    ],
)
def test_a_torn_checkpoint_does_not_count_and_is_refused(tmp_path, damage):
    task, optimizer, ema = trained(1)
    for step in (1, 2):
        checkpoint.save(tmp_path, step, task, optimizer, ema, keep=2)
    damage(tmp_path / "checkpoint-2")
    assert [path.name for path in checkpoint.existing(tmp_path)] == ["checkpoint-1"]
    assert [path.name for path in checkpoint.found(tmp_path)] == ["checkpoint-1", "checkpoint-2"]
    refuse(tmp_path / "checkpoint-2", "is damaged")


def test_other_files_are_no_checkpoints(tmp_path):
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-7").write_text("")
    assert checkpoint.found(tmp_path) == []
    assert checkpoint.found(tmp_path / "nowhere") == []


def flip_last_header_byte(folder: Path) -> None:
    """Damage that leaves the size as it is."""
    file = folder / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[0] ^= 255
    file.write_bytes(content)


def test_damage_inside_changes_nothing(tmp_path):
    task, optimizer, ema = trained(1)
    checkpoint.save(tmp_path, 1, task, optimizer, ema, keep=1)
    flip_last_header_byte(tmp_path / "checkpoint-1")
    refuse(tmp_path / "checkpoint-1", "is damaged")


def test_a_checkpoint_that_another_program_wrote_is_refused(tmp_path):
    task, optimizer, ema = trained(1)
    checkpoint.save(tmp_path, 1, task, optimizer, ema, keep=1)
    state = json.loads((tmp_path / "checkpoint-1" / "state.json").read_text())
    (tmp_path / "checkpoint-1" / "state.json").write_text(json.dumps({"files": state["files"]}))
    refuse(tmp_path / "checkpoint-1", "is of another run")


def test_a_checkpoint_without_the_average_is_refused_where_there_is_one(tmp_path):
    task, optimizer, _ = trained(1)
    checkpoint.save(tmp_path, 1, task, optimizer, None, keep=1)
    refuse(tmp_path / "checkpoint-1", "is damaged")


def refuse(path: Path, message: str, width: int = 3) -> None:
    other, its_optimizer, its_ema = trained(0, width, seed=9)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        checkpoint.load(path, other, its_optimizer, its_ema)
    assert same(other.state_dict(), before) and not its_optimizer.state


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    checkpoint.save(tmp_path, 1, *trained(1), keep=1)
    refuse(tmp_path / "checkpoint-1", "is of another run", width=4)


def test_an_optimizer_of_other_parameters_is_refused(tmp_path):
    task, _, ema = trained(1)
    task.vae.weight.grad = torch.ones(2, 2)
    optimizer = torch.optim.AdamW([task.vae.weight])
    optimizer.step()
    checkpoint.save(tmp_path, 1, task, optimizer, ema, keep=1)
    refuse(tmp_path / "checkpoint-1", "is of another run")


def test_averages_of_another_shape_are_refused(tmp_path):
    task, optimizer, _ = trained(1)
    checkpoint.save(tmp_path, 1, task, optimizer, EMA(Task(4), 0.9), keep=1)
    refuse(tmp_path / "checkpoint-1", "is of another run")


def test_a_disk_that_takes_no_more_leaves_the_old_checkpoint_and_nothing_else(tmp_path, largest_file):
    task, optimizer, ema = trained(1, width=100)
    checkpoint.save(tmp_path, 1, task, optimizer, ema, keep=1)
    size = (tmp_path / "checkpoint-1" / "model.safetensors").stat().st_size
    with pytest.raises(Exception, match="File too large"), largest_file(size):  # the optimizer's is larger
        checkpoint.save(tmp_path, 2, task, optimizer, ema, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert len(checkpoint.existing(tmp_path)) == 1


def test_half_of_a_checkpoint_whose_removal_was_cut_short_is_removed(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, *trained(1), keep=2)
    (tmp_path / "checkpoint-1" / "state.json").unlink()
    checkpoint.save(tmp_path, 3, *trained(1), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-3"]


def test_the_checkpoint_just_written_stays_beside_a_newer_one_that_could_not_be_loaded(tmp_path):
    for step in (9, 6):
        checkpoint.save(tmp_path, step, *trained(1), keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-6", "checkpoint-9"]


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    (tmp_path / ".checkpoint-5.123.tmp").mkdir(parents=True)
    checkpoint.save(tmp_path, 6, *trained(1), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-6"]


def test_state_names_step_losses_and_sizes_alone(tmp_path):
    checkpoint.save(tmp_path, 1, *trained(1), keep=1)
    state = json.loads((tmp_path / "checkpoint-1" / "state.json").read_text())
    assert state.keys() == {"step", "losses", "files"}


def test_the_scale_of_fp16_gradients_comes_back(tmp_path):
    """It halves at every overflow, and a run that began with the first scale again would skip other steps."""

    def scaler() -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", init_scale=2.0**16)

    task, optimizer, ema = trained(1)
    used = scaler()
    used.scale(task.unet(torch.randn(5, 2)).sum() * float("inf")).backward()
    used.step(optimizer)
    used.update()
    checkpoint.save(tmp_path, 1, task, optimizer, ema, keep=1, scaler=used)
    again, its_optimizer, its_ema = trained(0)
    fresh = scaler()
    checkpoint.load(tmp_path / "checkpoint-1", again, its_optimizer, its_ema, fresh)
    assert fresh.state_dict() == used.state_dict()
    assert fresh.get_scale() == 2.0**15
