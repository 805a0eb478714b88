"""A classifier trained by `train.py --tune classifier`: the features before its last layer."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eval.extractors.base import Extractor, Request
from eval.extractors.geometry import centre_square
from sdcxr.io.files import read_json
from sdcxr.runtime.errors import UserError

NAMES = {"RUN": "run folder of train.py --tune classifier: what its last layer reads"}


def matches(name: str) -> bool:
    return is_task(_folder(name), {"architecture", "labels", "resolution"})


def build(request: Request) -> Extractor:
    folder = _folder(request.name)
    resolution = int(read_json(folder / "config.json")["resolution"])
    request.choose(("default",))
    return Extractor(
        name=request.name,
        preprocessing=f"centre crop → pil-lanczos {resolution} → ±1",
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


def part_of(run: str, name: str) -> Path:
    """The folder of a trained part: that of the name in a run folder, or the folder itself."""
    folder = Path(run).expanduser()
    return folder / name if (folder / name).is_dir() else folder


def is_task(folder: Path, keys: set[str]) -> bool:
    """Whether a folder holds weights and the config.json of our task, which has these keys, and not, say, that of a
    transformers model."""
    config = folder / "config.json"
    try:
        return (folder / "model.safetensors").is_file() and config.is_file() and keys <= set(read_json(config))
    except (UserError, TypeError):
        return False


def _folder(name: str) -> Path:
    return part_of(name, "classifier")
