"""The validation loss and pictures of a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from PIL import Image

from sdcxr import tasks
from sdcxr.config import TrainConfig
from sdcxr.training.validation import evaluating, validation_loss


@pytest.fixture
def task(micro_base, micro_dataset) -> Any:
    config = TrainConfig(base=str(micro_base), data=str(micro_dataset), tune="unet", snr_gamma=5.0).filled()
    return tasks.build(config, torch.device("cpu"))


def rows_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]


def test_the_loss_depends_on_nothing_but_weights_and_seed(task):
    examples, accelerator = task.validation_examples(), Accelerator()
    assert len(examples.ids) == 3
    first = validation_loss(task, examples, 0, 2, accelerator)
    assert set(first) == {"loss", "loss_t000", "loss_t125", "loss_t250"}
    assert first == validation_loss(task, examples, 0, 2, accelerator)
    assert first == pytest.approx(validation_loss(task, examples, 0, 3, accelerator), rel=1e-5)
    assert first != validation_loss(task, examples, 1, 2, accelerator)
    assert first["loss"] == pytest.approx(np.mean([first[key] for key in first if key != "loss"]), abs=1e-5)


def test_images_take_turns_over_the_parts_of_the_schedule(task):
    examples = task.validation_examples()
    for i, first in ((0, 0), (1, 125), (2, 250)):
        for seed in range(20):
            example = examples.example(i, np.random.default_rng(seed))
            assert example["stratum"] == first and first <= example["timestep"] < first + 125


def test_the_validation_loss_is_not_weighted(task):
    """So runs with different weights can be compared."""
    batch = {
        name: value[None]
        for name, value in task.validation_examples().example(0, np.random.default_rng(0)).items()
        if isinstance(value, torch.Tensor)
    } | {"timestep": torch.tensor([10])}
    with torch.no_grad():
        weighted = task(batch)
        with evaluating(task):
            plain = task(batch)
    assert weighted.item() < plain.item()


def test_modes_are_as_before(task):
    before = [module.training for module in task.modules()]
    assert True in before and False in before
    with evaluating(task):
        assert not any(module.training for module in task.modules())
    assert [module.training for module in task.modules()] == before


@pytest.mark.slow
def test_a_run_writes_losses_and_pictures_with_and_without_average(train_micro, tmp_path):
    settings = {"tune": "unet", "validation_steps": 2, "preview_images": 2, "learning_rate": 1e-2}
    assert train_micro(tmp_path, max_train_steps=4, **settings) == 0
    rows = rows_of(tmp_path)
    assert [(row["step"], row["images"]) for row in rows] == [(2, 8), (4, 16)]
    assert rows[1]["loss"] != rows[0]["loss"] and rows[1]["ema_loss"] != rows[1]["loss"]
    assert "ema_loss_t125" in rows[0]
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == ["step-000002-ema.png", "step-000002.png", "step-000004-ema.png", "step-000004.png"]
    raw, average = (np.asarray(Image.open(tmp_path / "samples" / name)) for name in names[2:][::-1])
    assert raw.shape == average.shape == (32, 66) and (raw != average).any()


@pytest.mark.slow
def test_validation_changes_nothing_in_the_training(train_micro, tmp_path, read_log):
    for name, validation_steps in (("with", 1), ("without", 0)):
        assert train_micro(tmp_path / name, max_train_steps=3, validation_steps=validation_steps) == 0
    assert read_log(tmp_path / "with") == read_log(tmp_path / "without")
    last = "checkpoints/checkpoint-3/model.safetensors"
    assert (tmp_path / "with" / last).read_bytes() == (tmp_path / "without" / last).read_bytes()


@pytest.mark.parametrize("tune", ["vae", "classifier"])
def test_other_tasks_have_a_validation_loss_too(train_micro, tmp_path, tune):
    base = {"base": None} if tune == "classifier" else {}
    assert train_micro(tmp_path, tune=tune, validation_steps=2, **base) == 0
    scores = {"f1", "auroc", "average_precision"} if tune == "classifier" else set()
    found = {name for name in rows_of(tmp_path)[0] if "/" not in name}  # not those of single labels
    assert found == {"step", "images", "loss", "ema_loss"} | scores | {f"ema_{name}" for name in scores}


def test_a_resumed_run_repeats_no_row(train_micro, tmp_path):
    settings = {"tune": "unet", "validation_steps": 1, "preview_images": 0, "checkpointing_steps": 1}
    assert train_micro(tmp_path, max_train_steps=2, **settings) == 0
    assert train_micro(tmp_path, max_train_steps=3, **settings) == 0
    assert [row["step"] for row in rows_of(tmp_path)] == [1, 2, 3]
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["preview_images"] == 0
    assert not (tmp_path / "samples").exists()


def test_a_loss_that_is_not_finite_has_no_scores():
    """They would end in an error of the library that computes them, before the loop says which images are at fault."""

    class Diverged(torch.nn.Module):
        def observe(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.full((len(batch["pixels"]),), torch.nan), torch.full((len(batch["pixels"]), 2), torch.nan)

    images: Any = type("Images", (), {"ids": ["a", "b"], "example": lambda *_: {"pixels": torch.zeros(1)}})()
    assert np.isnan(validation_loss(Diverged(), images, 0, 2, Accelerator())["loss"])
