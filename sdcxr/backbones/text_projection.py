"""A learnt projection from a text encoder to the cross-attention of a UNet of another width.

It is the UNet's `encoder_hid_proj`, which diffusers applies to the token states ahead of all attention. A linear one is
folded into the weights on saving; one with a hidden layer has no form in plain diffusers, which refuses the saved UNet
(encoder_hid_dim_type "text_mlp") unless it is loaded as here or in docs/training.md.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import nn

from sdcxr.io.files import read_json, write_json
from sdcxr.runtime.errors import UserError

NAME = "encoder_hid_proj"  # of the module in the UNet
SAVED_MLP = "text_mlp"  # its encoder_hid_dim_type on disk; not of diffusers, on purpose


def add_projection(unet: Any, kind: Literal["linear", "mlp"], width: int) -> nn.Module:
    """Put a projection in front of a UNet's cross-attention, with weights from torch's generator, and return it.

    Args:
        unet: UNet2DConditionModel.
        kind: linear, or one hidden layer of the encoder's width with GELU.
        width: of the text encoder.

    Raises:
        UserError: the UNet has a projection, or normalises what it attends to, so that nothing could be folded.
    """
    if unet.encoder_hid_proj is not None or any(m.norm_cross is not None for m in cross_attentions(unet).values()):
        raise UserError("--text_projection: the UNet of this base has a projection or normalisation of its own there")
    unet.encoder_hid_proj = _module(kind, width, unet.config.cross_attention_dim).to(unet.device, unet.dtype)
    unet.register_to_config(encoder_hid_dim=width, encoder_hid_dim_type="text_proj")
    return unet.encoder_hid_proj


def _module(kind: Literal["linear", "mlp"], width: int, attended: int | list[int] | tuple[int, ...]) -> nn.Module:
    widths = {attended} if isinstance(attended, int) else set(attended)
    if len(widths) > 1:
        raise UserError(f"--text_projection: the blocks of this UNet attend to several widths ({sorted(widths)})")
    out = widths.pop()
    if kind == "linear":
        return nn.Linear(width, out)
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, out))


def cross_attentions(unet: nn.Module) -> dict[str, Any]:
    """The cross-attention layers of a network of diffusers, by name."""
    from diffusers.models.attention_processor import Attention

    return {n: m for n, m in unet.named_modules() if isinstance(m, Attention) and m.is_cross_attention}


@torch.no_grad()
def folded(unet: Any) -> Any:
    """A UNet that computes the same from the states of the text encoder itself, without a linear projection P x + b.

    Keys become W_k P x: what b adds to the score of a query is the same for all tokens and leaves the softmax as it is.
    Values become W_v P x, and W_o W_v b, in which the weights of the softmax sum to 1, joins the bias of the output.
    All other tensors are shared with `unet`, which stays as it is.
    """
    projection = unet.encoder_hid_proj
    width, weight, bias = projection.in_features, projection.weight.double(), projection.bias.double()
    state = {name: value for name, value in unet.state_dict().items() if not name.startswith(f"{NAME}.")}
    for name, attention in cross_attentions(unet).items():
        for layer in ("to_k", "to_v"):
            key = f"{name}.{layer}.weight"
            state[key] = (state[key].double() @ weight).to(state[key].dtype)
        key, out = f"{name}.to_out.0.bias", attention.to_out[0].weight.double()
        state[key] = (state[key].double() + out @ attention.to_v.weight.double() @ bias).to(state[key].dtype)
    settings = dict(unet.config) | {"cross_attention_dim": width, "encoder_hid_dim": None, "encoder_hid_dim_type": None}
    with torch.device("meta"):
        plain = type(unet).from_config(settings)
    plain.load_state_dict(state, assign=True)
    return plain.requires_grad_(False).train(unet.training)


def saved_form(network: Any) -> Any:
    """The network as it is saved: folded, or with a configuration that plain diffusers refuses, or as it is."""
    projection = getattr(network, NAME, None)
    if isinstance(projection, nn.Linear):
        return folded(network)
    return network


def mark_saved(network: Any, folder: Path) -> None:
    """Let plain diffusers refuse the saved folder of a network whose projection it would fill with random weights."""
    if isinstance(getattr(network, NAME, None), nn.Sequential):
        file = folder / "config.json"
        write_json(file, read_json(file) | {"encoder_hid_dim_type": SAVED_MLP})


def load_with_mlp(kind: Any, folder: Path) -> Any | None:
    """A network that was saved with an MLP; None where the folder is of another one.

    Raises:
        ValueError: its weights do not fit.
    """
    settings = read_json(folder / "config.json")
    if settings.get("encoder_hid_dim_type") != SAVED_MLP:
        return None
    network = kind.from_config(settings | {"encoder_hid_dim_type": "text_proj"})
    network.encoder_hid_proj = _module("mlp", settings["encoder_hid_dim"], settings["cross_attention_dim"])
    network.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"))
    return network.eval()
