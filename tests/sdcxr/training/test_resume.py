"""Stops and restarts of a run: whatever ends it, the same command goes on as if nothing had been."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from sdcxr import backbones
from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError
from sdcxr.training import checkpoint, loop

SIX: dict[str, Any] = {"tune": "unet+text", "max_train_steps": 6, "logging_steps": 4, "checkpointing_steps": 3}


@pytest.fixture(scope="module")
def uninterrupted(train_micro, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("six") / "run"
    assert train_micro(run, **SIX) == 0
    return run


def results(run: Path) -> dict[str, bytes]:
    """The files of weights of a run's result, whole."""
    files = {path.name + path.parent.name: path.read_bytes() for path in (run / "pipeline").rglob("*.safetensors")}
    assert files
    return files


def assert_same(run: Path, uninterrupted: Path, read_log: Any) -> None:
    """Weights, averages, optimizer state, result and log are equal to the last bit."""
    for name in ("model", "ema", "optimizer"):
        path = f"checkpoints/checkpoint-6/{name}.safetensors"
        assert (run / path).read_bytes() == (uninterrupted / path).read_bytes(), name
    assert results(run) == results(uninterrupted)
    assert read_log(run) == read_log(uninterrupted)


class Killed(Exception):
    """Stands for a kill: nothing of the run's own is executed any more."""


def before_step(monkeypatch: pytest.MonkeyPatch, number: int, action: Any) -> None:
    """Run `action` once, before the step with this number (from 0)."""
    real = loop.Run.step

    def step(self: loop.Run, step: int, batches: Any) -> Any:
        if step == number:
            monkeypatch.setattr(loop.Run, "step", real)
            action()
        return real(self, step, batches)

    monkeypatch.setattr(loop.Run, "step", step)


def kill() -> None:
    raise Killed


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 2, 3, 4, 5])
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    train_micro, tmp_path, monkeypatch, uninterrupted, read_log, number
):
    before_step(monkeypatch, number, kill)
    with pytest.raises(Killed):
        train_micro(tmp_path, **SIX)
    assert not (tmp_path / "pipeline").exists()
    assert train_micro(tmp_path, **SIX) == 0
    assert_same(tmp_path, uninterrupted, read_log)


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_ends_the_step_writes_a_checkpoint_and_loses_nothing(
    train_micro, tmp_path, monkeypatch, uninterrupted, read_log, kind, code, capfd
):
    old = signal.getsignal(kind)
    before_step(monkeypatch, 1, lambda: os.kill(os.getpid(), kind))
    assert train_micro(tmp_path, **SIX) == code
    assert signal.getsignal(kind) == old
    assert "stopped at step 2 of 6: run the same command again" in capfd.readouterr().out
    assert [path.name for path in checkpoint.existing(tmp_path / "checkpoints")] == ["checkpoint-2"]
    assert train_micro(tmp_path, **SIX) == 0
    assert "resuming at step 2" in capfd.readouterr().out
    assert_same(tmp_path, uninterrupted, read_log)


def test_a_sigterm_to_the_processes_that_read_data_too_loses_nothing(train_micro, tmp_path, monkeypatch, capfd):
    def warn() -> None:
        workers = multiprocessing.active_children()
        assert workers
        for process in [*workers, SimpleNamespace(pid=os.getpid())]:
            os.kill(process.pid, signal.SIGTERM)
        time.sleep(0.5)  # in which a death of theirs would be heard of

    before_step(monkeypatch, 1, warn)
    assert train_micro(tmp_path, **SIX, dataloader_num_workers=1) == 75
    assert "stopped at step 2 of 6" in capfd.readouterr().out
    assert not multiprocessing.active_children()


def test_several_processes_stop_together_at_a_row_of_the_log():
    run = loop.Run.__new__(loop.Run)
    run.config, run.signals = TrainConfig(logging_steps=5), SimpleNamespace(received=0)
    another = torch.tensor([signal.SIGTERM])  # has got one
    run.accelerator = SimpleNamespace(num_processes=2, device="cpu", gather=lambda own: torch.cat([own, another]))
    assert [run.stopping(step) for step in (3, 4, 5)] == [False, False, True]
    assert run.signal == signal.SIGTERM


def test_what_is_remembered_of_the_losses_ends_with_their_row(train_micro, tmp_path, monkeypatch):
    real, remembered = loop.Run.log_interval, []

    def log_interval(self: loop.Run, *args: Any) -> str:
        said = real(self, *args)
        remembered.append(len(self.seen))
        return said

    monkeypatch.setattr(loop.Run, "log_interval", log_interval)
    train_micro(tmp_path, tune="unet")
    assert remembered == [0, 0]


def test_a_second_signal_ends_at_once(train_micro, tmp_path, monkeypatch):
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before_step(monkeypatch, 1, twice)
    with pytest.raises(KeyboardInterrupt):
        train_micro(tmp_path, **SIX)


def test_a_row_cut_by_a_full_disk_is_dropped(train_micro, tmp_path, monkeypatch, uninterrupted, read_log):
    before_step(monkeypatch, 4, kill)
    with pytest.raises(Killed):
        train_micro(tmp_path, **SIX)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "lo')
    assert train_micro(tmp_path, **SIX) == 0
    assert_same(tmp_path, uninterrupted, read_log)


