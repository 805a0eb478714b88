"""PixArt-Σ beyond the contract: folders as they are published, and what is refused."""

from pathlib import Path

import pytest
import torch

from sdcxr import backbones
from sdcxr.generation.sampler import Sampler
from sdcxr.runtime.errors import UserError
from tests.sdcxr.backbones.families.conftest import change, save_base


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_base("pixart", tmp_path / "pixart")


def test_the_former_name_of_the_class_loads(folder):
    before = backbones.load(str(folder)).parts["unet"].state_dict()
    published = {"_class_name": "Transformer2DModel", "num_vector_embeds": None, "only_cross_attention": False}
    change(folder / "transformer" / "config.json", **published)
    change(folder / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    after = backbones.load(str(folder)).parts["unet"].state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"use_additional_conditions": True}, "its transformer takes sizes .* as PixArt-α does: give PixArt-Σ"),
        ({"caption_channels": 48}, "takes states 48 wide .*, those of its text encoder are 32 wide"),
    ],
)
def test_parts_that_do_not_fit_are_refused(folder, values, message):
    transformer = backbones.load(str(folder)).parts["unet"]
    type(transformer).from_config(transformer.config, **values).save_pretrained(folder / "transformer")
    with pytest.raises(UserError, match=message):
        backbones.load(str(folder))


def test_an_encoder_stored_in_bfloat16_leaves_latents_and_network_in_float32(folder, monkeypatch):
    encoder = backbones.load(str(folder)).parts["text"]
    encoder.to(torch.bfloat16).save_pretrained(folder / "text_encoder")
    backbone = backbones.load(str(folder))
    assert backbone.parts["text"].dtype == torch.bfloat16 and backbone.parts["unet"].dtype == torch.float32
    seen = set()
    step = type(backbone.parts["unet"]).forward
    monkeypatch.setattr(
        type(backbone.parts["unet"]), "forward", lambda net, x, **named: (seen.add(x.dtype), step(net, x, **named))[1]
    )
    assert Sampler(backbone, num_inference_steps=2).sample(["small effusion"], [0]).shape == (1, 64, 64)
    assert seen == {torch.float32}
