"""torchxrayvision's classifiers of chest radiographs (Cohen et al. 2022, arXiv 2111.00595): `features2`, 1024 wide.

Variants (preprocessing of an image):
    xrv       as in torchxrayvision's README: ±1024, central square, skimage's resize (the default)
    torch     as its models resize larger images: ±1024, central square, torch's antialiased bilinear
    roentgen  as in RoentGen's evaluation (Bluethgen et al. 2024, 10.1038/s41551-024-01246-y): 299 first, then 224

torchxrayvision's own constructors download missing files and unpickle any content. Here nothing is downloaded, and a
pickle may contain the layers of a DenseNet only.
"""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from eval.extractors.base import Extractor, Request
from eval.extractors.pickles import load_state
from eval.extractors.weights import WeightsFile
from eval.inputs.images import bicubic_float, centre_square
from sdcxr.runtime.errors import UserError, first_line

RELEASE = "https://github.com/mlmed/torchxrayvision/releases/download/v1/"
TRAINED_ON = {  # part of the file name → name of the weights
    "nih-pc-chex-mimic_ch-google-openi-kaggle": "all",
    "nih": "nih",
    "pc": "pc",
    "chex": "chex",
    "kaggle": "rsna",
    "mimic_nb": "mimic_nb",
    "mimic_ch": "mimic_ch",
}
RESNET = "resnet50-res512-all"


def _file(name: str, about: str) -> WeightsFile:
    return WeightsFile(name, RELEASE + name, about=about)


FILES = {
    f"densenet121-res224-{short}": _file(
        f"{prefix}-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt", "about 28 MB, size unconfirmed"
    )
    for prefix, short in TRAINED_ON.items()
} | {RESNET: _file("pc-nih-rsna-siim-vin-resnet50-test512-e400-state.pt", "about 94 MB, size unconfirmed")}

ALIASES = {f"xrv-{short}": f"densenet121-res224-{short}" for short in TRAINED_ON.values()}

NAMES = {
    "xrv-all": "torchxrayvision's DenseNet-121 trained on seven datasets, 1024; @xrv @torch @roentgen",
    "densenet121-res224-…": "its other DenseNets: all nih pc chex rsna mimic_nb mimic_ch, 1024; the same variants",
    RESNET: "torchxrayvision's ResNet-50 at 512 px, 2048; @xrv @torch",
}


def matches(name: str) -> bool:
    return name in FILES or name in ALIASES


def build(request: Request) -> Extractor:
    name = ALIASES.get(request.name, request.name)
    side = 512 if name == RESNET else 224
    variant = request.choose(("xrv", "torch") if name == RESNET else ("xrv", "torch", "roentgen"))
    file = FILES[name].find(request.weights_dir)
    paths: dict[str, tuple[str, Callable[[Image.Image], np.ndarray]]] = {
        "xrv": (f"±1024 → centre crop → skimage bilinear antialias {side}", partial(prepare_xrv, side=side)),
        "torch": (f"±1024 → centre crop → torch bilinear antialias {side}", partial(prepare_torch, side=side)),
        "roentgen": (
            "pil-bicubic float 299 → luma → ±1024 → centre crop → torch bilinear antialias 224",
            prepare_roentgen,
        ),
    }
    path, prepare = paths[variant]
    return Extractor(
        name=f"{request.name}@{variant}",
        preprocessing=path,
        prepare=prepare,
        load=partial(load, name, file),
        dimension=2048 if name == RESNET else 1024,
        weights=(file,),
        libraries=("torchxrayvision", "torchvision", "scikit-image"),
    )


def prepare_xrv(image: Image.Image, side: int) -> np.ndarray:
    """Preprocessing of torchxrayvision's README: (1, side, side) in [-1024, 1024]."""
    xrv = torchxrayvision()
    values = xrv.datasets.normalize(np.asarray(image), 255)[None]
    resized: np.ndarray = xrv.datasets.XRayResizer(side)(xrv.datasets.XRayCenterCrop()(values))
    return resized


def prepare_torch(image: Image.Image, side: int) -> np.ndarray:
    """Preprocessing inside torchxrayvision's models for larger images: (1, side, side) in [-1024, 1024]."""
    return _bilinear(_scaled(np.asarray(centre_square(image), dtype=np.float32)), side)


def prepare_roentgen(image: Image.Image) -> np.ndarray:
    """Preprocessing of RoentGen's evaluation. Its centre crop has no effect: the first resize is square already.

    The luma of three equal channels is 0.9999 times the channel: torchvision's weights sum to that.
    """
    luma = np.float32(0.2989 + 0.587 + 0.114)
    return _bilinear(_scaled(bicubic_float(image, 299) * luma), 224)


def _scaled(grey: np.ndarray) -> np.ndarray:
    return (2 * (grey / 255) - 1) * 1024


def _bilinear(values: np.ndarray, side: int) -> np.ndarray:
    """Antialiased bilinear resize: (H, W) to (1, side, side)."""
    import torch

    tensor = torch.from_numpy(values)[None, None]
    return torch.nn.functional.interpolate(tensor, (side, side), mode="bilinear", antialias=True)[0].numpy()


def load(name: str, file: Path, device: Any) -> Any:
    network = network_of(name, file).to(device)
    if name != RESNET:
        return network.features2

    from torch import nn

    network.fc = nn.Identity()
    return network


def network_of(name: str, file: Path) -> Any:
    """Load a weights file into its network, in evaluation mode; its outputs are plain logits.

    Args:
        name: a key of `FILES`.
        file: its weights.

    Returns:
        torchxrayvision's DenseNet, or torchvision's ResNet-50; `pathologies` names the logits ("" if untrained).

    Raises:
        UserError: the file holds something else.
    """
    xrv = torchxrayvision()
    if name == RESNET:
        import torch
        import torchvision

        network = torchvision.models.resnet50(weights=None, num_classes=18)
        network.conv1 = torch.nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    else:
        network = xrv.models.DenseNet(weights=None)
    network.pathologies = network.targets = list(xrv.models.model_urls[name]["labels"])
    try:
        network.load_state_dict(_state(file))
    except RuntimeError as error:
        raise UserError(f"{file} does not fit {name} ({first_line(error)}): download it again") from None
    return network.eval()


def _state(file: Path) -> dict[str, Any]:
    """The state dict of a file that contains a state dict or a pickled DenseNet, and nothing else."""
    from torch import nn

    models = torchxrayvision().models
    layers = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Linear, nn.MaxPool2d, nn.AvgPool2d, nn.Sequential]
    dense = [models.DenseNet, models._DenseBlock, models._DenseLayer, models._Transition]
    return load_state(file, [*layers, *dense])


def torchxrayvision() -> ModuleType:
    """Import torchxrayvision, which would otherwise silence all warnings of the process."""
    with warnings.catch_warnings():
        import torchxrayvision as xrv

        import torchxrayvision.models  # isort: skip

    module: ModuleType = xrv
    return module
