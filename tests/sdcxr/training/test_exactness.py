"""A run is the same however its batch is split: over micro-steps, over processes, over both.

Every comparison is over 20 steps of 8 images with the settings users have (AdamW's epsilon of 1e-8, clipping to norm 1,
dropped captions), a cosine schedule with warm-up, and min-SNR weights, which differ from image to image.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from sdcxr import backbones
from tests.torchrun import ROOT, in_two_processes, train_in_two_processes

STEPS = 20
MODES = ("unet", "text", "unet+text")
TWENTY: dict[str, Any] = {
    "max_train_steps": STEPS,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 5,
    "snr_gamma": 5.0,
    "adam_epsilon": 1e-8,
}
# Captions drawn anew at every step, in one of the modes.
OF_MODE: dict[str, dict[str, Any]] = {
    "unet": {"prompt_template": ["[{view} view. ]{text}", "chest[ with {finding}]"], "field_dropout": 0.5}
}

# Softmax does not feel what is added to all scores of a query, so the true gradient of a key's bias is zero, and Adam
# makes steps of nearly full length out of its rounding errors. No other weight differs by more than 3e-6 here; these
# do by up to 7e-5, and compute the same (see the last test).
WITHOUT_EFFECT = "self_attn.k_proj.bias"


@pytest.fixture(scope="module")
def whole_batch(train_micro, tmp_path_factory) -> dict[str, Path]:
    """A run of every mode in one process, 8 images at once."""
    folder = tmp_path_factory.mktemp("whole")
    for mode in MODES:
        assert train_micro(folder / mode, tune=mode, train_batch_size=8, **TWENTY, **OF_MODE.get(mode, {})) == 0
    return {mode: folder / mode for mode in MODES}


SPLITS = ((4, 1), (2, 2))  # images and micro-steps of each of two processes


@pytest.fixture(scope="module")
def two_processes(whole_batch, tmp_path_factory) -> dict[tuple[str, int], Path]:
    """Runs of every mode in two processes, by mode and images at once; they cache the latents together, too."""
    folder = tmp_path_factory.mktemp("split")
    runs, settings = {}, []
    for mode in MODES:
        for batch, micro_steps in SPLITS:
            runs[mode, batch] = folder / f"{mode}-{batch}"
            one = yaml.safe_load((whole_batch[mode] / "config.yaml").read_text())
            one |= {"train_batch_size": batch, "gradient_accumulation_steps": micro_steps}
            one |= {"output_dir": str(runs[mode, batch]), "latents_dir": str(folder / "latents")}
            settings.append(one)
    train_in_two_processes(settings, folder)
    return runs


def tensors(run: Path, name: str) -> dict[str, torch.Tensor]:
    """A file of the last checkpoint, without the weights that have no effect."""
    found = load_file(run / "checkpoints" / f"checkpoint-{STEPS}" / f"{name}.safetensors")
    return {key: tensor for key, tensor in found.items() if WITHOUT_EFFECT not in key}


def assert_equal_to_rounding(run: Path, other: Path, read_log: Any) -> None:
    """Losses, weights and averages to 1e-5; Adam's moments, which feel any factor on the gradients, to 1e-4."""
    rows, others = read_log(run), read_log(other)
    assert [row["images"] for row in rows] == [8 * (step + 1) for step in range(STEPS)]
    np.testing.assert_allclose([row["loss"] for row in rows], [row["loss"] for row in others], rtol=1e-5)
    for name in ("model", "ema"):
        own, expected = tensors(run, name), tensors(other, name)
        assert own.keys() == expected.keys() and len(own) > 10
        for key in expected:
            torch.testing.assert_close(own[key], expected[key], rtol=1e-5, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")
    own, expected = tensors(run, "optimizer"), tensors(other, "optimizer")
    assert own.keys() == expected.keys()
    for key, moment in expected.items():
        assert (own[key] - moment).norm() <= 1e-4 * moment.norm(), key


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_micro_steps_change_nothing(train_micro, tmp_path, whole_batch, read_log, mode):
    split = {"train_batch_size": 2, "gradient_accumulation_steps": 4}
    train_micro(tmp_path, tune=mode, **split, **TWENTY, **OF_MODE.get(mode, {}))
    assert_equal_to_rounding(tmp_path, whole_batch[mode], read_log)


@pytest.mark.multiprocess
@pytest.mark.parametrize("batch", [batch for batch, _ in SPLITS])
@pytest.mark.parametrize("mode", MODES)
def test_two_processes_change_nothing(two_processes, whole_batch, read_log, mode, batch):
    assert_equal_to_rounding(two_processes[mode, batch], whole_batch[mode], read_log)


@pytest.mark.multiprocess
def test_the_learning_rate_does_not_feel_the_number_of_processes(two_processes, whole_batch, read_log):
    rates = [row["lr"] for row in read_log(whole_batch["unet"])]
    assert rates[:5] == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3]) and 0 < rates[-1] < 2e-5
    for batch, _ in SPLITS:
        assert [row["lr"] for row in read_log(two_processes["unet", batch])] == rates


@pytest.mark.multiprocess
def test_train_py_in_two_processes_changes_nothing(tmp_path, whole_batch, read_log):
    """The command itself, which splits the batch of 8 over the processes and micro-steps on its own."""
    config = yaml.safe_load((whole_batch["unet+text"] / "config.yaml").read_text())
    config |= {"output_dir": str(tmp_path / "run"), "train_batch_size": 2, "total_train_batch_size": 8}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    out = in_two_processes(ROOT / "train.py", "--config", "config.yaml", folder=tmp_path)
    assert "20 steps of 8 images (2 × 2 × 2)" in out and out.count("tuning") == 1
    assert_equal_to_rounding(tmp_path / "run", whole_batch["unet+text"], read_log)


def test_biases_of_keys_have_no_effect(micro_base):
    """So that leaving them out of the comparison leaves nothing out."""
    encoder = backbones.load(str(micro_base)).parts["text"].eval()
    ids = torch.arange(10)[None]
    with torch.no_grad():
        before = encoder(ids)[0]
        named = [bias for name, bias in encoder.named_parameters() if WITHOUT_EFFECT in name]
        for bias in named:
            bias += 0.1 * torch.randn(bias.shape, generator=torch.Generator().manual_seed(0))
        assert len(named) == 1
        torch.testing.assert_close(encoder(ids)[0], before, rtol=1e-5, atol=1e-5)
