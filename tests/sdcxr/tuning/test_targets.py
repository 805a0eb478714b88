"""Which layers a method adapts: by tables, by names, by a regular expression."""

import pytest
import torch
from torch import nn

from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError
from sdcxr.tuning.lycoris_methods import Oft
from sdcxr.tuning.peft_methods import Adalora, Lora
from sdcxr.tuning.targets import kinds_of, target_layers


def block() -> nn.Module:
    return nn.ModuleDict(
        {
            "attention": nn.ModuleDict(
                {name: nn.Linear(8, 8) for name in ("to_q", "to_k", "to_v")}
                | {"to_out": nn.Sequential(nn.Linear(8, 8))}
            ),
            "conv1": nn.Conv2d(8, 8, 3),
            "grouped": nn.Conv2d(8, 8, 3, groups=2),
            "volume": nn.Conv3d(8, 8, 3),
            "norm": nn.LayerNorm(8),
        }
    )


PROJECTIONS = [f"attention.{name}" for name in ("to_k", "to_out.0", "to_q", "to_v")]


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (None, PROJECTIONS),
        ("to_q, to_v", ["attention.to_q", "attention.to_v"]),
        ("attention.to_q", ["attention.to_q"]),
        (r".*\.to_[qk]", ["attention.to_k", "attention.to_q"]),
        ("to_out.0,conv1", ["attention.to_out.0", "conv1"]),
        ("volume", ["volume"]),
    ],
)
def test_layers_are_chosen(targets, expected):
    assert target_layers(block(), TrainConfig(lora_targets=targets), Lora()) == expected


@pytest.mark.parametrize(
    ("method", "targets", "message"),
    [
        (Lora, "to_q,to_p", "--lora_targets to_p: no layer .* there are to_q, to_k, to_v, to_out.0, conv1, grouped"),
        (Lora, "norm", "--lora_targets norm: no layer for --method lora"),
        (Lora, "_q", "--lora_targets _q: no layer"),  # the end of a name, but not a whole word of it
        (Lora, "(", r"--lora_targets \(: no regular expression"),
        (Lora, "grouped", "--method lora cannot merge a grouped convolution: leave grouped out"),
        (Adalora, "volume", "no layer for --method adalora has it"),
    ],
)
def test_what_cannot_be_adapted_is_refused(method, targets, message):
    with pytest.raises(UserError, match=message) as refused:
        target_layers(block(), TrainConfig(lora_targets=targets), method())
    assert "\n" not in str(refused.value)


def test_a_part_without_layers_of_the_table_needs_names():
    with pytest.raises(UserError, match="--method lora has no layers of its own choice in a Sequential: give --lora_t"):
        target_layers(nn.Sequential(nn.Conv2d(1, 1, 1)), TrainConfig(), Lora())


def test_rotations_serve_grouped_convolutions():
    assert target_layers(block(), TrainConfig(lora_targets="grouped"), Oft()) == ["grouped"]


def test_layers_inside_torchs_attention_are_left_alone():
    """Its forward reads the weights: a layer around them would change nothing, and say nothing."""
    encoder = nn.TransformerEncoderLayer(8, 2)
    with pytest.raises(UserError, match="no layer for --method lora has it; there are linear1, linear2"):
        target_layers(encoder, TrainConfig(lora_targets="out_proj"), Lora())


def module_of(kind: str) -> nn.Module:
    import timm
    import transformers
    from diffusers import UNet2DConditionModel

    if kind == "unet":
        return UNet2DConditionModel(cross_attention_dim=768)
    if kind == "vit-timm":
        return timm.create_model("vit_tiny_patch16_224", num_classes=2)
    if kind == "vit":
        return transformers.ViTForImageClassification(transformers.ViTConfig(num_hidden_layers=1))
    if kind == "clip":
        return transformers.CLIPTextModel(transformers.CLIPTextConfig(num_hidden_layers=1))
    if kind == "bert":
        return transformers.BertModel(transformers.BertConfig(num_hidden_layers=1))
    return transformers.T5EncoderModel(transformers.T5Config(num_layers=1))


@pytest.mark.parametrize(
    ("kind", "ends", "n"),
    [
        ("unet", {"to_q", "to_k", "to_v", "to_out.0"}, 128),
        ("vit-timm", {"qkv"}, 12),
        ("vit", {"q_proj", "v_proj"}, 2),
        ("clip", {"q_proj", "k_proj", "v_proj", "out_proj"}, 4),
        ("bert", {"query", "key", "value"}, 3),
        ("t5", {"q", "k", "v", "o"}, 4),
    ],
)
def test_the_tables_know_the_backbones(kind, ends, n):
    with torch.device("meta"):
        module = module_of(kind)
    chosen = target_layers(module, TrainConfig(), Lora())
    assert len(chosen) == n
    assert set(kinds_of(dict.fromkeys(chosen)).split(", ")) == ends
