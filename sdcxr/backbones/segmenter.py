"""The segmenter of `train.py --tune segmenter`: a U-Net of segmentation_models_pytorch around an encoder of timm.

Its folder loads without this package: `segmentation_models_pytorch.Unet("tu-<architecture>", encoder_weights=None,
in_channels=<channels>, classes=<structures>, **model_args)` takes model.safetensors; config.json has these values.
That of volumes is a network of MONAI (`volume_networks`).
"""

import warnings
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sdcxr.backbones.image_classifier import Description, read_description
from sdcxr.backbones.volume_networks import NETWORKS, volume_network
from sdcxr.io.files import atomic, write_json
from sdcxr.io.volumes import LOWEST, quiet_monai, require_packages
from sdcxr.runtime.errors import UserError, first_line

MISSING = "--tune segmenter needs pip install sdcxr[segmentation]"
SMP = "segmentation_models_pytorch.Unet"
MULTIPLE = 32  # of the side of its images: the encoder halves them five times


def require_package() -> None:
    """Raise a `UserError` if segmentation_models_pytorch is not installed; it is not imported."""
    if find_spec("segmentation_models_pytorch") is None:
        raise UserError(MISSING)


def unet(about: Description, flag: str = "--base") -> nn.Module:
    """An untrained U-Net with one logit map per structure; `about` has the structures as labels.

    Raises:
        UserError: the package is not installed, or the network has no pyramid of feature maps.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own deprecations
        try:
            from segmentation_models_pytorch import Unet
        except ImportError:
            raise UserError(MISSING) from None
        try:
            return Unet(
                f"tu-{about.architecture}", encoder_weights=None, in_channels=about.channels,
                classes=len(about.labels), **about.model_args,
            )  # fmt: skip
        except (ValueError, RuntimeError, TypeError, KeyError, AttributeError, AssertionError) as error:
            raise UserError(
                f"{flag} {about.architecture}: is no encoder of a U-Net ({first_line(error)}): use a network with "
                "feature maps at 1/2 to 1/32 of the size, such as resnet50, convnext_tiny or efficientnet_b0"
            ) from None


def with_encoder(about: Description, network: nn.Module) -> nn.Module:
    """A U-Net whose encoder has the weights of a classifier of timm, and whose decoder is untrained.

    Raises:
        UserError: the classifier is of another library, or has no such feature maps.
    """
    if about.library != "timm" or about.prompt_tokens:
        raise UserError("--tune segmenter: takes networks of timm, without visual prompts")
    module = unet(about)
    encoder: Any = module.encoder
    given, own = network.state_dict(), encoder.state_dict()
    found = {name: given[source] for name in own if (source := _source(name, given)) is not None}
    if missing := [name for name, value in own.items() if name not in found or found[name].shape != value.shape]:
        raise UserError(f"--base {about.architecture}: its weights lack {missing[0]} of the encoder")
    encoder.load_state_dict(found)
    return module


def _source(name: str, given: dict[str, Tensor]) -> str | None:
    """The tensor of a classifier that is `name` in the encoder: timm flattens stages.0.x to stages_0.x there."""
    plain = name.removeprefix("model.")
    candidates = (plain, plain.replace("_", ".", 1), plain.removeprefix("model."))
    return next((candidate for candidate in candidates if candidate in given), None)


def write_segmenter(folder: Path, network: nn.Module, about: Description, **results: Any) -> None:
    """Write the folder of a plain U-Net; `results` are added to config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with atomic(folder / "model.safetensors") as temporary:
        save_file(tensors, temporary)
    plain = f"monai.networks.nets.{NETWORKS[about.architecture][0].name}" if about.of_volumes else SMP
    own = asdict(about) | {"labels": list(about.labels), "decoder": plain}
    write_json(folder / "config.json", own | results)


def segmenter_folder(folder: Path) -> Path:
    """The folder of the segmenter itself, where that of its run is given."""
    return folder / "segmenter" if (folder / "segmenter").is_dir() else folder


class Segmenter:
    """A trained segmenter folder, ready to read images: `structures`, `resolution`, `predict`."""

    def __init__(self, folder: Path, device: torch.device):
        folder = segmenter_folder(folder)
        about = read_description(folder)
        if about is None:
            raise UserError(f"{folder} holds no trained segmenter: make one with train.py --tune segmenter")
        self.about, self.structures, self.resolution, self.device = about, list(about.labels), about.resolution, device
        if about.of_volumes:
            require_packages()
        self.network = volume_network(about) if about.of_volumes else unet(about, str(folder))
        try:
            self.network.load_state_dict(load_file(folder / "model.safetensors"))
        except (SafetensorError, RuntimeError) as error:
            file = folder / "model.safetensors"
            raise UserError(f"{file} is damaged or of another network ({first_line(error)})") from None
        self.network.eval().to(device)

    @torch.no_grad()
    def predict(self, pixels: Tensor) -> np.ndarray:
        """Masks (batch, structures, H, W), bool, of images (batch, 1 or 3, resolution, resolution) in [-1, 1].

        Or (batch, structures, X, Y, Z) of volumes (batch, 1, X, Y, Z) of any size, by patches that overlap by half.
        """
        inputs = self.about.inputs(pixels.to(self.device))
        logits = self._by_patches(inputs) if self.about.of_volumes else self.network(inputs)
        masks: np.ndarray = (logits > 0).cpu().numpy()
        return masks

    def _by_patches(self, volumes: Tensor) -> Tensor:
        with quiet_monai():
            from monai.inferers import sliding_window_inference

            side = (self.resolution,) * 3
            logits: Tensor = sliding_window_inference(
                volumes, side, 4, self.network, overlap=0.5, mode="gaussian", cval=LOWEST
            )
        return logits
