"""Sana's own: sums in float32 under autocast, times, the deterministic codec, encoders that stay as they are stored."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sdcxr import backbones
from sdcxr.backbones.sana import LENGTH, LinearAttention
from sdcxr.runtime.errors import UserError
from tests.sdcxr.backbones.families.conftest import save_base, tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_base("sana", tmp_path_factory.mktemp("sana") / "base")


@pytest.fixture(scope="module")
def sana(base) -> Any:
    return backbones.load(str(base))


@torch.no_grad()
def test_sums_of_linear_attention_stay_float32_under_autocast(sana):
    from diffusers.models.attention_processor import SanaLinearAttnProcessor2_0

    attention = sana.denoiser.transformer_blocks[0].attn1
    x = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(0))
    ours, theirs = LinearAttention(), SanaLinearAttnProcessor2_0()
    exact = theirs(attention, x)
    assert torch.equal(ours(attention, x), exact)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = ours(attention, x), theirs(attention, x)
    assert 2 * (ours - exact).norm() < (theirs - exact).norm()
    assert isinstance(attention.processor, LinearAttention)


def test_half_of_the_times_lie_above_three_quarters(sana):
    """Logit-normal, then a shift of 3: its median is 3/2 / (1 + 2/2) = 0.75. diffusers' own script trains at 0.5."""
    process = sana.inference_process()
    draws = np.random.default_rng(0)
    times = [process.draw_time(draws) for _ in range(2000)]
    assert np.median(times) == pytest.approx(0.75, abs=0.01) and process.time_scale == 1000


@torch.no_grad()
def test_the_unconditional_input_has_no_instruction(sana):
    _, n_tokens, _ = sana.unconditional(1).hidden.shape
    written = {name: torch.from_numpy(ids) for name, ids in sana.tokenize([""])[0].items()}
    assert n_tokens == LENGTH and written["input_ids"].shape[1] > LENGTH
    difference = sana.unconditional(1).hidden - sana.encode_text(written).hidden
    assert difference.abs().max() > 0.1


def test_texts_are_cut_behind_300_tokens_and_lower_cased(sana):
    short, n_cut = sana.tokenize(["Left EFFUSION", " left effusion "])
    assert n_cut == 0 and np.array_equal(*short["input_ids"])
    assert next(iter(short.values())).shape == (2, LENGTH)
    assert sana.tokenize(["left effusion " * 200])[1] == 1


def test_the_codec_stores_no_deviation(sana):
    pixels = torch.rand(2, 1, 64, 64) * 2 - 1
    mean, std = sana.codec.encode(pixels)
    assert std is None and mean.shape == (2, *sana.codec.posterior_shape(64)) and sana.codec.factor == 32
    assert torch.equal(sana.codec.to_model(mean), mean * 0.41407)
    assert sana.codec.decode(sana.codec.to_model(mean)).shape == (2, 3, 64, 64)


def test_its_samplers_keep_the_shift(sana):
    process = sana.inference_process()
    euler = process.sampler(sana.scheduler, "euler", 20)
    assert euler.config.shift == 3.0
    assert process.sampler(euler, "dpm++", 20).config.flow_shift == 3.0
    with pytest.raises(UserError, match=r"--scheduler pndm: this model is sampled with euler, dpm\+\+"):
        process.sampler(sana.scheduler, "pndm", 20)


@pytest.fixture
def half(tmp_path) -> Path:
    """A base whose encoder is stored in bfloat16, as the published ones are."""
    pipe = tiny("sana").build()
    pipe.text_encoder.to(torch.bfloat16)
    pipe.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_a_frozen_encoder_keeps_its_type_and_its_files_are_linked(half, tmp_path):
    loaded = backbones.load(str(half))
    types = {name: next(part.parameters()).dtype for name, part in loaded.parts.items()}
    assert types == {"unet": torch.float32, "text": torch.bfloat16, "vae": torch.float32}
    with torch.no_grad():
        assert loaded.unconditional(1).hidden.dtype == torch.bfloat16
    backbones.save(loaded, tmp_path / "saved")
    stored, saved = (folder / "text_encoder" / "model.safetensors" for folder in (half, tmp_path / "saved"))
    assert saved.samefile(stored)
    assert not (half / "vae/config.json").samefile(tmp_path / "saved/vae/config.json")
    again = backbones.load(str(tmp_path / "saved"))  # which saves itself in turn
    backbones.save(again, tmp_path / "saved")
    assert saved.samefile(stored)


def test_without_the_base_an_encoder_is_written_from_memory(half, tmp_path, monkeypatch):
    loaded = backbones.load(str(half))
    kept = load_file(half / "text_encoder" / "model.safetensors")
    half.rename(tmp_path / "elsewhere")
    backbones.save(loaded, tmp_path / "saved")
    assert load_file(tmp_path / "saved/text_encoder/model.safetensors").keys() == kept.keys()

    def no_links(*_: object) -> None:
        raise OSError

    (tmp_path / "elsewhere").rename(half)
    monkeypatch.setattr(os, "link", no_links)  # another disk
    backbones.save(loaded, tmp_path / "copied")
    copied = tmp_path / "copied/text_encoder/model.safetensors"
    assert copied.read_bytes() == (half / "text_encoder/model.safetensors").read_bytes()
    assert copied.stat().st_nlink == 1
