"""Stable Diffusion XL's own: sizes, zeros without a text, the layer that no state passes, parts that do not fit."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sdcxr import backbones
from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError
from sdcxr.tuning import tune
from tests.sdcxr.backbones.families.conftest import change, save_base


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_base("sdxl", tmp_path_factory.mktemp("sdxl") / "base")


@pytest.fixture
def copy(base, tmp_path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "base"))


def embedded(backbone: Any, texts: list[str], **settings: Any) -> Any:
    return backbone.encode_text(backbone.on_device(backbone.tokenize(texts)[0]), **settings)


@torch.no_grad()
def test_the_unconditional_input_is_zeros_only_where_the_pipeline_says_so(base, copy):
    dropped, empty = backbones.load(str(base)).unconditional(2), embedded(backbones.load(str(base)), ["", ""])
    assert not dropped.hidden.any() and not dropped.pooled.any() and empty.hidden.any()
    change(copy / "model_index.json", force_zeros_for_empty_prompt=False)
    backbone = backbones.load(str(copy))
    assert torch.equal(backbone.unconditional(2).hidden, empty.hidden)
    backbones.save(backbone, saved := copy.with_name("saved"))
    assert json.loads((saved / "model_index.json").read_text())["force_zeros_for_empty_prompt"] is False


@torch.no_grad()
def test_sizes_are_those_that_the_plain_pipeline_gives(base, monkeypatch):
    from diffusers import DiffusionPipeline

    backbone, pipe = backbones.load(str(base)), DiffusionPipeline.from_pretrained(base)
    given: list[dict[str, torch.Tensor]] = []

    def listen(*_: Any, added_cond_kwargs: dict[str, torch.Tensor], **__: Any) -> tuple[torch.Tensor]:
        given.append(added_cond_kwargs)
        return (torch.zeros(1, 4, 12, 12),)

    for unet in (backbone.parts["unet"], pipe.unet):
        monkeypatch.setattr(unet, "forward", listen)
    conditioning = embedded(backbone, ["effusion"])
    backbone.denoise(torch.zeros(1, 4, 12, 12), torch.tensor([3]), conditioning)
    pipe("effusion", height=96, width=96, num_inference_steps=1, guidance_scale=1.0, output_type="latent")
    assert given[0]["time_ids"].tolist() == given[1]["time_ids"].tolist() == [[96, 96, 0, 0, 96, 96]]
    assert torch.equal(given[0]["text_embeds"], given[1]["text_embeds"])


@torch.no_grad()
def test_clip_skip_counts_as_in_the_plain_pipeline(base):
    from diffusers import DiffusionPipeline

    backbone, pipe = backbones.load(str(base)), DiffusionPipeline.from_pretrained(base)
    hidden, *_ = pipe.encode_prompt("effusion", do_classifier_free_guidance=False, clip_skip=1)
    assert torch.equal(embedded(backbone, ["effusion"], clip_skip=1).hidden, hidden)
    with pytest.raises(UserError, match="--clip_skip 2: this text encoder can leave out at most 1"):
        embedded(backbone, ["effusion"], clip_skip=2)


def test_what_no_state_passes_stays_frozen(base):
    backbone = backbones.load(str(base))
    tune(backbone, TrainConfig(tune="text"))
    frozen = {name for name, p in backbone.parts["text"].named_parameters() if not p.requires_grad}
    assert all(name.startswith(("encoder.layers.1.", "final_layer_norm.")) for name in frozen)
    assert len(frozen) == 2 * (4 + 2 + 2 + 1)  # projections, layers of the MLP, norms, the last norm
    assert all(p.requires_grad for p in backbone.parts["text_2"].parameters())


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("unet/config.json", {"addition_embed_type": None}, "the weights of unet hold more"),
        ("vae/config.json", {"latents_mean": [0.0] * 4}, "its VAE has latents_mean"),
        ("scheduler/scheduler_config.json", {"use_flow_sigmas": True}, "has no noise schedule of a diffusion model"),
    ],
)
def test_parts_that_do_not_fit_are_refused(copy, file, values, message):
    change(copy / file, **values)
    with pytest.raises(UserError, match=message) as refused:
        backbones.load(str(copy))
    assert "\n" not in str(refused.value)
