"""Run folders of `train.py --tune clip` as extractors: unit embeddings of images and of texts in one space."""

from functools import partial
from pathlib import Path
from typing import Any

from eval.extractors.base import Extractor, Request, TextFeatures
from eval.extractors.run_classifier import is_task, part_of, prepare
from sdcxr.io.files import read_json

NAMES = {"RUN (clip)": "run folder of train.py --tune clip: its embeddings, also of texts"}


def matches(name: str) -> bool:
    return is_task(_folder(name), {"architecture", "resolution", "text"})


def build(request: Request) -> Extractor:
    folder = _folder(request.name)
    about = read_json(folder / "config.json")
    request.choose(("default",))
    return Extractor(
        name=request.name,
        preprocessing=f"centre crop → pil-lanczos {about['resolution']} → ±1",
        prepare=partial(prepare, resolution=int(about["resolution"])),
        load=partial(load, folder),
        load_texts=partial(load_texts, folder),
        dimension=int(about["text"]["projection_dim"]),
        weights=(folder / "model.safetensors", folder / "config.json"),
        libraries=("timm", "transformers"),
    )


def load(folder: Path, device: Any) -> Any:
    from sdcxr.backbones.image_text_towers import Clip

    return Clip(folder, device).towers.encode_images


def load_texts(folder: Path, device: Any) -> Any:
    from sdcxr.backbones.image_text_towers import Clip
    from sdcxr.backbones.text_encoders import is_cut

    clip = Clip(folder, device)

    def embed(texts: list[str]) -> TextFeatures:
        return TextFeatures(clip.encode_texts(texts), is_cut(clip.tokenizer, texts, clip.tokenizer.model_max_length))

    return embed


def _folder(name: str) -> Path:
    return part_of(name, "clip")
