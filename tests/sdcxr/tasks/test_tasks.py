"""The diffusion and the autoencoder task: losses against hand computations, parts, levers, and what they refuse."""

import dataclasses
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from sdcxr import backbones, tasks
from sdcxr.backbones.stable_diffusion import normalise_in_float32
from sdcxr.config import TrainConfig
from sdcxr.data.stream import Positions, Stream, loader
from sdcxr.generation.sampler import Sampler
from sdcxr.io.pixels import read_pixels
from sdcxr.runtime.errors import UserError
from sdcxr.tasks.autoencoder import lpips_network
from sdcxr.tasks.base import training_rows

CPU = torch.device("cpu")


def config(base: Path | None, data: Path, **changes: Any) -> TrainConfig:
    own: dict[str, Any] = {"base": base and str(base), "data": str(data), "validation_steps": 0}
    if {"unet", "text"} & set(changes.get("tune", "unet+text").split("+")):
        own["caption_dropout"] = 0.0
    return TrainConfig(**(own | changes)).filled()


def first_batch(task: Any, seed: int = 0, n: int = 4) -> dict[str, torch.Tensor]:
    batch = next(iter(loader(Stream(task.examples(), seed), Positions(0, n, n, 0, 1), 0, False)))
    return {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@torch.no_grad()
def test_the_first_loss_is_what_diffusers_own_parts_give(micro_base, micro_base_v, micro_dataset, prediction):
    base = {"epsilon": micro_base, "v_prediction": micro_base_v}[prediction]
    task = tasks.build(config(base, micro_dataset), CPU)
    assert task.process.prediction == prediction
    batch = first_batch(task)

    parts = backbones.load(str(base))
    schedule = DDPMScheduler.from_pretrained(base, subfolder="scheduler")
    stream = Stream(task.examples(), 0)
    for i in range(4):
        row = stream.index(i)
        rows = training_rows(task.config)
        pixels = read_pixels(rows["path"][row], 32)[None].expand(-1, 3, -1, -1)
        posterior = parts.vae.encode(pixels).latent_dist
        latent = (posterior.mean + posterior.std * batch["posterior_noise"][i]) * parts.vae.config.scaling_factor
        timestep, noise = batch["timestep"][i : i + 1], batch["noise"][i : i + 1]
        ids = parts.tokenizer(rows["text"][row], padding="max_length", max_length=77, return_tensors="pt").input_ids
        predicted = parts.unet(
            schedule.add_noise(latent, noise, timestep), timestep, parts.parts["text"](ids)[0]
        ).sample
        wanted = noise if prediction == "epsilon" else schedule.get_velocity(latent, noise, timestep)
        expected = torch.nn.functional.mse_loss(predicted, wanted)
        torch.testing.assert_close(task(batch)[i], expected, rtol=2e-3, atol=1e-4)


@torch.no_grad()
def test_min_snr_weighs_each_sample(micro_base, micro_dataset):
    plain = tasks.build(config(micro_base, micro_dataset), CPU)
    weighted = tasks.build(config(micro_base, micro_dataset, snr_gamma=5.0), CPU)
    batch = first_batch(plain) | {"timestep": torch.tensor([0, 50, 500, 999])}
    alpha = plain.process.alphas_cumprod[batch["timestep"]]
    weights = (5 * (1 - alpha) / alpha).clamp(max=1)
    assert weights[0] < 0.01 and weights[3] == 1
    torch.testing.assert_close(weighted(batch), plain(batch) * weights)


@pytest.mark.parametrize(
    ("tune", "trained"),
    [("unet", {"unet"}), ("text", {"text_encoder"}), ("unet+text", {"unet", "text_encoder"})],
)
def test_gradients_reach_the_chosen_parts_alone(micro_base, micro_dataset, tune, trained):
    rate = {} if tune == "unet" else {"text_encoder_lr": 1e-6}
    task = tasks.build(config(micro_base, micro_dataset, tune=tune, learning_rate=1e-5, **rate), CPU)
    task(first_batch(task)).mean().backward()
    with_gradient = {name.split(".")[0] for name, p in task.named_parameters() if p.grad is not None}
    assert with_gradient == trained
    assert all(p.grad is not None for name, p in task.named_parameters() if name.split(".")[0] in trained)
    rates = {group["name"]: group["lr"] for group in task.groups()}
    assert rates == {name: {"unet": 1e-5, "text": 1e-6}[name] for name in tune.split("+")}
    grouped = {id(p) for group in task.groups() for p in group["params"]}
    assert grouped == {id(p) for p in task.parameters() if p.requires_grad}


def test_recomputed_gradients_are_the_same(micro_base, micro_dataset):
    gradients = []
    for checkpointing in (False, True):
        task = tasks.build(config(micro_base, micro_dataset, gradient_checkpointing=checkpointing), CPU)
        task(first_batch(task)).mean().backward()
        gradients.append({name: p.grad for name, p in task.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_resolutions_that_do_not_divide_are_refused(micro_base, micro_dataset):
    with pytest.raises(UserError, match="--resolution 40"):
        tasks.build(config(micro_base, micro_dataset, resolution=40), CPU)
    with pytest.raises(UserError, match="--resolution 36"):
        tasks.build(config(micro_base, micro_dataset, tune="vae", resolution=36), CPU)


def test_long_captions_are_counted_and_not_shown(micro_base, micro_dataset, capfd, monkeypatch):
    rows = training_rows(config(micro_base, micro_dataset))
    rows.loc[0, "text"] = "secretfinding " * 60
    monkeypatch.setattr(tasks.diffusion, "training_rows", lambda config: rows)
    tasks.build(config(micro_base, micro_dataset), CPU).examples()
    out, err = capfd.readouterr()
    assert "1 of 11 captions are cut to 77 tokens (9.1%)" in out
    assert "secretfinding" not in out + err


@pytest.mark.parametrize("tune", ["unet", "vae"])
def test_a_missing_validation_split_is_said_before_the_training(micro_base, micro_dataset, tmp_path, tune):
    (tmp_path / "train").symlink_to(micro_dataset / "train")
    settings = config(micro_base, tmp_path, tune=tune, validation_steps=5)
    with pytest.raises(UserError, match=r"no split 'validation' .*--validation_steps 0"):
        tasks.build(settings, CPU)
    tasks.build(dataclasses.replace(settings, validation_steps=0), CPU)


def test_a_named_cache_takes_both_splits(micro_base, micro_dataset, tmp_path):
    settings = config(micro_base, micro_dataset, latents_dir=str(tmp_path / "cache"), validation_steps=5)
    for _ in range(2):
        task = tasks.build(settings, CPU)
        assert (len(task.examples().ids), len(task.validation_examples().ids)) == (11, 3)


@pytest.mark.parametrize("tune", ["unet", "vae"])
def test_previews_are_pictures_and_the_same_again(micro_base, micro_dataset, tune):
    task = tasks.build(config(micro_base, micro_dataset, tune=tune, validation_steps=5, preview_images=2), CPU)
    pictures = task.preview([0, 1])
    assert task.n_previews == 2
    assert [picture.shape for picture in pictures] == [(32, 32) if tune == "unet" else (66, 32)] * 2
    assert all(picture.dtype == np.uint8 and picture.std() > 0 for picture in pictures)
    if tune == "unet":
        np.testing.assert_array_equal(pictures[1], task.preview([1])[0])


def test_no_previews_are_none(micro_base, micro_dataset):
    assert tasks.build(config(micro_base, micro_dataset), CPU).n_previews == 0
    assert tasks.build(config(micro_base, micro_dataset, tune="vae"), CPU).n_previews == 0


def test_a_subset_is_drawn_by_the_seed(micro_base, micro_dataset):
    rows = [training_rows(config(micro_base, micro_dataset, max_train_samples=6, seed=s)) for s in (0, 0, 1)]
    chosen = [list(part["id"]) for part in rows]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 6 and set(chosen[0]) <= {f"a00-{i}" for i in range(11)}
    with pytest.raises(UserError, match="has only 11 images"):
        training_rows(config(micro_base, micro_dataset, max_train_samples=12))


def test_an_empty_split_is_refused(tmp_path, micro_base):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "metadata.csv").write_text("file_name,text\n")
    with pytest.raises(UserError, match="has no images"):
        training_rows(config(micro_base, tmp_path))


def test_ids_come_from_file_names_where_there_are_no_dicom_ids(tmp_path, micro_base):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "metadata.csv").write_text("file_name,text,dicom_id\na.png,x,\nb/c.png,y,d1\n")
    assert training_rows(config(micro_base, tmp_path))["id"].tolist() == ["a", "d1"]


@torch.no_grad()
def test_autoencoder_loss_is_l1_plus_divergence_per_pixel(micro_base, micro_dataset):
    task = tasks.build(config(micro_base, micro_dataset, tune="vae", vae_part="all", kl_weight=0.5), CPU)
    batch = first_batch(task)
    pixels = batch["pixels"].expand(-1, 3, -1, -1)
    posterior = task.vae.encode(pixels).latent_dist
    decoded = task.vae.decode(posterior.mean + posterior.std * batch["posterior_noise"]).sample
    variance = posterior.std**2
    divergence = 0.5 * (posterior.mean**2 + variance - 1 - variance.log()).sum(dim=(1, 2, 3))
    expected = (decoded - pixels).abs().mean(dim=(1, 2, 3)) + 0.5 * divergence / (3 * 32 * 32)
    torch.testing.assert_close(task(batch), expected, rtol=1e-4, atol=1e-5)


def test_a_tuned_decoder_gets_no_gradient_from_the_encoder(micro_base, micro_dataset):
    task = tasks.build(config(micro_base, micro_dataset, tune="vae"), CPU)
    task(first_batch(task)).mean().backward()
    with_gradient = {name.split(".")[1] for name, p in task.named_parameters() if p.grad is not None}
    assert with_gradient == {"decoder", "post_quant_conv"}


@torch.no_grad()
def test_a_frozen_encoder_of_the_autoencoder_stays_in_float32_under_autocast(micro_base, micro_dataset, monkeypatch):
    previews = {"validation_steps": 1, "preview_images": 1}
    task = tasks.build(config(micro_base, micro_dataset, tune="vae", mixed_precision="bf16", **previews), CPU)
    batch, seen = first_batch(task), []
    decode = task.vae.decode
    monkeypatch.setattr(task.vae, "decode", lambda latents: (seen.append(latents), decode(latents))[1])
    task(batch)
    with torch.autocast("cpu", torch.bfloat16):
        task(batch)
        assert torch.equal(*seen)
        task.preview([0])
    assert seen[2].dtype == torch.float32


def test_lpips_without_package_or_file_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(UserError, match="pip install lpips"):
        lpips_network(None)
    monkeypatch.setitem(sys.modules, "lpips", types.ModuleType("lpips"))
    with pytest.raises(UserError, match=r"--lpips_alexnet None: give the file"):
        lpips_network(None)
    with pytest.raises(UserError, match="give the file"):
        lpips_network(str(tmp_path / "nowhere.pth"))


SOURCES: dict[str, dict[str, Any]] = {
    "in memory": {"cache_in_memory": True},
    "encoded in every step": {"cache_latents": False},
    "channels last": {"channels_last": True},
    "unfused optimizer": {"fused_optimizer": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("lever", list(SOURCES))
def test_levers_of_speed_do_not_change_what_is_learnt(train_micro, tmp_path, read_log, lever):
    """Latents that are not cached are not rounded to float16 either, hence the tolerance."""
    steps = {"tune": "unet+text", "max_train_steps": 4, "adam_epsilon": 1e-4}
    train_micro(tmp_path / "plain", **steps)
    train_micro(tmp_path / "lever", **steps, **SOURCES[lever])
    plain, other = ([row["loss"] for row in read_log(tmp_path / name)] for name in ("plain", "lever"))
    assert other == (plain if lever == "in memory" else pytest.approx(plain, rel=1e-3))


@pytest.mark.slow
def test_without_a_cache_none_is_written(train_micro, tmp_path, micro_dataset):
    data = tmp_path / "data"
    shutil.copytree(micro_dataset, data, ignore=shutil.ignore_patterns(".latents"))
    train_micro(tmp_path / "run", data=str(data), tune="unet", cache_latents=False, validation_steps=1)
    assert not (data / ".latents").exists()


def test_noise_offset_is_one_number_a_channel(micro_base, micro_dataset):
    settings = config(micro_base, micro_dataset)
    plain = first_batch(tasks.build(settings, CPU))["noise"]
    offset = first_batch(tasks.build(dataclasses.replace(settings, noise_offset=0.1), CPU))["noise"] - plain
    assert torch.allclose(offset, offset.mean(dim=(2, 3), keepdim=True), atol=1e-6)
    assert 0.02 < offset.std() < 0.3


def test_zero_terminal_snr_needs_v_prediction(micro_base, micro_dataset):
    settings = config(micro_base, micro_dataset, rescale_betas_zero_snr=True)
    with pytest.raises(UserError, match="--prediction_type v_prediction"):
        tasks.build(settings, CPU)


def test_zero_terminal_snr_ends_without_signal_and_samples_from_there(train_micro, tmp_path):
    settings = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "snr_gamma": 5.0}
    train_micro(tmp_path, tune="unet", **settings)
    scheduler = backbones.load(str(tmp_path)).scheduler
    assert scheduler.config.prediction_type == "v_prediction" and scheduler.config.timestep_spacing == "trailing"
    assert scheduler.alphas_cumprod[-1].item() == pytest.approx(0, abs=1e-7)
    for sampler in ("ddim", "dpm++"):
        loaded = Sampler.load(str(tmp_path), scheduler=sampler, num_inference_steps=4, guidance_scale=3.0)
        assert loaded.sample(["Normal."], [1]).std() > 0
        loaded.pipeline.scheduler.set_timesteps(20)
        assert loaded.pipeline.scheduler.timesteps[0] == 999
    with pytest.raises(UserError, match=r"--scheduler pndm: .* use ddim or dpm"):
        Sampler.load(str(tmp_path), scheduler="pndm")


def test_a_base_can_be_taught_to_predict_v(train_micro, tmp_path):
    train_micro(tmp_path, tune="unet", prediction_type="v_prediction")
    parts = backbones.load(str(tmp_path))
    assert parts.scheduler.config.prediction_type == "v_prediction"
    assert type(parts.scheduler).__name__ == "PNDMScheduler"


def test_bf16_on_a_cpu_has_plain_attention_and_exact_normalisation(micro_base, micro_dataset):
    task = tasks.build(config(micro_base, micro_dataset, tune="unet+text", mixed_precision="bf16"), CPU)
    assert {type(each).__name__ for each in task.unet.attn_processors.values()} == {"AttnProcessor"}
    norms = [module for module in task.modules() if isinstance(module, torch.nn.LayerNorm)]
    seen = []
    for norm in norms:
        norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    batch = first_batch(task)
    exact = tasks.build(config(micro_base, micro_dataset), CPU)(batch)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(task(batch), exact, rtol=2e-2, atol=0)
    assert len(seen) == len(norms) and set(seen) == {torch.float32}


def test_the_bias_of_a_normalisation_in_bf16_has_its_gradient():
    """PyTorch's CPU kernel sums it up in bfloat16, where it is off by several percent."""

    def gradient(precision: str) -> torch.Tensor:
        torch.manual_seed(0)
        norm, linear = torch.nn.LayerNorm(96), torch.nn.Linear(96, 96)
        x, y = torch.randn(2, 16, 64, 96)
        if precision == "bf16 mended":
            normalise_in_float32(norm)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision != "fp32"):
            loss = (linear(norm(linear(x))).float() - y).square().mean()
        loss.backward()
        return norm.bias.grad

    exact = gradient("fp32")
    assert (gradient("bf16 mended") - exact).norm() < 0.01 * exact.norm()
    assert (gradient("bf16") - exact).norm() > 0.02 * exact.norm()


def test_each_part_has_its_learning_rate(micro_base, micro_dataset):
    def rates(**settings: Any) -> dict[str, float]:
        groups = tasks.build(config(micro_base, micro_dataset, learning_rate=1e-3, **settings), CPU).groups()
        return {group["name"]: group["lr"] for group in groups}

    assert rates(tune="unet+text") == {"unet": 1e-3, "text": 1e-3}
    assert rates(tune="unet+text", text_encoder_lr=1e-4) == {"unet": 1e-3, "text": 1e-4}
    assert rates(tune="vae") == {"vae": 1e-3}
    assert rates(tune="vae", vae_lr=1e-5) == {"vae": 1e-5}
