"""What a run tells of itself."""

import json
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from sdcxr.runtime.errors import UserError
from sdcxr.training import loop, progress
from sdcxr.training.progress import Log, Meter, require_tracker, start_tracker, status


class Clock:
    """A clock that is turned by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    own = Clock()
    monkeypatch.setattr(progress.time, "perf_counter", own)
    return own


def test_a_reading_covers_the_interval_without_its_pauses(clock):
    meter = Meter(torch.device("cpu"), flops_per_image=2e12, peak=1e13, devices=2)
    with meter.waiting():
        clock.now += 1
    clock.now += 3
    with meter.paused():
        clock.now += 100
    row = meter.read(images=8)
    assert (row["images_per_s"], row["tflops_per_s"], row["mfu"], row["data_wait"]) == (2.0, 2.0, 0.2, 0.25)
    clock.now += 2
    assert meter.read(images=8)["images_per_s"] == 4.0


def test_the_speed_of_a_run_is_that_of_its_steps_alone(train_micro, tmp_path, monkeypatch, clock):
    def taking(seconds: float, method: Any) -> Any:
        def timed(self: loop.Run, *args: Any) -> Any:
            clock.now += seconds
            return method(self, *args)

        return timed

    for name, seconds in {"resume": 100, "step": 2, "validate": 100, "checkpoint": 100}.items():
        monkeypatch.setattr(loop.Run, name, taking(seconds, getattr(loop.Run, name)))
    quick = {"validation_steps": 1, "validation_loss_images": 0, "preview_images": 0, "checkpointing_steps": 1}
    assert train_micro(tmp_path, tune="unet", **quick) == 0
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["images_per_s"] for row in rows] == [2.0, 2.0]  # 4 images in 2 s


@pytest.mark.slow
def test_memory_is_the_most_that_the_process_has_held():
    """In a process of its own, to which the peak of the one that starts it does not count."""
    larger = torch.ones(300_000_000)
    code = """
import torch
from sdcxr.training.progress import peak_memory
before = peak_memory(torch.device("cpu"))
ballast = torch.ones(100_000_000)
del ballast
print(before, peak_memory(torch.device("cpu")))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    before, after = map(int, run.stdout.split())
    assert 50e6 < before < after - 100e6  # of 400 MB of ballast; the import alone had its peak, too
    assert after < larger.nbytes


def test_without_a_known_peak_there_is_no_utilization(clock):
    meter = Meter(torch.device("cpu"), 1, 0, 1)
    clock.now += 1
    row = meter.read(1)
    assert row["mfu"] is None
    assert "of a matrix product" not in status(row | {"loss": 0.5})


def test_the_status_line_says_it_in_short():
    row = {"loss": 0.25, "images_per_s": 151.6, "tflops_per_s": 371.2, "mfu": 0.47, "data_wait": 0.01}
    expected = "loss 0.2500, 152 images/s, 371 TFLOP/s (47% of a matrix product), 1% waiting, 38.5 GB"
    assert status(row | {"peak_memory_gb": 38.5}) == expected


def test_rows_behind_the_start_and_half_rows_are_dropped(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4')
    Log(path, 2).write({"step": 3, "loss": 0.5})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1},
        {"step": 2},
        {"step": 3, "loss": 0.5},
    ]


def test_the_tracker_gets_the_numbers_and_no_more(tmp_path):
    logged = []
    tracker = type("Tracker", (), {"log": lambda self, values, step: logged.append((values, step))})()
    Log(tmp_path / "log.jsonl", 0, tracker, "validation_").write({"step": 3, "loss": 0.5, "mfu": None})
    assert logged == [({"validation_loss": 0.5}, 3)]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_refused(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"--report_to {name}: .*; pip install {name}, or use --report_to none"):
        require_tracker(name)


@pytest.mark.parametrize(
    ("login", "logged_in"),
    [
        (lambda prompt=True, verify=True: False, False),
        (lambda prompt=True, verify=True: not prompt and not verify, True),  # asked for nothing, sent nothing
        (lambda key=None: pytest.fail("asked"), False),  # of older versions
    ],
)
def test_wandb_without_a_login_is_refused_before_anything_is_built(monkeypatch, login, logged_in):
    wandb = fake_wandb(login)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    if logged_in:
        require_tracker("wandb")
    else:
        with pytest.raises(UserError, match=r"nobody is logged in: run `wandb login` .* WANDB_MODE=offline"):
            require_tracker("wandb")
    wandb.mode = "offline"
    require_tracker("wandb")


def fake_wandb(login: Any) -> Any:
    module: Any = ModuleType("wandb")
    module.mode, module.login, module.api = "online", login, SimpleNamespace(api_key=None)
    module.setup = lambda: SimpleNamespace(settings=SimpleNamespace(mode=module.mode))
    return module


def test_a_resumed_run_is_the_same_one_at_wandb(train_micro, tmp_path, monkeypatch):
    inits = []
    module = fake_wandb(lambda prompt=True, verify=True: True)
    module.init = lambda **settings: inits.append(settings) or SimpleNamespace(log=print, finish=print)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr("accelerate.tracking.WandBTracker.log", lambda *_, **__: None)
    for steps in (1, 2):
        assert train_micro(tmp_path, tune="unet", report_to="wandb", max_train_steps=steps, lr_warmup_steps=0) == 0
    assert [init["resume"] for init in inits] == ["allow", "allow"]
    assert inits[0]["id"] == inits[1]["id"] == json.loads((tmp_path / "run.json").read_text())["tracker_id"]


def test_a_tracker_that_does_not_start_is_one_line(tmp_path, monkeypatch):
    class UsageError(Exception):
        __module__ = "wandb.errors"

    def init(**_: Any) -> None:
        raise UsageError("No API key\nconfigured")

    module = fake_wandb(None)
    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(UserError, match=r"^--report_to wandb: No API key configured; or use --report_to none$"):
        start_tracker("wandb", tmp_path, 0, "id")


def test_tensorboard_drops_steps_that_a_killed_run_logged_after_its_checkpoint(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, steps in ((0, (1, 2, 3)), (1, (2, 3, 4))):
        tracker = start_tracker("tensorboard", tmp_path, start)
        for step in steps:
            tracker.log({"loss": float(start)}, step=step)
        tracker.finish()
    events = EventAccumulator(str(tmp_path / "logs")).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(1, 0.0), (2, 1.0), (3, 1.0), (4, 1.0)]


def test_no_tracker_is_none(tmp_path):
    require_tracker("none")
    assert start_tracker("none", tmp_path) is None


@pytest.mark.parametrize("tune", ["unet", "classifier"])
def test_a_run_logs_what_it_computes(train_micro, tmp_path, tune):
    base = {"base": None, "resolution": 32} if tune == "classifier" else {}
    assert train_micro(tmp_path, count_work=True, tune=tune, **base) == 0
    for row in [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]:
        assert set(row) == {
            "step", "images", "loss", "lr", "images_per_s", "tflops_per_s", "mfu", "data_wait", "peak_memory_gb"
        }  # fmt: skip
        assert row["tflops_per_s"] > 0 and row["mfu"] > 0 and 0 <= row["data_wait"] < 1
