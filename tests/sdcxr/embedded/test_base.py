"""The embedded base: the same on every machine, built once, with even latents."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sdcxr import backbones
from sdcxr.backbones.text_encoders import byte_letters, clip_tokenizer
from sdcxr.embedded import base as tiny
from sdcxr.io.pixels import read_pixels
from sdcxr.runtime.errors import UserError


def test_the_same_seed_gives_the_same_weights_and_another_one_others():
    parts = [tiny.tiny(seed) for seed in (0, 0, 1)]
    for name in ("unet", "vae", "text"):
        states = [part.parts[name].state_dict() for part in parts]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
        assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])
    assert parts[0].resolution == tiny.TINY_RESOLUTION


def test_vocabulary_is_clips():
    vocabulary = clip_tokenizer().get_vocab()
    assert len(vocabulary) == 49408
    known = {"!": 0, "~": 93, "!</w>": 256, "the</w>": 518, "<|startoftext|>": 49406, "<|endoftext|>": 49407}
    assert {word: vocabulary[word] for word in known} == known
    assert len(set(byte_letters())) == 256


def test_a_missing_vocabulary_is_one_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install open_clip_torch"):
        clip_tokenizer()


@torch.no_grad()
def moments(vae: Any, data: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean and deviation of the latents of the training images, and what is decoded from the means."""
    files = sorted((data / "train").glob("*.png"))
    pixels = torch.stack([read_pixels(file, 32) for file in files]).expand(-1, 3, -1, -1)
    posterior = vae.encode(pixels).latent_dist
    return posterior.mean, posterior.std, vae.decode(posterior.mean).sample


def test_standardised_latents_are_even_and_decode_to_the_same_images(micro_base, micro_dataset, monkeypatch):
    monkeypatch.setattr(tiny, "TINY_RESOLUTION", 32)
    vae = backbones.load(str(micro_base)).vae
    mean, std, decoded = moments(vae, micro_dataset)
    tiny.standardise(vae, micro_dataset)
    new_mean, new_std, new_decoded = moments(vae, micro_dataset)
    torch.testing.assert_close(new_mean.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(new_mean.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)
    scale = mean.std(dim=(0, 2, 3)).view(1, -1, 1, 1)
    torch.testing.assert_close(new_std * scale, std, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(new_decoded, decoded, rtol=1e-3, atol=1e-4)
    assert vae.config.scaling_factor == 1.0


@pytest.fixture
def small(micro_base, monkeypatch):
    """A build of a second: the micro parts, two steps."""
    monkeypatch.setattr(tiny, "TINY_RESOLUTION", 32)
    monkeypatch.setattr(tiny, "tiny", lambda: backbones.load(str(micro_base)))
    monkeypatch.setitem(tiny.VAE_TRAINING, "max_train_steps", 2)


def test_the_base_is_built_once(small, micro_dataset, micro_base, tmp_path, monkeypatch, capfd):
    folder = tiny.ensure_base(micro_dataset, tmp_path)
    assert folder == tmp_path / f"tiny-v{tiny.VERSION}" and [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert "building the embedded tiny base once" in capfd.readouterr().out
    built, start = backbones.load(str(folder)), backbones.load(str(micro_base))
    assert not torch.equal(built.vae.encoder.conv_in.weight, start.vae.encoder.conv_in.weight)
    assert torch.equal(built.unet.conv_in.weight, start.unet.conv_in.weight)
    monkeypatch.setattr(tiny, "train", lambda config: pytest.fail("built again"))
    assert tiny.ensure_base(micro_dataset, tmp_path) == folder
    assert capfd.readouterr().out == ""


def test_a_build_that_was_stopped_goes_on(small, micro_dataset, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(tiny, "train", lambda config: 143)
        with pytest.raises(SystemExit) as stopped:
            tiny.ensure_base(micro_dataset, tmp_path)
    assert stopped.value.code == 143
    assert (tiny.ensure_base(micro_dataset, tmp_path) / "model_index.json").is_file()
