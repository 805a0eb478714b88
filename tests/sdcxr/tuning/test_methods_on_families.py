"""Every method on the denoisers and CLIPs of the families, through the whole model; LoRA for diffusers."""

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdcxr import backbones
from sdcxr.config import TrainConfig
from sdcxr.generation.models import locate_model, with_adapters
from sdcxr.generation.sampler import Sampler
from sdcxr.io.pixels import to_grey
from sdcxr.runtime.errors import UserError
from sdcxr.tuning import find_method
from sdcxr.tuning.base import apply_method
from sdcxr.tuning.registry import METHODS, fitting_methods
from tests.sdcxr.backbones.families.conftest import save_base

IN_QUICK_TESTS = ("pixart", "unet")
FURTHER = (
    *(("sdxl", "unet"), ("sdxl", "text"), ("sdxl", "text_2"), ("sd3", "unet"), ("sd3", "text")),
    ("flux2_klein", "unet"),
)
PLACES = [IN_QUICK_TESTS, *(pytest.param(*place, marks=pytest.mark.slow) for place in FURTHER)]
TEXTS = ["small left effusion", "no acute process"]
# Softmax does not feel a bias of all keys, and nothing reads what the last block makes of the text.
WITHOUT_EFFECT = ("k_proj.bias", "to_k.bias", "blocks.1.attn.add_q_proj", "blocks.1.attn.norm_added_q")
# What a family has nothing for, or not without more settings, and what the message says.
REFUSED = {
    ("bias", "flux2_klein"): "nothing that it trains",
    ("norm", "pixart"): "nothing that it trains",
    ("ia3", "flux2_klein"): "give --lora_targets",
    ("boft", "flux2_klein"): "the 288 outputs of .* do not divide",
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    names = dict.fromkeys(name for name, _ in (IN_QUICK_TESTS, *FURTHER))
    return {name: save_base(name, tmp_path_factory.mktemp("family") / name) for name in names}


@pytest.fixture(scope="module")
def loaded(bases) -> Any:
    return functools.cache(lambda name: backbones.load(str(bases[name])))


def answer(backbone: Any) -> Tensor:
    """What the denoiser answers to fixed latents and texts."""
    draws = torch.Generator().manual_seed(0)
    tokens = backbone.on_device(backbone.tokenize(TEXTS)[0])
    x_t = torch.randn(2, *backbone.codec.latent_shape(64), generator=draws)
    answered: Tensor = backbone.denoise(x_t, torch.tensor([100, 700]), backbone.encode_text(tokens))
    return answered


@pytest.mark.parametrize(("family", "part"), PLACES)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_begins_at_the_base_trains_what_it_names_and_merges(loaded, family, part, name):
    backbone = loaded(family)
    plain = backbone.parts[part]
    if name not in fitting_methods(plain):
        pytest.skip(f"{name} does not serve {type(plain).__name__}")
    method, module = find_method(name), copy.deepcopy(plain)
    config = TrainConfig(tune=part.partition("_")[0], method=name, max_train_steps=20)
    if why := REFUSED.get((name, family)):
        with pytest.raises(UserError, match=why):
            apply_method(method, module, config)
        return
    try:
        expected = answer(backbone).detach()
        backbone.parts[part] = module
        apply_method(method, module, config)
        trained = {key: p for key, p in module.named_parameters() if p.requires_grad}
        assert not any(key.startswith(piece) for piece in getattr(plain, "unreached", ()) for key in trained)
        torch.testing.assert_close(answer(backbone).detach(), expected, rtol=1e-4, atol=1e-5)
        optimizer, reached = torch.optim.Adam(trained.values(), lr=1e-2), set()
        for step in (1, 2, 3):
            answer(backbone).square().mean().backward()
            assert all(p.grad is not None for p in trained.values())  # which several processes wait for
            reached |= {key for key, p in trained.items() if p.grad is not None and bool((p.grad != 0).any())}
            optimizer.step()
            method.after_step(module, step, config)
            optimizer.zero_grad()
        assert {key for key in trained.keys() - reached if not any(word in key for word in WITHOUT_EFFECT)} == set()
        adapted = answer(backbone).detach()
        assert (adapted - expected).abs().max() > 1e-4
        backbone.parts[part] = merged = method.merge(module)
        assert merged.state_dict().keys() == plain.state_dict().keys()
        torch.testing.assert_close(answer(backbone).detach(), adapted, rtol=1e-3, atol=1e-4)
    finally:
        backbone.parts[part] = plain


LORA = {"tune": "unet+text", "method": "lora", "lora_rank": 2, "lora_alpha": 8.0, "learning_rate": 0.02}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "own", "call"),
    [
        ("sdxl", {}, {}),
        ("sd3", {}, {"max_sequence_length": 77}),
        ("sd3", {"text_length": 100}, {"max_sequence_length": 100}),
    ],
)
def test_diffusers_reads_lora_of_all_parts(bases, train_micro, tmp_path, family, own, call):
    from diffusers import DiffusionPipeline

    run = tmp_path / "run"
    train_micro(run, **LORA | own, base=str(bases[family]), resolution=64)
    ours = Sampler.load(str(run), num_inference_steps=3)
    image = ours.sample([TEXTS[0]], [3])[0].astype(int)
    pipe = DiffusionPipeline.from_pretrained(bases[family])
    pipe.set_progress_bar_config(disable=True)
    call = call | {"num_inference_steps": 3, "guidance_scale": ours.guidance_scale, "height": 64, "width": 64}
    theirs = []
    for folder in (None, run / "adapter"):
        if folder is not None:
            pipe.load_lora_weights(folder)
        generator = torch.Generator("cpu").manual_seed(3)
        found = pipe(TEXTS[0], generator=generator, output_type="pt", **call).images
        theirs.append(to_grey(found * 2 - 1).numpy()[0].astype(int))
    assert np.abs(theirs[1] - image).max() <= 1
    assert np.abs(theirs[0] - image).max() > 5
    # And so does generate.py put it into the base.
    backbone = with_adapters(locate_model(str(bases[family])), str(run)).load(torch.float32)
    again = Sampler(backbone, num_inference_steps=3).sample([TEXTS[0]], [3])[0].astype(int)
    assert np.abs(again - image).max() <= 1
