"""Where a process computes, and in what."""

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState

from sdcxr.runtime import processes
from sdcxr.training import launch


@pytest.mark.parametrize(
    ("flags", "precision"), [((True, False), "bf16"), ((False, True), "bf16"), ((False, False), "no")]
)
def test_a_cpu_computes_in_bf16_where_it_has_instructions_for_it(monkeypatch, flags, precision):
    for name, value in zip(("_is_avx512_bf16_supported", "_is_amx_tile_supported"), flags, strict=True):
        monkeypatch.setattr(torch.cpu, name, lambda value=value: value, raising=False)
    assert processes.native_precision() == precision


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_run_records_which_precision_auto_was(train_micro, tmp_path, monkeypatch, precision):
    monkeypatch.setattr(launch, "native_precision", lambda: precision)
    assert train_micro(tmp_path, tune="unet", mixed_precision="auto") == 0
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["mixed_precision"] == precision
    assert train_micro(tmp_path, tune="unet", mixed_precision="auto") == 0  # the same run: finished


@pytest.fixture(autouse=True)
def own_state():
    """accelerate keeps the precision of a process."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()
