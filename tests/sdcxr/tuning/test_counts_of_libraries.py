"""Parameters that train by methods of libraries, on the meta device, to the digit (arXiv 2305.08252 and its code)."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sdcxr.config import TrainConfig
from sdcxr.tuning.base import apply_method
from sdcxr.tuning.lycoris_methods import LYCORIS_METHODS
from sdcxr.tuning.peft_methods import PEFT_METHODS

METHODS = {method.name: method for method in (*PEFT_METHODS, *LYCORIS_METHODS)}
FEEDFORWARD = ",proj_in,proj_out,ff.net.0.proj,ff.net.2"
CONVOLUTIONS = FEEDFORWARD + ",conv1,conv2,conv_shortcut,time_emb_proj,downsamplers.0.conv,upsamplers.0.conv"
PROJECTIONS = "to_q,to_k,to_v,to_out.0"


def unet() -> nn.Module:
    return UNet2DConditionModel(cross_attention_dim=768)  # Stable Diffusion 1.5


def counted(module: nn.Module, method: str, **settings: object) -> tuple[int, set[str]]:
    apply_method(METHODS[method](), module, TrainConfig(**settings))
    trained = {name: p.numel() for name, p in module.named_parameters() if p.requires_grad}
    return sum(trained.values()), set(trained)


@pytest.mark.parametrize(
    ("method", "settings", "expected"),
    [
        ("lora", {}, 797_184),
        ("lora", {"lora_rank": 8}, 1_594_368),
        ("lora", {"lora_rank": 16}, 3_188_736),
        ("lora", {"lora_rank": 8, "lora_targets": "to_q,to_v"}, 797_184),  # a count is no recipe
        ("lora", {"lora_targets": PROJECTIONS + FEEDFORWARD}, 1_695_744),
        ("lora", {"lora_targets": PROJECTIONS + CONVOLUTIONS}, 4_203_264),
        ("dora", {}, 897_024),
        # Not of the paper: that these stay what they are.
        ("loha", {}, 1_594_368),
        ("lokr", {}, 106_496),
        ("adalora", {}, 1_196_544),
        ("ia3", {}, 99_840),
        ("hra", {}, 795_648),
        ("oft", {}, 560_640),
        ("boft", {}, 2_803_200),
    ],
)
def test_parameters_of_stable_diffusions_unet(method, settings, expected):
    with torch.device("meta"):
        assert counted(unet(), method, **settings)[0] == expected


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_work_can_be_counted_on_the_meta_device(method):
    with torch.device("meta"):
        blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
        small = UNet2DConditionModel(block_out_channels=(32,), cross_attention_dim=16, layers_per_block=1, **blocks)
        counted(small, method)
        inputs = torch.randn(1, 4, 8, 8), torch.zeros(1), torch.randn(1, 7, 16)
    with FlopCounterMode(display=False) as work:
        small.train()(*inputs).sample.sum().backward()
    assert work.get_total_flops() > 1e6


def test_lora_adapts_the_four_projections_of_both_attentions():
    with torch.device("meta"):
        names = counted(unet(), "lora")[1]
    ends = {name.split(".transformer_blocks.0.")[1] for name in names}
    projections = [f"{attention}.{p}" for attention in ("attn1", "attn2") for p in PROJECTIONS.split(",")]
    assert ends == {f"{p}.lora_{side}.default.weight" for p in projections for side in "AB"}
    assert len(names) == 2 * 128


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("vit_base_patch16_224", 589_824),
        ("vit_large_patch16_224", 1_572_864),
        ("vit_huge_patch14_224", 2_621_440),
    ],
)
def test_parameters_of_vision_transformers(size, expected):
    import timm

    with torch.device("meta"):
        count, names = counted(timm.create_model(size, num_classes=2), "lora", lora_rank=16)
    assert count == expected
    assert {name.split(".", 2)[2] for name in names} == {f"attn.qkv.lora_{side}.default.weight" for side in "AB"}
