"""Wrong input to train.py: one line that says what to do, exit code 2, and whatever was there before is still there."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sdcxr import backbones
from sdcxr.commands import train
from sdcxr.config import TrainConfig
from sdcxr.runtime import cli

ROOT = Path(__file__).parents[3]
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def main() -> Callable[[TrainConfig], int]:
    """train.py's."""
    return train.main


QUICK = {
    "max_train_steps": 2,
    "train_batch_size": 2,
    "lr_warmup_steps": 0,
    "checkpointing_steps": 2,
    "logging_steps": 1,
    "validation_steps": 0,
    "report_to": "none",
}


@pytest.fixture
def answer(main, micro_base, micro_dataset, tmp_path, capfd) -> Callable[..., tuple[Any, str]]:
    """`answer(**flags)` runs train.py into tmp_path/run and returns its exit code and stderr without bars."""

    def run(**flags: Any) -> tuple[Any, str]:
        values = QUICK | {"base": micro_base, "data": micro_dataset, "output_dir": tmp_path / "run"} | flags
        argv = [f"--{name}={value}" for name, value in values.items() if value is not None]
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.run(main, argv)
        return stopped.value.code, re.sub(r"[\w ]+: +\d+%\|[^]]*\]", "", capfd.readouterr().err).strip()

    return run


@pytest.fixture
def refused(answer, tmp_path) -> Refused:
    """`refused(**flags)` is the one line that train.py ends with; below tmp_path nothing has changed."""

    def line(**flags: Any) -> str:
        before = contents(tmp_path)
        code, err = answer(**flags)
        assert code == 2 and err.startswith("error: ") and "\n" not in err, err
        assert contents(tmp_path) == before
        return err

    return line


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("validation_steps", [0, 5])
def test_a_folder_that_is_no_dataset(refused, tmp_path, validation_steps):
    """It is no matter of validation."""
    (tmp_path / "empty").mkdir()
    line = refused(data=tmp_path / "empty", validation_steps=validation_steps)
    assert "empty has no split 'train' (no split at all: was it written by data_prep?)" in line
    assert "--validation_steps" not in line
    assert "nowhere: does not exist" in refused(data=tmp_path / "nowhere", validation_steps=validation_steps)


def test_a_dataset_without_images(refused, tmp_path, micro_dataset):
    shutil.copytree(micro_dataset, tmp_path / "data", ignore=shutil.ignore_patterns(".latents"))
    table = tmp_path / "data" / "train" / "metadata.csv"
    (tmp_path / "data" / "train" / "train3.png").unlink()
    assert "train3.png is named in metadata.csv and does not exist" in refused(data=tmp_path / "data")
    table.write_text(table.read_text().splitlines()[0] + "\n")
    assert "has no images: its metadata.csv is empty" in refused(data=tmp_path / "data")


@pytest.mark.parametrize("tune", ["unett", "unet+vae", "unet+unet", "everything"])
def test_an_unknown_tune(refused, tune):
    assert f"--tune {tune}" in refused(tune=tune)


def test_a_cache_of_another_vae(refused, answer, tmp_path, micro_base):
    cache = tmp_path / "cache"
    assert answer(latents_dir=cache)[0] == 0
    other = backbones.load(str(micro_base))
    with torch.no_grad():
        next(other.vae.encoder.parameters())[0] += 1e-3
    backbones.save(other, tmp_path / "other")
    line = refused(base=tmp_path / "other", latents_dir=cache, output_dir=tmp_path / "second")
    assert f"{cache} caches other latents (differing: vae): give another folder" in line
    assert not (tmp_path / "second").exists()


def test_a_batch_that_does_not_divide(refused, tmp_path):
    line = refused(total_train_batch_size=7)
    assert "--total_train_batch_size 7 is no multiple of 1 processes × --train_batch_size 2: change one of them" in line
    assert not (tmp_path / "run").exists()


def test_a_run_folder_of_another_config(refused, answer, micro_base_v):
    assert answer(tune="unet")[0] == 0
    line = refused(tune="unet", learning_rate=1e-3, seed=7)
    assert "(seed 0 → 7; learning_rate 5e-05 → 0.001): use another --output_dir" in line
    # The same weights with another prediction type.
    assert "was begun on another base than --base" in (line := refused(tune="unet", base=micro_base_v))
    assert "(changed: schedule)" in line


def test_a_run_folder_without_its_config_is_not_overwritten(refused, tmp_path):
    (tmp_path / "run").write_text("a file")
    assert "is a file, but a folder is needed" in refused()


@pytest.mark.slow
def test_a_disk_that_takes_no_more_during_a_checkpoint(answer, tmp_path, largest_file):
    """The checkpoint before survives, and once there is room the run ends as if nothing had been."""
    six = {"tune": "unet", "max_train_steps": 6}
    assert answer(**six, output_dir=tmp_path / "undisturbed")[0] == 0
    expected = contents(tmp_path / "undisturbed" / "checkpoints")
    assert answer(tune="unet")[0] == 0
    checkpoints = tmp_path / "run" / "checkpoints"
    before = contents(checkpoints)
    model = (checkpoints / "checkpoint-2" / "model.safetensors").stat().st_size
    with largest_file(model + 1000):  # the optimizer's file is twice as large
        code, err = answer(**six)
    assert code == 2 and err.startswith("error: the system's limit on the size of a file") and "\n" not in err
    assert contents(checkpoints) == before and [path.name for path in checkpoints.iterdir()] == ["checkpoint-2"]
    assert (tmp_path / "run" / "pipeline" / "model_index.json").is_file()
    assert answer(**six)[0] == 0
    found = contents(checkpoints)
    assert {path.name: content for path, content in found.items() if path.parent.name == "checkpoint-6"} == {
        path.name: content for path, content in expected.items() if path.parent.name == "checkpoint-6"
    }


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities")
def test_a_folder_that_cannot_be_written(answer, refused, tmp_path, read_only):
    with read_only(tmp_path):
        assert refused(tune="unet") == f"error: no permission for {tmp_path / 'run'}: Permission denied"
    assert answer(tune="unet")[0] == 0
    with read_only(tmp_path / "run"):
        assert re.match(rf"error: no permission for {tmp_path / 'run'}/\S+: ", refused(tune="unet", max_train_steps=4))
    assert answer(tune="unet", max_train_steps=4)[0] == 0