def flip_a_byte(file: Path) -> None:
    """Of the same size, so that only reading it shows the damage."""
    content = bytearray(file.read_bytes())
    content[0] ^= 255
    file.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [flip_a_byte, lambda file: os.truncate(file, 1000), Path.unlink])
def test_a_torn_newest_checkpoint_is_named_and_means_the_one_before(
    train_micro, tmp_path, monkeypatch, uninterrupted, read_log, capfd, damage
):
    before_step(monkeypatch, 5, kill)
    with pytest.raises(Killed):
        train_micro(tmp_path, **(SIX | {"checkpointing_steps": 2}))
    damage(tmp_path / "checkpoints" / "checkpoint-4" / "optimizer.safetensors")
    assert train_micro(tmp_path, **SIX) == 0
    out = capfd.readouterr().out
    assert "checkpoint-4 is damaged" in out and "resuming at step 2" in out
    assert_same(tmp_path, uninterrupted, read_log)


def test_a_run_without_a_checkpoint_that_can_be_loaded_stops(train_micro, tmp_path):
    """It would overwrite them from step 0 on."""
    assert train_micro(tmp_path, **(SIX | {"max_train_steps": 3})) == 0
    for file in tmp_path.glob("checkpoints/*/optimizer.safetensors"):
        file.write_bytes(b"")
    log = (tmp_path / "log.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"has 3 finished steps but no good checkpoint to go on from"):
        train_micro(tmp_path, **SIX)
    assert (tmp_path / "log.jsonl").read_bytes() == log


def test_a_finished_run_is_continued_by_more_steps(train_micro, tmp_path, uninterrupted):
    assert train_micro(tmp_path, **(SIX | {"max_train_steps": 3})) == 0
    assert train_micro(tmp_path, **SIX) == 0
    assert results(tmp_path) == results(uninterrupted)


def test_a_continued_run_is_not_finished_before_its_result_is_saved(train_micro, tmp_path, monkeypatch, uninterrupted):
    assert train_micro(tmp_path, **(SIX | {"max_train_steps": 3})) == 0
    with monkeypatch.context() as patched:
        patched.setattr(backbones, "save", lambda *_: kill())
        with pytest.raises(Killed):
            train_micro(tmp_path, **SIX)
    assert (tmp_path / "checkpoints" / "checkpoint-6").is_dir()
    assert train_micro(tmp_path, **SIX) == 0
    assert results(tmp_path) == results(uninterrupted)


def test_fewer_steps_than_there_are_is_refused(train_micro, tmp_path, monkeypatch):
    before_step(monkeypatch, 4, kill)
    with pytest.raises(Killed):
        train_micro(tmp_path, **SIX)
    before = (tmp_path / "config.yaml").read_text()
    with pytest.raises(UserError, match=r"--max_train_steps 2: .* already has 3"):
        train_micro(tmp_path, **(SIX | {"max_train_steps": 2}))
    assert (tmp_path / "config.yaml").read_text() == before


@pytest.mark.parametrize(("tune", "result"), [("unet", "pipeline"), ("classifier", "classifier")])
def test_a_result_that_was_removed_is_saved_again(train_micro, tmp_path, tune, result):
    settings: dict[str, Any] = {"tune": tune} | ({"base": None} if tune == "classifier" else {})
    assert train_micro(tmp_path, **settings) == 0
    expected = {path: path.read_bytes() for path in (tmp_path / result).rglob("*") if path.is_file()}
    shutil.rmtree(tmp_path / result)
    assert train_micro(tmp_path, **settings) == 0
    assert {path: path.read_bytes() for path in (tmp_path / result).rglob("*") if path.is_file()} == expected


@pytest.mark.slow
def test_dropout_of_a_base_is_a_function_of_the_step(train_micro, tmp_path, monkeypatch, micro_base, read_log):
    base = tmp_path / "base"
    shutil.copytree(micro_base, base)
    config = base / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"attention_dropout": 0.5}))
    assert train_micro(tmp_path / "whole", **SIX, base=str(base)) == 0
    before_step(monkeypatch, 4, kill)
    with pytest.raises(Killed):
        train_micro(tmp_path / "run", **SIX, base=str(base))
    assert train_micro(tmp_path / "run", **SIX, base=str(base)) == 0
    assert_same(tmp_path / "run", tmp_path / "whole", read_log)
    monkeypatch.setattr(loop, "DROPOUT", loop.DROPOUT + 1)
    assert train_micro(tmp_path / "other", **SIX, base=str(base)) == 0
    assert read_log(tmp_path / "other") != read_log(tmp_path / "whole")


def without_the_last_image(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.iloc[:-1]


def with_another_caption(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(text=["no change", *rows["text"].iloc[1:]])


@pytest.mark.slow
@pytest.mark.parametrize("change", [without_the_last_image, with_another_caption])
def test_a_run_is_not_continued_on_other_images_or_captions(train_micro, tmp_path, micro_dataset, change):
    assert train_micro(tmp_path / "run", **SIX | {"max_train_steps": 2}) == 0
    other = tmp_path / "other"
    shutil.copytree(micro_dataset, other)
    table = other / "train" / "metadata.csv"
    change(pd.read_csv(table)).to_csv(table, index=False)
    before = (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(UserError, match=r"was begun on other images or captions .*changed: (images, )?captions"):
        train_micro(tmp_path / "run", **SIX, data=str(other))
    assert (tmp_path / "run" / "config.yaml").read_text() == before
