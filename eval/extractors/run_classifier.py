"""Run folders of `train.py --tune classifier` as extractors: the features before the last layer."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eval.extractors.base import Extractor, Request
from eval.inputs.images import centre_square
from sdcxr.io.files import read_json
from sdcxr.runtime.errors import UserError

NAMES = {"RUN": "run folder of train.py --tune classifier: the features before its last layer"}


def matches(name: str) -> bool:
    return is_task(_folder(name), {"architecture", "labels", "resolution"})


def build(request: Request) -> Extractor:
    folder = _folder(request.name)
    about = read_json(folder / "config.json")
    in_colour = bool(about.get("colour"))
    resolution = int(about["resolution"])
    request.choose(("default",))
    return Extractor(
        name=request.name,
        preprocessing=f"centre crop → pil-lanczos {resolution} → ±1{', in colour' if in_colour else ''}",
        prepare=partial(prepare, resolution=resolution),
        load=partial(load, folder),
        weights=(folder / "model.safetensors", folder / "config.json"),
        libraries=("timm", "transformers"),
        in_colour=in_colour,
    )


def prepare(image: Image.Image, resolution: int) -> np.ndarray:
    """Preprocessing of the classifier's training: (1 or, of colour, 3, resolution, resolution) in [-1, 1]."""
    image = centre_square(image)
    if image.width != resolution:
        image = image.resize((resolution, resolution), Image.Resampling.LANCZOS)
    pixels = np.asarray(image, dtype=np.float32) / 127.5 - 1
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def load(folder: Path, device: Any) -> Any:
    from sdcxr.backbones.image_classifier import Classifier

    return Classifier(folder, device).features


def part_of(run: str, name: str) -> Path:
    """The folder of a trained part: the subfolder `name` of a run folder if it exists, else the folder itself."""
    folder = Path(run).expanduser()
    return folder / name if (folder / name).is_dir() else folder


def is_task(folder: Path, keys: set[str]) -> bool:
    """Whether a folder holds weights and a config.json with these keys, unlike a model of transformers."""
    config = folder / "config.json"
    try:
        return (folder / "model.safetensors").is_file() and config.is_file() and keys <= set(read_json(config))
    except (UserError, TypeError):
        return False


def _folder(name: str) -> Path:
    return part_of(name, "classifier")
