"""The image classifier of `train.py --tune classifier`: a timm network for grey images, and its folder."""

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sdcxr.io.files import read_json
from sdcxr.runtime.errors import UserError

ARCHITECTURE = "resnet10t"

RESOLUTION = 64


def network(architecture: str, outputs: int) -> nn.Module:
    """An untrained timm network for grey images.

    Raises:
        UserError: timm does not know the name; the nearest names are listed.
    """
    import timm

    if architecture not in timm.list_models():
        import difflib

        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        raise UserError(f"--base {architecture}: timm has no such model (near: {', '.join(near) or 'none'})")
    return timm.create_model(architecture, pretrained=False, in_chans=1, num_classes=outputs)


class Classifier:
    """A trained classifier folder, ready to read images: `labels` and `predict`."""

    def __init__(self, folder: Path, device: torch.device):
        folder = folder / "classifier" if (folder / "classifier").is_dir() else folder
        if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
            raise UserError(f"{folder} holds no trained classifier: make one with train.py --tune classifier")
        about = read_json(folder / "config.json")
        self.labels: list[str] = about["labels"]
        self.resolution: int = about["resolution"]
        self.architecture: str = about["architecture"]
        self.device = device
        self.network = network(self.architecture, len(self.labels))
        try:
            self.network.load_state_dict(load_file(folder / "model.safetensors"))
        except (SafetensorError, RuntimeError) as error:
            raise UserError(f"{folder / 'model.safetensors'} is damaged or of another network ({error})") from None
        self.network.eval().to(device)

    @torch.no_grad()
    def predict(self, pixels: Tensor) -> np.ndarray:
        """Probabilities (batch, labels) of images (batch, 1, resolution, resolution) in [-1, 1]."""
        return self.network(pixels.to(self.device)).float().sigmoid().cpu().numpy()
