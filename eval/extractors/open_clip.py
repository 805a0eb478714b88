"""CLIP and BiomedCLIP: image and text towers of open_clip, from local folders or the hub's cache.

The towers are built separately: images need no configuration of a text encoder. Features are the projected embeddings,
not normalised. Preprocessing follows open_clip_config.json; with OpenAI's weights and square images it equals that of
cmmd-pytorch (Jayasumana et al. 2024, arXiv 2401.09603).
"""

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eval.extractors.base import Extractor, Request, TextFeatures
from eval.extractors.pickles import load_state
from eval.extractors.weights import hub_folder
from sdcxr.io.files import read_json
from sdcxr.runtime.errors import UserError

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "model.safetensors", "open_clip_pytorch_model.bin")
TEXTS = 64  # texts through the tower at once
KNOWN = {  # repository, size, dimension
    "clip:ViT-B-32": ("timm/vit_base_patch32_clip_224.openai", "about 605 MB, size unconfirmed", 512),
    "clip:ViT-L-14": ("timm/vit_large_patch14_clip_224.openai", "about 1.7 GB, size unconfirmed", 768),
    "clip:ViT-L-14-336": ("timm/vit_large_patch14_clip_336.openai", "about 1.7 GB, size unconfirmed", 768),
    "biomedclip": ("microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", "784 MB", 512),
}

NAMES = {
    "clip:ViT-L-14-336": "OpenAI's CLIP, image tower of open_clip, 768 (also ViT-L-14, ViT-B-32)",
    "biomedclip": "BiomedCLIP, image tower of open_clip, 512",
    "clip:DIR": "any other open_clip model: a folder with open_clip_config.json",
}


def matches(name: str) -> bool:
    return name in KNOWN or name.startswith("clip:") or (_folder(name) / CONFIG).is_file()


def build(request: Request) -> Extractor:
    request.choose(("native",))
    folder, dimension = _folder(request.name.removeprefix("clip:")), None
    if request.name in KNOWN:
        repository, about, dimension = KNOWN[request.name]
        folder = hub_folder(repository, request.weights_dir, about)
    if not (folder / CONFIG).is_file():
        known = ", ".join(KNOWN)
        raise UserError(f"--extractor {request.name}: {folder} has no {CONFIG} (known by name: {known})")
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise UserError(f"{folder} has no weights ({' or '.join(WEIGHTS)}): download it whole")
    how = preprocessing(folder)
    openai = request.name in KNOWN and request.name != "biomedclip"
    return Extractor(
        name=request.name,
        preprocessing=f"open_clip {how.resize_mode} pil-{how.interpolation} {how.size} → mean {how.mean} std {how.std}",
        prepare=partial(prepare, folder=folder),
        load=partial(load, folder, weights, openai),
        load_texts=partial(load_texts, folder, weights, openai, request.weights_dir),
        dimension=dimension,
        weights=(weights, folder / CONFIG),
        libraries=("open_clip_torch", "timm"),
    )


def image_size(folder: Path) -> int:
    """Side of the network's square input in pixels."""
    size = read_json(folder / CONFIG)["model_cfg"]["vision_cfg"].get("image_size", 224)
    return int(size[0] if isinstance(size, list) else size)


def preprocessing(folder: Path) -> Any:
    """open_clip's PreprocessCfg of the folder."""
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    given = read_json(folder / CONFIG).get("preprocess_cfg", {})
    return PreprocessCfg(**merge_preprocess_dict({"size": image_size(folder)}, given))


@lru_cache(maxsize=4)
def transform(folder: Path) -> Any:
    """open_clip's transform for inference."""
    from open_clip.transform import image_transform_v2

    return image_transform_v2(preprocessing(folder), is_train=False)


def prepare(image: Image.Image, folder: Path) -> np.ndarray:
    """open_clip's preprocessing: (3, side, side)."""
    pixels: np.ndarray = transform(folder)(image.convert("RGB")).numpy()
    return pixels


