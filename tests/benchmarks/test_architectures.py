"""The bases of benchmarks have the published numbers of parameters, and their light encoders states of one width."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import architectures

CLIP_L, CLIP_G, T5, GEMMA = 123_650_304, 694_659_840, 4_762_310_656, 2_614_341_888
PARAMETERS: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "sana": (591_747_872, 312_250_275, (GEMMA,)),
    "sana16": (1_604_462_752, 312_250_275, (GEMMA,)),
    "pixart": (610_856_096, 83_653_863, (T5,)),
    "sdxl": (2_567_463_684, 83_653_863, (123_060_480, CLIP_G)),
    "sd3": (2_028_328_000, 83_819_683, (CLIP_L, CLIP_G, T5)),
    "sd35": (2_243_171_520, 83_819_683, (CLIP_L, CLIP_G, T5)),
    "klein": (3_875_544_576, 84_046_115, (4_022_468_096,)),
}


def on_meta(name: Any, light: bool) -> Any:
    with torch.device("meta"):
        return architectures.random_weights(name, light=light)


def size(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMETERS)
def test_a_base_has_the_published_numbers_of_parameters(name):
    parts = on_meta(name, light=False).parts
    text = tuple(size(part) for at, part in parts.items() if at.startswith("text"))
    assert (size(parts["unet"]), size(parts["vae"]), text) == PARAMETERS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMETERS)
@torch.no_grad()
def test_light_encoders_give_states_of_the_same_shape(name):
    shapes = []
    for light in (True, False):
        backbone = on_meta(name, light)
        ids = {key: torch.from_numpy(array).to("meta") for key, array in backbone.tokenize(["one"])[0].items()}
        shapes.append({key: value.shape for key, value in backbone.encode_text(ids).tensors().items()})
    assert shapes[0] == shapes[1]
    assert sum(size(part) for at, part in backbone.parts.items() if at.startswith("text")) == sum(PARAMETERS[name][2])
