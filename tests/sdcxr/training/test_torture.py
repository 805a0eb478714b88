"""Runs that are killed as `kill -9` does, again and again, end in the same bits as runs that nobody touches."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("die_and_resume.py")
SIXTY: dict[str, Any] = {
    "tune": "unet+text",
    "max_train_steps": 60,
    "checkpointing_steps": 3,
    "lr_scheduler": "cosine",
    "snr_gamma": 5.0,
    "validation_steps": 2,
    "preview_images": 0,
}


def tortured(folder: Path, undisturbed: Path, mode: str) -> list[dict[str, Any]]:
    """Kill a run with the settings of `undisturbed` in folder/run until it is finished; a report of its lives."""
    settings = yaml.safe_load((undisturbed / "config.yaml").read_text())
    settings |= {"output_dir": str(folder / "run"), "latents_dir": str(folder / "latents")}
    (folder / "settings.json").write_text(json.dumps(settings))
    command = [sys.executable, str(SCRIPT), mode, str(folder / "settings.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "lives.json").read_text())


def contents(run: Path) -> dict[str, bytes]:
    """Every file of a run except those that name the folder or tell of speed. No unfinished folder is left."""
    found = {str(path.relative_to(run)): path for path in run.rglob("*")}
    assert not [name for name, path in found.items() if path.is_dir() and name.endswith(".tmp")]
    # A process that is killed while it writes a small file leaves a hidden one behind, and its lock.
    left_behind = re.compile(r"(.*/)?\.[^/]*\.\d+\.tmp|\.lock")
    apart = {"config.yaml", "log.jsonl"}
    return {
        name: path.read_bytes()
        for name, path in found.items()
        if path.is_file() and name not in apart and not left_behind.fullmatch(name)
    }


def assert_same(run: Path, undisturbed: Path, read_log: Any) -> None:
    """Weights, averages, optimizer state, pipeline and records are equal to the last bit, logs to the last digit."""
    own, expected = contents(run), contents(undisturbed)
    assert own.keys() == expected.keys()
    assert {Path(name).name for name in own} >= {"model.safetensors", "ema.safetensors", "optimizer.safetensors"}
    assert [name for name in own if own[name] != expected[name]] == []
    assert read_log(run) == read_log(undisturbed)


def test_twenty_kills_at_random_moments_change_nothing(train_micro, tmp_path, read_log):
    assert train_micro(tmp_path / "undisturbed", **SIXTY) == 0
    *lives, last = tortured(tmp_path, tmp_path / "undisturbed", "random")
    assert [life["code"] for life in lives] == [-signal.SIGKILL] * 20 and last["code"] == 0, lives
    assert any(life["rows"] == 0 for life in lives if life["moment"] == "start"), "none died in its first moments"
    assert any(life["torn"] for life in lives if life["moment"] == "checkpoint"), "none died writing a checkpoint"
    assert len({life["step"] for life in lives}) >= 10, "they died at the same steps"
    assert_same(tmp_path / "run", tmp_path / "undisturbed", read_log)


def test_a_kill_before_any_file_operation_changes_nothing(train_micro, tmp_path, read_log):
    short = SIXTY | {"max_train_steps": 20, "checkpointing_steps": 2}
    assert train_micro(tmp_path / "undisturbed", **short) == 0
    *lives, last = tortured(tmp_path, tmp_path / "undisturbed", "everywhere")
    died = [life["moment"] for life in lives]
    assert last == {"moment": "end", "code": 0}
    assert len(died) == len(set(died)) > 20
    for moment in (
        "write optimizer.safetensors",
        "rename run/checkpoints/.checkpoint-N.N.tmp",
        "rename run/checkpoints/.checkpoint-N.N.tmp/.state.json.N.tmp",
        "rmdir run/checkpoints/checkpoint-N",
        "open run/log.jsonl",
        "open run/validation.jsonl",
        "rename run/.pipeline.N.tmp",
        "rename run/.run.json.N.tmp",
        "rename latents/.shard-N.safetensors.N.tmp",
    ):
        assert moment in died
    assert_same(tmp_path / "run", tmp_path / "undisturbed", read_log)
