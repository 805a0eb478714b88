"""Rotations with LyCORIS: exact on convolutions, in half precision, and refused where outputs do not divide."""

import copy

import pytest
import torch
from torch import nn

from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError
from sdcxr.tuning.base import apply_method
from sdcxr.tuning.lycoris_methods import LYCORIS_METHODS, Boft, Oft, Rotated

LAYERS = {
    "linear": (nn.Linear(6, 16), (2, 6)),
    "convolution": (nn.Conv2d(6, 16, 3), (2, 6, 9, 9)),
    "grouped": (nn.Conv2d(6, 16, 3, groups=2), (2, 6, 9, 9)),
    "volume": (nn.Conv3d(2, 16, 3, stride=2), (1, 2, 7, 7, 7)),
}


def rotated(layer: nn.Module, method: Oft | Boft, scale: float) -> nn.Module:
    part = nn.ModuleDict({"conv1": copy.deepcopy(layer).requires_grad_(False)})
    apply_method(method, part, TrainConfig(lora_targets="conv1"))
    (blocks,) = [p for p in part.parameters() if p.requires_grad]
    with torch.no_grad():
        blocks += scale * torch.randn(blocks.shape, generator=torch.Generator().manual_seed(0))
    return part


@pytest.mark.parametrize("method", LYCORIS_METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_begins_as_it_was_is_rotated_and_merged(kind, method):
    layer, shape = LAYERS[kind]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(rotated(layer, method(), 0.0)["conv1"](x), layer(x))
    part = rotated(layer, method(), 0.3)
    weight = part["conv1"].weight
    # Rotated outputs: the weights change, what they have in common with each other as vectors does not.
    flat, before = weight.flatten(1), layer.weight.flatten(1)
    assert (flat - before).abs().max() > 0.02
    torch.testing.assert_close(flat.T @ flat, before.T @ before, atol=1e-5, rtol=1e-4)
    merged = method().merge(part)["conv1"]
    assert type(merged) is type(layer) and merged.state_dict().keys() == layer.state_dict().keys()
    torch.testing.assert_close(merged(x), part["conv1"](x))
    assert torch.equal(part["conv1"].layer.weight, layer.weight)


def test_butterflies_mix_more_than_their_blocks():
    """peft's BOFT has one block-diagonal factor where its CUDA extension is absent."""
    part = rotated(LAYERS["linear"][0], Boft(), 0.3)
    rotation = torch.linalg.lstsq(LAYERS["linear"][0].weight.T, part["conv1"].weight.T).solution
    assert Boft.rank > 8 and part["conv1"].blocks.shape == (2, 2, 8, 8)
    assert rotation.shape == (16, 16)
    square = rotated(nn.Linear(16, 16), Boft(), 0.3)["conv1"]
    turn = square.weight @ torch.linalg.inv(square.layer.weight)
    assert turn[:8, 8:].abs().max() > 0.02 and turn[8:, :8].abs().max() > 0.02


@pytest.mark.parametrize(
    ("method", "outputs", "rank"),
    [(Oft, 7, None), (Boft, 7, None), (Boft, 320, 4), (Oft, 16, 1)],
)
def test_outputs_that_do_not_divide_are_refused(method, outputs, rank):
    part = nn.ModuleDict({"conv1": nn.Linear(3, outputs)})
    with pytest.raises(UserError, match=f"the {outputs} outputs of conv1 do not divide into blocks of 2 to"):
        method().inject(part, TrainConfig(lora_rank=rank))


def test_half_precision_rotates_in_single():
    layer = nn.Linear(8, 8)
    part = rotated(layer, Oft(), 1e-3)  # as large as what bf16 cannot tell from 1
    with torch.autocast("cpu", torch.bfloat16):
        weight = part["conv1"].weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, part["conv1"].weight) and not torch.equal(weight, layer.weight)


def test_unets_rotate_the_convolutions_of_residual_blocks_too():
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
        apply_method(Oft(), unet, TrainConfig())
    names = [name for name, module in unet.named_modules() if isinstance(module, Rotated)]
    ends = [name.split(".")[-1] for name in names]
    assert ends.count("conv1") == ends.count("conv2") == 22 and ends.count("to_q") == 32
