"""The embedded base: weights of the package, the same on every machine, with even latents."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from sdcxr import backbones
from sdcxr.embedded import base as tiny
from sdcxr.io.files import checksum
from sdcxr.io.pixels import read_pixels
from sdcxr.runtime.errors import UserError
from sdcxr.text.clip_tokens import byte_letters, clip_tokenizer


def test_the_same_seed_gives_the_same_weights_and_another_one_others():
    parts = [tiny.tiny(seed) for seed in (0, 0, 1)]
    for name in tiny.PARTS:
        states = [part.parts[name].state_dict() for part in parts]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
        assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])
    assert parts[0].resolution == tiny.RESOLUTION


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
    monkeypatch.setattr(tiny, "RESOLUTION", 32)
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


def packed(folder: Path) -> tuple[Any, Path]:
    """A model whose weights training moved, among them the embeddings of three words, and its file."""
    model = tiny.tiny(5)
    torch.manual_seed(0)
    with torch.no_grad():
        for name in ("unet", "vae"):
            for value in model.parts[name].parameters():
                value += 0.01 * torch.randn_like(value)
        model.parts["text"].get_input_embeddings().weight[[7, 320, 49407]] += 0.1
    path = folder / "base.safetensors"
    tiny.pack(model, path, 5)
    (folder / "SHA256SUMS.txt").write_text(f"{checksum(path)}  {path.name}\n")
    return model, path


def test_what_is_packed_is_unpacked_to_half_precision(tmp_path):
    model, path = packed(tmp_path)
    again = tiny.unpack(path)
    for part in tiny.PARTS:
        other = again.parts[part].state_dict()
        for name, value in model.parts[part].state_dict().items():
            torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-6)


def test_only_the_words_that_moved_are_packed(tmp_path):
    _, path = packed(tmp_path)
    with safe_open(path, "pt") as file:
        assert file.get_tensor("word_ids").tolist() == [7, 320, 49407]
        assert not [name for name in file.keys() if "token_embedding" in name]  # noqa: SIM118


def test_the_package_carries_a_small_base_that_was_trained():
    assert tiny.WEIGHTS.stat().st_size < 8e6
    trained, random = tiny.unpack(tiny.WEIGHTS), tiny.tiny(0)
    for part in tiny.PARTS:
        pairs = zip(trained.parts[part].parameters(), random.parts[part].parameters(), strict=True)
        assert all(not torch.equal(a, b) for a, b in pairs)
    assert trained.vae.config.scaling_factor == 1.0


def test_a_damaged_package_is_one_line(tmp_path):
    path = tmp_path / "base.safetensors"
    path.write_bytes(tiny.WEIGHTS.read_bytes()[:-1] + b"x")
    shutil.copy(tiny.WEIGHTS.parent / "SHA256SUMS.txt", tmp_path)
    for damaged in (path, tmp_path / "nothing.safetensors"):
        with pytest.raises(UserError, match="is missing or damaged: install sdcxr again"):
            tiny.unpack(damaged)


def test_the_base_is_unpacked_once(tmp_path, monkeypatch):
    folder = tiny.ensure_base(tmp_path)
    assert folder == tmp_path / f"tiny-v{tiny.VERSION}" and [path.name for path in tmp_path.iterdir()] == [folder.name]
    weights, loaded = tiny.unpack(tiny.WEIGHTS), backbones.load(str(folder))
    for part in tiny.PARTS:
        pairs = zip(weights.parts[part].parameters(), loaded.parts[part].parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    monkeypatch.setattr(tiny, "unpack", lambda path: pytest.fail("unpacked again"))
    assert tiny.ensure_base(tmp_path) == folder


def test_no_signal_is_left_at_the_last_timestep():
    def last(shift: float) -> float:
        schedule = tiny.schedule(shift)
        return float(schedule.alphas_cumprod[-1])

    assert last(1.0) == pytest.approx(0.0047, abs=1e-4)  # Stable Diffusion's
    assert last(4.0) < 1e-8
    assert float(tiny.unpack(tiny.WEIGHTS).scheduler.alphas_cumprod[-1]) < 1e-8
