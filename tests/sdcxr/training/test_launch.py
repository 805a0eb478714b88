"""What the environment of `accelerate launch` may change of a run: devices and an open precision, nothing else."""

from pathlib import Path

import pytest
import yaml

from sdcxr.runtime.errors import UserError
from sdcxr.training.launch import precision


def results(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "checkpoints").rglob("*.safetensors")}


@pytest.mark.parametrize(
    ("variable", "value", "flag"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "--gradient_accumulation_steps"),
        ("ACCELERATE_DYNAMO_BACKEND", "EAGER", "--torch_compile"),
    ],
)
def test_what_would_change_a_run_beside_its_settings_is_ignored_and_said(
    train_micro, tmp_path, monkeypatch, capfd, variable, value, flag
):
    assert train_micro(tmp_path / "plain", tune="unet") == 0
    assert variable not in capfd.readouterr().out
    monkeypatch.setenv(variable, value)
    assert train_micro(tmp_path / "launched", tune="unet") == 0
    assert f"{variable}={value} is ignored: a run depends on its own settings, use {flag}" in capfd.readouterr().out
    assert results(tmp_path / "launched") == results(tmp_path / "plain")


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"])
def test_a_launch_that_shards_is_refused_before_it_starts(train_micro, tmp_path, monkeypatch, name):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(UserError, match="checkpoints of sharded weights are not written here"):
        train_micro(tmp_path, tune="unet")


def test_half_precision_on_a_cpu_is_refused_or_recorded_as_what_it_is(train_micro, tmp_path, monkeypatch, capfd):
    with pytest.raises(UserError, match="--mixed_precision fp16: a CPU does not train in it: use no or bf16"):
        train_micro(tmp_path, tune="unet", mixed_precision="fp16")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")  # of default_config.yaml
    assert train_micro(tmp_path, tune="unet") == 0
    assert "fp16 of accelerate launch is ignored" in capfd.readouterr().out
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["mixed_precision"] == "no"


@pytest.mark.parametrize(
    ("flag", "launch", "expected"), [(None, None, "no"), (None, "bf16", "bf16"), ("no", "bf16", "no")]
)
def test_the_flag_goes_before_the_launch(monkeypatch, flag, launch, expected):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launch:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launch)
    assert precision(flag) == expected


def test_a_precision_that_is_not_supported_is_named(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(UserError, match="mixed_precision fp8 of accelerate launch: use no, bf16, fp16"):
        precision(None)
