"""A tuning method registered from outside trains, resumes and is merged, without a change in sdcxr."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from sdcxr import backbones, tasks, tuning
from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError
from sdcxr.tuning import registry
from sdcxr.tuning.adapter_folder import save_adapter
from sdcxr.tuning.base import apply_method
from tests.sdcxr.tuning.toy_method import OutputScale, Scaled

SETTINGS = {"tune": "unet", "method": "output_scale", "max_train_steps": 6, "checkpointing_steps": 3}


@pytest.fixture(autouse=True)
def toy(monkeypatch) -> None:
    monkeypatch.setattr(registry, "METHODS", dict(registry.METHODS))
    tuning.register(OutputScale)


@pytest.fixture
def run(train_micro, tmp_path):
    assert train_micro(tmp_path / "run", **SETTINGS) == 0
    return tmp_path / "run"


def test_checkpoints_averages_and_adapter_hold_the_scales_alone(run):
    newest = run / "checkpoints" / "checkpoint-6"
    trained = load_file(newest / "model.safetensors")
    assert trained and all(name.startswith("unet.") and name.endswith(".scale") for name in trained)
    assert load_file(newest / "ema.safetensors").keys() == trained.keys()
    assert {key.rsplit("/", 1)[0] for key in load_file(newest / "optimizer.safetensors")} == trained.keys()
    adapter = load_file(run / "adapter" / "unet.safetensors")
    assert {f"unet.{name}" for name in adapter} == trained.keys()
    about = json.loads((run / "adapter" / "adapter.json").read_text())
    assert about["parts"] == {"unet": {"method": "output_scale", "options": {}, "files": ["unet"]}}


@pytest.mark.slow
def test_it_resumes_exactly(run, train_micro, tmp_path, read_log):
    halves = tmp_path / "halves"
    train_micro(halves, **SETTINGS | {"max_train_steps": 3})
    train_micro(halves, **SETTINGS)
    assert read_log(halves) == read_log(run)
    for name in ("adapter/unet.safetensors", "pipeline/unet/diffusion_pytorch_model.safetensors"):
        assert (halves / name).read_bytes() == (run / name).read_bytes()


def test_the_adapter_of_another_method_does_not_stay(run, tmp_path):
    shutil.copytree(run / "adapter", tmp_path / "adapter")
    full = {"unet": tuning.find_method("full")}
    save_adapter(tmp_path / "adapter", full, {"unet": nn.Linear(1, 1)}, TrainConfig(), {})
    assert not (tmp_path / "adapter").exists()


PLAIN = """
import sys, torch
from diffusers import UNet2DConditionModel
unet = UNet2DConditionModel.from_pretrained(sys.argv[1], subfolder="unet")
draws = torch.Generator().manual_seed(0)
x, context = torch.randn(1, 4, 4, 4, generator=draws), torch.randn(1, 77, 16, generator=draws)
with torch.no_grad():
    torch.save(unet(x, 500, context).sample, sys.argv[2])
assert "sdcxr" not in sys.modules
"""


@pytest.mark.slow  # torch and diffusers once more
def test_the_merged_pipeline_is_plain_diffusers_and_equals_the_adapted_model(run, micro_base, tmp_path):
    plain = [sys.executable, "-c", PLAIN, str(run / "pipeline"), str(tmp_path / "plain.pt")]
    subprocess.run(plain, check=True, timeout=200, cwd=tmp_path)
    unet = backbones.load(str(micro_base)).unet
    method = OutputScale()
    method.inject(unet, TrainConfig())
    unet.load_state_dict(unet.state_dict() | load_file(run / "adapter" / "unet.safetensors"))
    assert any((module.scale != 1).any() for module in unet.modules() if isinstance(module, Scaled))
    draws = torch.Generator().manual_seed(0)
    x, context = torch.randn(1, 4, 4, 4, generator=draws), torch.randn(1, 77, 16, generator=draws)
    with torch.no_grad():
        adapted = unet(x, 500, context).sample
    torch.testing.assert_close(torch.load(tmp_path / "plain.pt"), adapted, atol=1e-5, rtol=1e-4)
    frozen = backbones.load(str(micro_base)).unet.state_dict()
    convolution = backbones.load(str(run)).unet.state_dict()["conv_in.weight"]
    assert torch.equal(convolution, frozen["conv_in.weight"])


def test_the_merge_leaves_the_module_as_it_is(micro_base):
    unet = backbones.load(str(micro_base)).unet
    method = OutputScale()
    names = method.inject(unet, TrainConfig())
    merged = method.merge(unet)
    assert dict(unet.named_parameters()).keys() >= set(names)
    assert not any(isinstance(module, Scaled) for module in merged.modules())


def test_unknown_methods_and_parts_without_a_place_are_one_line(micro_base, micro_dataset):
    config = {"base": str(micro_base), "data": str(micro_dataset), "validation_steps": 0, "tune": "unet"}
    with pytest.raises(UserError, match=r"--method outputscale: unknown .near: output_scale"):
        tasks.build(TrainConfig(**config, method="outputscale").filled(), torch.device("cpu"))
    with pytest.raises(UserError, match="--method output_scale: Conv2d has none of Linear"):
        apply_method(OutputScale(), nn.Conv2d(1, 1, 1), TrainConfig())
    with pytest.raises(UserError, match="--method is for --tune unet, text, classifier or segmenter, not for vae"):
        TrainConfig(tune="vae", method="output_scale")
