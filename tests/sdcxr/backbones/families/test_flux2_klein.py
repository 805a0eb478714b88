"""FLUX.2-klein beyond the contract: its limits at full size, its times, its latents."""

import json
import math
from pathlib import Path

import pytest
import torch

from sdcxr import backbones
from sdcxr.backbones.flux2_klein import positions, time_shift
from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError
from tests.sdcxr.backbones.families.conftest import save_base, tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base("flux2_klein", tmp_path_factory.mktemp("klein") / "klein")


def test_at_full_size_only_adapters_with_gradient_checkpointing_are_tuned(folder):
    backbone = backbones.load(str(folder))
    backbone.adapt(TrainConfig(tune="unet"))  # a small one may
    backbone.parts["unet"] = tiny("flux2_klein").published["4B"].build()
    with pytest.raises(UserError, match=r"--method full: .* 3\.9 billion parameters takes 70 GB .* \(85 GB with"):
        backbone.adapt(TrainConfig(tune="unet", gradient_checkpointing=True))
    with pytest.raises(UserError, match="trained with --gradient_checkpointing only"):
        backbone.adapt(TrainConfig(tune="unet", method="unet=lora"))
    backbone.adapt(TrainConfig(tune="unet", method="lora", gradient_checkpointing=True))


def test_a_distilled_one_is_refused(folder, tmp_path):
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps(json.loads((folder / "model_index.json").read_text()) | {"is_distilled": True}))
    for part in folder.iterdir():
        if part.is_dir():
            (tmp_path / part.name).symlink_to(part)
    with pytest.raises(UserError, match=r"distilled to a few steps, .*: give FLUX\.2-klein-base-4B"):
        backbones.load(str(tmp_path))


@pytest.mark.parametrize("tokens", [256, 1024, 4096])
def test_the_shift_is_that_of_the_pipeline_at_200_steps(folder, tokens):
    from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

    assert time_shift(tokens) == pytest.approx(compute_empirical_mu(tokens, 200))
    side = 16 * math.isqrt(tokens)
    process = backbones.load(str(folder)).noise_process(TrainConfig(tune="unet", resolution=side))
    assert process.shift == pytest.approx(math.exp(time_shift(tokens))) and process.time_scale == 1


def test_positions_and_patches_are_the_pipelines(folder):
    from diffusers import Flux2KleinPipeline

    cpu = torch.device("cpu")
    assert torch.equal(positions(3, 5, 1, cpu), Flux2KleinPipeline._prepare_latent_ids(torch.ones(1, 2, 3, 5))[0])
    assert torch.equal(positions(1, 1, 7, cpu), Flux2KleinPipeline._prepare_text_ids(torch.ones(1, 7, 2))[0])
    codec = backbones.load(str(folder)).codec
    mean, std = codec.statistics()
    latents = torch.randn(2, *codec.posterior_shape(64), generator=torch.Generator().manual_seed(0))
    assert codec.posterior_shape(64) != codec.latent_shape(64)
    torch.testing.assert_close(codec.to_model(latents) * std + mean, Flux2KleinPipeline._patchify_latents(latents))
