"""A classifier trained by `train.py --tune classifier`: the features before its last layer."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eval.extractors import Extractor, Request
from eval.extractors.geometry import centre_square
from sdcxr.errors import UserError
from sdcxr.files import read_json

NAMES = {"RUN": "run folder of train.py --tune classifier: what its last layer reads"}


def claims(name: str) -> bool:
    folder = _folder(name)
    return (folder / "model.safetensors").is_file() and _is_ours(folder / "config.json")


def make(request: Request) -> Extractor:
    folder = _folder(request.name)
    resolution = int(read_json(folder / "config.json")["resolution"])
    request.choose(("default",))
    return Extractor(
        name=request.name,
        resize=f"centre crop → pil-lanczos {resolution} → ±1",
        prepare=partial(prepare, resolution=resolution),
        load=partial(load, folder),
        weights=(folder / "model.safetensors", folder / "config.json"),
        libraries=("timm",),
    )


def prepare(image: Image.Image, resolution: int) -> np.ndarray:
    """What the classifier was trained on: (1, resolution, resolution) in [-1, 1]."""
    image = centre_square(image)
    if image.width != resolution:
        image = image.resize((resolution, resolution), Image.Resampling.LANCZOS)
    return np.asarray(image, dtype=np.float32)[None] / 127.5 - 1


def load(folder: Path, device: Any) -> Any:
    from sdcxr.tasks.classifier import Classifier

    network: Any = Classifier(folder, device).network
    return lambda batch: network.forward_head(network.forward_features(batch), pre_logits=True)


def _folder(name: str) -> Path:
    folder = Path(name).expanduser()
    return folder / "classifier" if (folder / "classifier").is_dir() else folder


def _is_ours(config: Path) -> bool:
    """Whether this is the classifier task's config.json and not, say, that of a transformers model."""
    try:
        return config.is_file() and {"architecture", "labels", "resolution"} <= set(read_json(config))
    except (UserError, TypeError):
        return False
