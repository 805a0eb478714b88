"""RAD-DINO and other vision models of transformers (AutoModel), from a local folder or the hub's cache.

Variants (preprocessing of an image):
    native          the model's own processor on the image as it is (the default)
    chexgenbench    Pillow's bilinear 299 × 299 first, as CheXGenBench does even for RAD-DINO (518 px)

Features are the projected image embedding of models with text, else the pooler's output, else the CLS token. Weights
are read from safetensors only, and code from a repository is never run.
"""

import json
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eval.extractors.base import Extractor, Request
from eval.extractors.weights import hub_folder, load_pretrained, loading
from sdcxr.io.files import read_json
from sdcxr.io.hub import is_hub_name
from sdcxr.runtime.errors import UserError, first_line

KNOWN = {  # repository, size, dimension
    "rad-dino": ("microsoft/rad-dino", "346 MB", 768),
}
PROCESSOR = "preprocessor_config.json"
SHOWN = ("size", "crop_size", "resample", "do_resize", "do_center_crop", "do_normalize", "image_mean", "image_std")

NAMES = {
    "rad-dino": "microsoft/rad-dino (Pérez-García et al. 2024), 768; @native @chexgenbench",
    "OWNER/NAME": "any vision model of transformers: folder, or name on the hub; @native @chexgenbench",
}


def matches(name: str) -> bool:
    return name in KNOWN or (Path(name).expanduser() / PROCESSOR).is_file() or is_hub_name(name)


def build(request: Request) -> Extractor:
    variant = request.choose(("native", "chexgenbench"))
    folder, dimension = Path(request.name).expanduser(), None
    if not folder.is_dir():
        repository, about, dimension = KNOWN.get(request.name, (request.name, "size unknown", None))
        folder = hub_folder(repository, request.weights_dir, about)
    for name in ("config.json", PROCESSOR):
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}: it is not a vision model's folder of transformers")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UserError(f"{folder} has no .safetensors weights: pickled ones are not read, convert them first")
    settings = read_json(folder / PROCESSOR)
    settings_text = json.dumps({key: settings[key] for key in SHOWN if key in settings})
    return Extractor(
        name=f"{request.name}@{variant}",
        preprocessing=("pil-bilinear 299 → " if variant == "chexgenbench" else "") + f"processor {settings_text}",
        prepare=partial(prepare, folder=folder, first=299 if variant == "chexgenbench" else None),
        load=partial(load, folder),
        dimension=dimension,
        weights=(*weights, folder / "config.json", folder / PROCESSOR),
        libraries=("transformers",),
    )


def prepare(image: Image.Image, folder: Path, first: int | None) -> np.ndarray:
    """Preprocessing by the model's processor: (3, height, width)."""
    if first:
        image = image.resize((first, first), Image.Resampling.BILINEAR)
    pixels: np.ndarray = processor(folder)(images=image.convert("RGB"), return_tensors="np")["pixel_values"][0]
    return pixels


@lru_cache(maxsize=4)
def processor(folder: Path) -> Any:
    """The model's image processor on Pillow, whose filters the published numbers were computed with."""
    from transformers import AutoImageProcessor

    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        try:
            return AutoImageProcessor.from_pretrained(folder, backend="pil", **options)
        except ImportError:  # this model has no processor on Pillow
            return AutoImageProcessor.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder / PROCESSOR} cannot be used ({first_line(error)})") from None


def load(folder: Path, device: Any) -> Any:
    import torch
    from transformers import AutoModel

    with loading(str(folder)):
        model, absent = load_pretrained(AutoModel, folder)
    if random := [name for name in absent if not name.startswith("pooler.")]:
        raise UserError(f"{folder}: {len(random)} weights are absent (first: {random[0]}): download it again")
    processor(folder)  # cached before the workers are forked
    model = model.eval().to(device)

    def features(batch: Any) -> Any:
        if hasattr(model, "get_image_features"):
            found = model.get_image_features(pixel_values=batch)
            return found if isinstance(found, torch.Tensor) else found.pooler_output
        output = model(pixel_values=batch)
        if not absent and getattr(output, "pooler_output", None) is not None:
            return output.pooler_output.flatten(1)
        return output.last_hidden_state[:, 0]

    return features