def load(folder: Path, weights: Path, openai: bool, device: Any) -> Any:
    """The image tower without the text tower.

    Args:
        folder: folder of open_clip_config.json.
        weights: file of the whole model.
        openai: whether these are OpenAI's weights, which need QuickGELU even if the configuration does not say so.
        device: the torch device.
    """
    from open_clip.model import CLIPVisionCfg, _build_vision_tower

    about = read_json(folder / CONFIG)["model_cfg"]
    vision = CLIPVisionCfg(**about["vision_cfg"] | {"timm_model_pretrained": False, "output_tokens": False})
    tower = _build_vision_tower(about["embed_dim"], vision, quick_gelu=openai or about.get("quick_gelu", False))
    _fill(tower, "visual.", read_state(weights), weights)
    transform(folder)  # cached before the workers are forked
    return tower.eval().float().to(device)


def load_texts(folder: Path, weights: Path, openai: bool, weights_dir: Path | None, device: Any) -> Any:
    """The text tower without the image tower: texts to embeddings (n, dimension) in the space of the images.

    The architecture of a text encoder of transformers comes from the folder or repository `hf_model_name` (in
    `weights_dir` or the hub's cache), its weights from the file of the whole model.

    Raises:
        UserError: that configuration is not on this machine.
    """
    import open_clip
    import torch
    from open_clip.model import CLIPTextCfg, _build_text_tower, convert_to_custom_text_state_dict

    about = read_json(folder / CONFIG)["model_cfg"]
    text = CLIPTextCfg(**about["text_cfg"] | {"hf_model_pretrained": False, "output_tokens": False})
    if text.hf_model_name and not Path(text.hf_model_name).is_dir():
        text.hf_model_name = str(hub_folder(text.hf_model_name, weights_dir, "of which config.json is enough"))
    tower = _build_text_tower(about["embed_dim"], text, quick_gelu=openai or about.get("quick_gelu", False))
    state = convert_to_custom_text_state_dict(read_state(weights))
    state.pop("text.transformer.embeddings.position_ids", None)  # a buffer that transformers no longer keeps
    _fill(tower, "text.", state, weights)
    tower = tower.eval().float().to(device)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")

    @torch.no_grad()
    def embed(texts: list[str]) -> TextFeatures:
        chunks = [tokenizer(texts[i : i + TEXTS]).to(device) for i in range(0, len(texts), TEXTS)]
        return TextFeatures(torch.cat([tower(chunk) for chunk in chunks]).cpu().numpy(), _cut(tokenizer, texts))

    return embed


def _cut(tokenizer: Any, texts: list[str]) -> np.ndarray:
    """Which texts are longer than a tokenizer of open_clip reads: its own, or one around that of transformers."""
    from sdcxr.backbones.text_encoders import is_cut

    inner = getattr(tokenizer, "tokenizer", None)
    if inner is not None:
        return is_cut(inner, texts, tokenizer.context_length)
    return np.array([len(tokenizer.encode(text)) + 2 > tokenizer.context_length for text in texts])  # + start and end


def _fill(tower: Any, prefix: str, state: dict[str, Any], weights: Path) -> None:
    """Load a tower's part of a state dict into it, strictly."""
    part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    try:
        tower.load_state_dict(part)
    except RuntimeError as error:
        raise UserError(f"{weights} does not fit its {CONFIG} ({str(error).splitlines()[1].strip()})") from None


def read_state(weights: Path) -> dict[str, Any]:
    """A state dict from safetensors, or from a pickle of tensors.

    Raises:
        UserError: it is damaged or contains other objects.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if weights.suffix != ".safetensors":
        return load_state(weights)
    try:
        return load_file(weights)
    except SafetensorError as error:
        raise UserError(f"{weights} is damaged ({error}): download it again") from None


def _folder(name: str) -> Path:
    folder = Path(name).expanduser()
    return folder / "clip" if (folder / "clip" / CONFIG).is_file() else folder
