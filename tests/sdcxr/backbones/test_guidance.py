"""Sampling computes once what the halves of guidance share, with the same results, and leaves the network as it was."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel

from sdcxr.backbones.guidance import before_text, shared_guidance

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"


def small_unet(*down: str) -> UNet2DConditionModel:
    up = [name.replace("Down", "Up") for name in reversed(down)]
    widths = (8, 16, 16)[: len(down)]
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        down_block_types=down,
        up_block_types=tuple(up),
        block_out_channels=widths,
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
    ).eval()


@pytest.mark.parametrize(
    ("down", "parts"), [((CROSS, PLAIN), 3), ((PLAIN, CROSS), 4), ((PLAIN, PLAIN, CROSS), 5), ((PLAIN, PLAIN), 3)]
)
@torch.no_grad()
def test_the_halves_share_what_comes_before_the_texts(down, parts):
    unet = small_unet(*down)
    assert len(before_text(unet)) == parts
    x, texts = torch.randn(3, 4, 8, 8).repeat(2, 1, 1, 1), torch.randn(6, 5, 8)
    expected = unet(x, 500, texts).sample
    sizes = []
    counter = unet.conv_in.register_forward_hook(lambda _part, inputs, _output: sizes.append(len(inputs[0])))
    with shared_guidance(unet, True):
        torch.testing.assert_close(unet(x, 500, texts).sample, expected, rtol=1e-5, atol=1e-5)
    with shared_guidance(unet, False):
        torch.testing.assert_close(unet(x, 500, texts).sample, expected, rtol=1e-5, atol=1e-5)
    counter.remove()
    assert sizes[-1] == 6 and 3 in sizes
    assert torch.equal(unet(x, 500, texts).sample, expected)
    assert not any("forward" in vars(module) or module._forward_hooks for module in unet.modules())


@torch.no_grad()
def test_other_texts_have_their_own_keys_and_values():
    unet, x = small_unet(CROSS, PLAIN), torch.randn(2, 4, 8, 8)
    texts = [torch.randn(2, 5, 8), torch.randn(2, 5, 8)]
    expected = [unet(x, 500, each).sample for each in texts]
    with shared_guidance(unet, False):
        for i in (0, 0, 1, 0):
            torch.testing.assert_close(unet(x, 500, texts[i]).sample, expected[i], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["addition_embed_type", "class_embed_type", "time_cond_proj_dim"])
def test_nothing_is_shared_where_the_embedding_of_the_timestep_may_differ(name):
    assert before_text(SimpleNamespace(config=SimpleNamespace(**{name: "text"}))) == []
