"""Segmenters of volumes: MONAI's UNETR (arXiv 2103.10504) and Swin UNETR (arXiv 2201.01266).

MONAI alone loads what is saved: `monai.networks.nets.<class>(in_channels=1, out_channels=<structures>, **model_args)`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn, ones, zeros

from sdcxr.backbones.image_classifier import RESOLUTION, Description
from sdcxr.backbones.pipeline_files import hash_weights
from sdcxr.io.volumes import quiet_monai
from sdcxr.runtime.errors import UserError


class Kind(NamedTuple):
    """A network of MONAI, and what its patches may be."""

    name: str
    encoder: str
    """Name of the encoder in it."""
    multiple: int
    """Of the side of a patch in voxels."""
    smallest: int
    """Side of a patch: at half of it, the deepest map of Swin UNETR is one voxel, which has no variance."""


UNETR, SWIN = Kind("UNETR", "vit", 16, 16), Kind("SwinUNETR", "swinViT", 32, 64)
NETWORKS: dict[str, tuple[Kind, dict[str, int]]] = {
    "unetr": (UNETR, {"feature_size": 16, "hidden_size": 768, "mlp_dim": 3072, "num_heads": 12}),
    "unetr_tiny": (UNETR, {"feature_size": 8, "hidden_size": 96, "mlp_dim": 384, "num_heads": 4}),
    "swin_unetr": (SWIN, {"feature_size": 48}),
    "swin_unetr_tiny": (SWIN, {"feature_size": 12}),
}
"""Those of `--base` and `--architecture` with their sizes: the published ones, and ones for a trial on a CPU."""


class Unused(nn.Module):
    """Weights of a layer that MONAI makes and never calls: in the file as MONAI has them, and nothing to train."""

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("weight", ones(width))
        self.register_buffer("bias", zeros(width))


def volume_network(about: Description) -> nn.Module:
    """An untrained network with one logit map per structure; `about` has the structures as labels.

    Raises:
        UserError: it does not take patches of this side.
    """
    kind = _kind(about.architecture)
    check_side(about)
    with quiet_monai():
        from monai.networks import nets

        network: nn.Module = getattr(nets, kind.name)(
            in_channels=about.channels, out_channels=len(about.labels), **about.model_args
        )
    for block in list(network.modules()):
        # Only a block with cross-attention calls its normalisation.
        if isinstance(getattr(block, "norm_cross_attn", None), nn.LayerNorm):
            of_monai: Any = block
            of_monai.norm_cross_attn = Unused(len(of_monai.norm_cross_attn.weight))
    return network


def check_side(about: Description) -> None:
    """Raise a `UserError` if a network does not take patches of `about.resolution`."""
    kind, side = _kind(about.architecture), about.resolution
    if side % kind.multiple or side < kind.smallest:
        raise UserError(
            f"--resolution {side}: {about.architecture} takes patches of a multiple of {kind.multiple} voxels, "
            f"{kind.smallest} at least"
        )
    if about.model_args.get("img_size", side) != side:
        raise UserError(f"--resolution {side}: this base takes patches of {about.model_args['img_size']}: leave it out")


def untrained(base: str | None, wanted: Description) -> tuple[nn.Module, Description]:
    """A network of random weights by its name in `NETWORKS`; `wanted` says structures, spacing and a side, or 0."""
    name = base or "unetr"
    kind = _kind(name)
    side = wanted.resolution or RESOLUTION
    args = NETWORKS[name][1] | ({"img_size": side} if kind is UNETR else {})
    about = replace(wanted, architecture=name, library="monai", resolution=side, model_args=args)
    return volume_network(about), about


def pretrained(base: str, architecture: str | None, wanted: Description) -> tuple[nn.Module, Description, str]:
    """A network whose encoder has the weights of a file, how it takes its patches, and the encoder's hash.

    Args:
        base: a safetensors file of the whole network, or of its encoder alone.
        architecture: its name in `NETWORKS`.
        wanted: structures, spacing, and a side, or 0.

    Raises:
        UserError: what is missing or does not fit, and what to do.
    """
    path = Path(base).expanduser()
    if not path.is_file() or path.suffix != ".safetensors":
        named = base in NETWORKS
        raise UserError(
            f"--base {base}: {'has no weights of its own' if named else 'is no safetensors file'}: give one with "
            f"--architecture {base if named else 'unetr'}, the run of a segmenter, or --random_weights"
        )
    if architecture is None:
        raise UserError(f"--base {base}: name its network with --architecture ({', '.join(NETWORKS)})")
    network, about = untrained(architecture, wanted)
    try:
        given = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"--base {base}: is damaged ({error})") from None
    at = _kind(architecture).encoder
    encoder = network.get_submodule(at)
    own = encoder.state_dict()
    found = own | {name: given.get(f"{at}.{name}", given.get(name)) for name in own if "norm_cross_attn" not in name}
    if wrong := [name for name, value in own.items() if getattr(found[name], "shape", None) != value.shape]:
        raise UserError(
            f"--base {base}: is no {architecture} for patches of {about.resolution} voxels of one channel: it lacks "
            f"{at}.{wrong[0]} of shape {tuple(own[wrong[0]].shape)}"
        )
    encoder.load_state_dict(found)
    return network, about, hash_weights(encoder)


def _kind(name: str) -> Kind:
    if name not in NETWORKS:
        raise UserError(f"--base {name}: is no network for volumes: use {', '.join(NETWORKS)}")
    return NETWORKS[name][0]
