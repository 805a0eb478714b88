"""What is Stable Diffusion 3's own: T5 that never trains, its length, parts that do not fit."""

import shutil
from pathlib import Path

import pytest
import torch

from sdcxr import backbones
from sdcxr.config import TrainConfig
from sdcxr.generation.sampler import Sampler
from sdcxr.runtime.errors import UserError
from tests.sdcxr.backbones.families.conftest import change, save_base


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_base("sd3", tmp_path_factory.mktemp("sd3") / "base")


@pytest.fixture
def copy(base, tmp_path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "base"))


@torch.no_grad()
def test_a_length_of_t5_is_kept_in_the_pipeline(base, tmp_path):
    backbone = backbones.load(str(base))
    assert backbone.unconditional(1).hidden.shape[1] == 77 + 77
    backbone.adapt(TrainConfig(tune="unet", text_length=200))
    backbones.save(backbone, tmp_path / "saved")
    assert backbones.load(str(tmp_path / "saved")).unconditional(1).hidden.shape[1] == 77 + 200
    with pytest.raises(UserError, match="--text_length 513: the pipeline takes at most 512 tokens of T5"):
        backbone.adapt(TrainConfig(tune="unet", text_length=513))


def test_t5_keeps_its_precision_and_its_file(base, copy, tmp_path):
    from transformers import T5EncoderModel

    T5EncoderModel.from_pretrained(base / "text_encoder_3").bfloat16().save_pretrained(copy / "text_encoder_3")
    backbone = backbones.load(str(copy))
    assert backbone.parts["text_3"].dtype == torch.bfloat16 and backbone.parts["text_2"].dtype == torch.float32
    assert Sampler(backbone, num_inference_steps=2).sample(["effusion"], [1]).shape == (1, 64, 64)
    backbones.save(backbone, tmp_path / "saved")
    file = "text_encoder_3/model.safetensors"
    assert (tmp_path / "saved" / file).samefile(copy / file)


def test_a_missing_t5_is_one_line(copy):
    change(copy / "model_index.json", text_encoder_3=[None, None])
    shutil.rmtree(copy / "text_encoder_3")
    with pytest.raises(UserError, match="has no part 'text_encoder_3': copy the whole pipeline") as refused:
        backbones.load(str(copy))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("scheduler/scheduler_config.json", {"use_dynamic_shifting": True}, "has no fixed shift of time"),
        ("text_encoder/config.json", {"projection_dim": 48}, "cannot be loaded"),
        ("vae/config.json", {"latent_channels": 4}, "cannot be loaded"),
    ],
)
def test_parts_that_do_not_fit_are_refused(copy, file, values, message):
    change(copy / file, **values)
    with pytest.raises(UserError, match=message) as refused:
        backbones.load(str(copy))
    assert "\n" not in str(refused.value)
