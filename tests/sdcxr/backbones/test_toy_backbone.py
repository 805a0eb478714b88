"""A family registered from outside trains, caches, resumes, samples and is merged, without a change in sdcxr."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from sdcxr import backbones, tasks
from sdcxr.backbones import registry
from sdcxr.config import TrainConfig
from sdcxr.data import shard_cache, text_cache
from sdcxr.data.text_cache import cached_captions
from sdcxr.generation.config import GenerateConfig
from sdcxr.generation.sampler import Sampler
from sdcxr.generation.samples_folder import generate
from sdcxr.runtime.errors import UserError
from tests.sdcxr.backbones import toy_backbone
from tests.sdcxr.backbones.toy_backbone import WIDTH, Denoiser, ToyBackbone, Vae

DRAWS = np.random.default_rng(0)  # cached captions draw nothing
SETTINGS: dict[str, Any] = {"tune": "unet", "max_train_steps": 6, "checkpointing_steps": 3, "caption_dropout": 0.5}


@pytest.fixture(autouse=True)
def toy(monkeypatch) -> None:
    monkeypatch.setattr(registry, "FAMILIES", dict(registry.FAMILIES))
    backbones.register(ToyBackbone)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    backbones.save(ToyBackbone(Denoiser(), nn.Embedding(256, WIDTH), Vae()), tmp_path / "toy")
    return tmp_path / "toy"


@pytest.fixture
def data(micro_dataset: Path, tmp_path: Path) -> Path:
    return Path(
        shutil.copytree(micro_dataset, tmp_path / "data", ignore=shutil.ignore_patterns(".latents", ".conditioning"))
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "pipeline" / "transformer" / "model.safetensors")


def test_it_trains_from_cached_latents_and_captions_and_resumes_exactly(train_micro, base, data, tmp_path, read_log):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    settings = SETTINGS | {"base": str(base), "data": str(data), "validation_steps": 3}
    assert train_micro(whole, **settings, preview_images=2) == 0
    assert train_micro(halves, **settings | {"max_train_steps": 3}) == 0
    assert train_micro(halves, **settings) == 0
    assert read_log(whole) == read_log(halves)
    assert all(torch.equal(value, weights(halves)[name]) for name, value in weights(whole).items())
    started = load_file(base / "transformer" / "model.safetensors")
    assert any(not torch.equal(value, started[name]) for name, value in weights(whole).items())
    # Captions were cached once: the distinct ones of the training split and the empty one, without padding.
    records = (data / ".conditioning").glob("*/fingerprint.json")
    caches = {json.loads(record.read_text())["n_captions"]: record.parent for record in records}
    offsets = load_file(caches[4] / "shard-00000.safetensors")["hidden.offsets"].tolist()
    assert offsets[:2] == [0, 1] and len(offsets) == 4 + 1 + 1
    moments = next((data / ".latents").glob("*/shard-00000.safetensors"))
    assert set(load_file(moments)) == {"mean"}  # this VAE has no variance
    checkpoint = load_file(whole / "checkpoints" / "checkpoint-6" / "model.safetensors")
    assert {name.split(".")[0] for name in checkpoint} == {"transformer"}
    assert (whole / "samples" / "step-000003.png").is_file()


def test_a_live_encoder_gives_the_same_losses_as_the_cache(train_micro, base, data, tmp_path, read_log, monkeypatch):
    settings = SETTINGS | {"base": str(base), "data": str(data)}
    train_micro(tmp_path / "cached", **settings)
    monkeypatch.setattr(ToyBackbone, "caches_text", False)
    train_micro(tmp_path / "live", **settings)
    cached, live = ([row["loss"] for row in read_log(tmp_path / name)] for name in ("cached", "live"))
    assert cached == pytest.approx(live, rel=1e-5)


def test_cached_captions_are_read_again_and_never_those_of_another_encoder_or_tokenizer(base, tmp_path, monkeypatch):
    backbone, texts = backbones.load(str(base)), ["one", "three", "one"]
    first = cached_captions(backbone, torch.device("cpu"), texts, tmp_path / "cache")
    assert first.cache.n == 3 and first.tokens == 6
    row = first.fields(0, DRAWS)
    assert torch.equal(row["conditioning.hidden"], first.fields(2, DRAWS)["conditioning.hidden"])
    assert row["conditioning.mask"].tolist() == [1, 1, 1, 1, 0, 0] and not row["conditioning.hidden"][4:].any()
    assert first.fields(None, DRAWS)["conditioning.mask"].tolist() == [1, 0, 0, 0, 0, 0]
    with monkeypatch.context() as patched:
        patched.setattr(backbone, "encode_text", lambda tokens: pytest.fail("encoded again"))
        cached_captions(backbone, torch.device("cpu"), texts, tmp_path / "cache")
    with torch.no_grad():
        backbone.parts["text"].weight += 1
    other = cached_captions(backbone, torch.device("cpu"), texts, tmp_path / "cache")
    torch.testing.assert_close(other.fields(0, DRAWS)["conditioning.hidden"][:4], row["conditioning.hidden"][:4] + 1)
    monkeypatch.setattr(toy_backbone, "TOKENS", 4)
    assert cached_captions(backbone, torch.device("cpu"), texts, tmp_path / "cache").tokens == 4
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_captions_of_several_shards_and_batches_keep_their_lengths(base, tmp_path, monkeypatch):
    monkeypatch.setattr(text_cache, "SHARD", 4)
    monkeypatch.setattr(shard_cache, "BATCH", 3)
    texts = ["x" * n for n in range(1, 10)]
    captions = cached_captions(backbones.load(str(base)), torch.device("cpu"), texts, tmp_path)
    assert len(captions.cache.shards) == 3
    assert [int(captions.fields(i, DRAWS)["conditioning.mask"].sum()) for i in range(9)] == list(range(2, 11))


def test_what_this_family_lacks_is_one_line(train_micro, base, data, tmp_path):
    settings = SETTINGS | {"base": str(base), "data": str(data)}
    with pytest.raises(UserError, match="--gradient_checkpointing: the Denoiser of this base does not support it"):
        train_micro(tmp_path / "run", **settings, gradient_checkpointing=True)
    with pytest.raises(UserError, match="--tune vae: the Vae of this base is no AutoencoderKL"):
        train_micro(tmp_path / "run", base=str(base), data=str(data), tune="vae")


def test_an_encoder_whose_outputs_are_cached_is_no_part_of_the_module(base, data):
    settings = {"base": str(base), "data": str(data), "validation_steps": 0}
    for tune, children in (("unet", {"transformer", "process"}), ("text", {"transformer", "process", "text_encoder"})):
        task = tasks.build(TrainConfig(tune=tune, **settings).filled(), torch.device("cpu"))
        assert {name for name, _ in task.named_children()} == children


def test_its_text_encoder_trains_live(train_micro, base, data, tmp_path):
    train_micro(tmp_path / "run", **SETTINGS | {"tune": "text", "base": str(base), "data": str(data)})
    trained = load_file(tmp_path / "run" / "pipeline" / "text_encoder" / "model.safetensors")
    assert not torch.equal(trained["weight"], load_file(base / "text_encoder" / "model.safetensors")["weight"])
    assert not (data / ".conditioning").exists()


def test_generate_samples_it_with_its_own_sampler(base, tmp_path):
    settings = {"num_images_per_prompt": 2, "num_inference_steps": 3}
    config = GenerateConfig(str(base), "Left effusion.", str(tmp_path / "samples"), **settings)
    assert generate(config) == 0
    table = pd.read_csv(tmp_path / "samples" / "metadata.csv")
    asked = {name: set(table[name]) for name in ("scheduler", "num_inference_steps", "guidance_scale")}
    assert asked == {"scheduler": {"euler"}, "num_inference_steps": {3}, "guidance_scale": {3.0}}
    images = [np.asarray(Image.open(tmp_path / "samples" / f"prompt_{k}.png")) for k in range(2)]
    assert images[0].shape == (32, 32) and not np.array_equal(*images)
    with pytest.raises(UserError, match="--scheduler pndm: this model is sampled with euler"):
        Sampler.load(str(base), scheduler="pndm")


def test_settings_of_diffusion_are_refused(train_micro, base, data, tmp_path):
    with pytest.raises(UserError, match="--snr_gamma is for diffusion"):
        train_micro(tmp_path / "run", **SETTINGS | {"base": str(base), "data": str(data), "snr_gamma": 5.0})


def test_a_family_that_is_not_registered_is_named(base, monkeypatch):
    monkeypatch.setattr(registry, "FAMILIES", {"StableDiffusionPipeline": object})
    with pytest.raises(UserError, match="is a ToyPipeline: supported are StableDiffusionPipeline"):
        backbones.load(str(base))
