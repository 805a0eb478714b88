"""Numbers of trained parameters in Stable Diffusion 1.5's UNet, to the digit, and which modules they are of."""

import re

import pytest
import torch
from torch import nn

from sdcxr.config import TrainConfig
from sdcxr.training import checkpoint
from sdcxr.training.ema import EMA
from sdcxr.tuning import find_method
from sdcxr.tuning.base import apply_method
from sdcxr.tuning.svdiff import SpectralLayer

COUNTS = {
    "full": (859_520_964, r"."),
    "attention": (267_239_360, r"attentions\.\d+\."),
    "attention_layers": (93_536_640, r"attentions\.\d+\.transformer_blocks\.\d+\.attn[12]\."),
    "bias": (343_684, r"bias$"),
    "norm": (200_320, r"norm\w*\.(weight|bias)$"),
    "bias+norm": (443_844, r"bias$|norm\w*\.weight$"),
    "bias+norm+attention": (267_421_124, r"attentions\.\d+\.|bias$|norm\w*\.weight$"),
    "svdiff": (222_696, r"\.delta$"),
    "difffit": (581_124, r"bias$|norm\w*\.weight$|\.gamma$"),
}


def unet() -> nn.Module:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(cross_attention_dim=768)  # type: ignore[no-any-return]


def text_encoder() -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    with torch.device("meta"):
        return CLIPTextModel(CLIPTextConfig(**sizes))


def trained(module: nn.Module, method: str) -> dict[str, int]:
    with torch.device("meta"):
        apply_method(find_method(method), module, TrainConfig())
    return {name: p.numel() for name, p in module.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("method", COUNTS)
def test_the_unet_of_stable_diffusion(method):
    module = unet()
    plain = {name for name, _ in module.named_parameters()}
    sizes = trained(module, method)
    expected, pattern = COUNTS[method]
    assert sum(sizes.values()) == expected
    assert all(re.search(pattern, name) for name in sizes)
    # And all of that name.
    named = {name for name in plain if re.search(pattern, name)}
    assert named - sizes.keys() == set() and (method in ("svdiff", "difffit") or sizes.keys() == named)


def test_difffit_has_eleven_gains_a_block():
    gains = {name: n for name, n in trained(unet(), "difffit").items() if name.endswith(".gamma")}
    assert len(gains) == 16 * 11 and sum(gains.values()) == 137_280
    block = "mid_block.attentions.0.transformer_blocks.0."
    own = {name.removeprefix(block) for name in gains if name.startswith(block)}
    layers = ("to_q", "to_k", "to_v", "to_out.0")
    assert own == {f"attn{i}.{layer}.gamma" for i in (1, 2) for layer in layers} | {
        "attn1.gamma",
        "attn2.gamma",
        "ff.gamma",
    }


def test_svdiff_keeps_factors_in_place_of_the_weights():
    """4.3 GB in fp32 where the weights were 3.4, not beside them."""
    module = unet()
    before = sum(p.numel() for p in module.parameters())
    assert len(trained(module, "svdiff")) == 184 + 98
    layers = [layer for layer in module.modules() if isinstance(layer, SpectralLayer)]
    assert sum(layer.left.numel() + layer.right.numel() for layer in layers) == 1_081_298_720
    assert sum(p.numel() for p in module.parameters()) < 1.27 * before
    assert all(layer._layer[0].weight is None for layer in layers)


# CLIP ViT-L/14's, by hand: 12 layers of width 768 with 4 projections, an MLP of 3072 and 2 norms; a norm at the end.
TEXT_COUNTS = {
    "attention": 12 * 4 * (768 * 768 + 768),
    "bias": 12 * (4 * 768 + 3072 + 768 + 2 * 768) + 768,
    "norm": (12 * 2 + 1) * 2 * 768,
    "svdiff": 12 * 6 * 768,
    "difffit": 12 * (4 * 768 + 3072 + 768 + 4 * 768) + 2 * 768 + 12 * 6 * 768,
}


@pytest.mark.parametrize("method", TEXT_COUNTS)
def test_the_text_encoder_of_stable_diffusion(method):
    assert sum(trained(text_encoder(), method).values()) == TEXT_COUNTS[method]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "svdiff"])
def test_a_checkpoint_at_the_size_of_stable_diffusion_is_megabytes(tmp_path, method):
    task = nn.Module()
    task.unet = unet().requires_grad_(False)
    with torch.device("meta"):
        apply_method(find_method(method), task.unet, TrainConfig())
    for module in task.modules():  # what trains gets values, what is frozen has none
        for name, p in module._parameters.items():
            if p is not None and p.requires_grad:
                module._parameters[name] = nn.Parameter(torch.rand(p.shape))
    chosen = [p for p in task.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(chosen, lr=1e-3)
    for p in chosen:
        p.grad = torch.ones_like(p)
    optimizer.step()
    checkpoint.save(tmp_path, 1, task, optimizer, EMA(task, 0.9), keep=1)
    adapter = 4 * sum(p.numel() for p in chosen)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "checkpoint-1").iterdir()}
    assert adapter <= sizes["model.safetensors"] <= 1.1 * adapter + 1e5  # names and shapes
    assert sum(sizes.values()) - sizes["optimizer.safetensors"] < 3 * adapter
    assert sum(sizes.values()) < 20e6
