"""Inception-v3 of the Fréchet inception distance (FID), weights of 2015-12-05: pool3 features, 2048 wide.

Variants (preprocessing of an image; distances of different variants are not comparable):
    clean           bicubic 299 in float, antialiased, as clean-fid (Parmar et al. 2022, arXiv 2104.11222; the default)
    torchmetrics    torch's antialiased bilinear 299 inside the network, as torchmetrics
    tensorflow      the bilinear of TensorFlow 1 inside the network, as torch-fidelity and the original paper
    chexgenbench    Pillow's bilinear 299 in whole grey levels, as CheXGenBench before torchmetrics
"""

import importlib.util
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eval.extractors.base import Extractor, Request
from eval.extractors.pickles import load_state
from eval.extractors.weights import WeightsFile
from eval.inputs.images import bicubic_float
from sdcxr.runtime.errors import UserError

WEIGHTS = WeightsFile(
    file="weights-inception-2015-12-05-6726825d.pth",
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    size=95_628_359,
    sha256="6726825d",  # the first digits, also part of the file name
)
SIDE = 299

NAMES = {"inception": "Inception-v3 of the FID, 2048; @clean @torchmetrics @tensorflow @chexgenbench"}


def matches(name: str) -> bool:
    return name == "inception"


def build(request: Request) -> Extractor:
    if importlib.util.find_spec("torch_fidelity") is None:
        raise UserError("--extractor inception needs torch-fidelity: pip install 'torch-fidelity>=0.4'")
    paths = {
        "clean": ("pil-bicubic float 299 → ±1", prepare_clean),
        "torchmetrics": ("torch bilinear antialias 299 → ±1", prepare_torchmetrics),
        "tensorflow": ("tensorflow-1 bilinear 299 → ±1", prepare_tensorflow),
        "chexgenbench": ("pil-bilinear 299 → ±1", prepare_chexgenbench),
    }
    variant = request.choose(tuple(paths))
    hub = Path(os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch")
    file = WEIGHTS.find(request.weights_dir, hub.expanduser() / "hub" / "checkpoints")
    path, prepare = paths[variant]
    return Extractor(
        name=f"inception@{variant}",
        preprocessing=path,
        prepare=prepare,
        load=partial(load, file),
        dimension=2048,
        weights=(file,),
        libraries=("torch-fidelity",),
    )


def prepare_clean(image: Image.Image) -> np.ndarray:
    return bicubic_float(image, SIDE)[None]


def prepare_torchmetrics(image: Image.Image) -> np.ndarray:
    import torch

    grey = torch.from_numpy(np.array(image, dtype=np.float32))[None, None]
    return torch.nn.functional.interpolate(grey, (SIDE, SIDE), mode="bilinear", antialias=True)[0].numpy()


def prepare_tensorflow(image: Image.Image) -> np.ndarray:
    import torch
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    grey = torch.from_numpy(np.array(image, dtype=np.float32))[None, None]
    resized: np.ndarray = interpolate_bilinear_2d_like_tensorflow1x(grey, (SIDE, SIDE), align_corners=False)[0].numpy()
    return resized


def prepare_chexgenbench(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR), dtype=np.float32)[None]


def load(file: Path, device: Any) -> Any:
    """The network: grey values (batch, 1, 299, 299) in [0, 255] to pool3 features (batch, 2048)."""
    import io

    import torch
    from torch_fidelity import FeatureExtractorInceptionV3

    # torch-fidelity unpickles any content, so give it only what the restricted unpickler has read.
    safe = io.BytesIO()
    torch.save(load_state(file), safe)
    safe.seek(0)
    whole = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=safe)
    # The layers in order without the last one; the network's own forward would resize first.
    layers = torch.nn.Sequential(*list(whole.children())[:-1], torch.nn.Flatten()).eval().to(device)
    return lambda batch: layers(((batch - 128) / 128).expand(-1, 3, -1, -1))
