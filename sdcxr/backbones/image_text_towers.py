"""The image and text towers of `train.py --tune clip`: a timm network and CLIP's text transformer, and their folder."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sdcxr.backbones.image_classifier import network
from sdcxr.backbones.text_encoders import tokenize
from sdcxr.io.files import read_json
from sdcxr.runtime.errors import UserError, first_line

START_TEMPERATURE, MIN_TEMPERATURE = 0.07, 0.01  # of CLIP (Radford et al. 2021, arXiv 2103.00020)
DIMENSION = 64  # of the embeddings

TEXT_TOWER = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}


def text_config(tokenizer: Any) -> dict[str, int]:
    """The settings of the text tower that fit a tokenizer, as transformers' CLIPTextConfig takes them."""
    return TEXT_TOWER | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "projection_dim": DIMENSION,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


class Towers(nn.Module):
    """Both towers and the temperature, with random weights."""

    def __init__(self, architecture: str, text: dict[str, int]):
        from transformers import CLIPTextConfig, CLIPTextModelWithProjection

        super().__init__()
        self.image = network(architecture, text["projection_dim"])
        self.text: Any = CLIPTextModelWithProjection(CLIPTextConfig(**text))
        self.log_scale = nn.Parameter(torch.tensor(-math.log(START_TEMPERATURE)))

    def scale(self) -> Tensor:
        """The inverse temperature, kept at or below 1 / MIN_TEMPERATURE."""
        return self.log_scale.clamp(max=-math.log(MIN_TEMPERATURE)).exp()

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Unit embeddings (batch, dimension) of images (batch, 1, H, W) in [-1, 1]."""
        return nn.functional.normalize(self.image(pixels), dim=1)

    def encode_texts(self, input_ids: Tensor) -> Tensor:
        """Unit embeddings (batch, dimension) of token ids (batch, tokens), each row with an end token."""
        return nn.functional.normalize(self.text(input_ids).text_embeds, dim=1)


class Clip:
    """A trained CLIP folder, ready to embed images and texts: `resolution`, `dimension`, `encode_*`."""

    def __init__(self, folder: Path, device: torch.device):
        from transformers import CLIPTokenizer

        folder = folder / "clip" if (folder / "clip").is_dir() else folder
        for name in ("config.json", "model.safetensors", "tokenizer"):
            if not (folder / name).exists():
                raise UserError(f"{folder} holds no trained CLIP (no {name}): make one with train.py --tune clip")
        self.weights = folder / "model.safetensors"
        about = read_json(folder / "config.json")
        try:
            self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
            self.towers = Towers(about["architecture"], about["text"])
            self.towers.load_state_dict(load_file(self.weights))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, RuntimeError) as error:
            raise UserError(
                f"{folder} is damaged or of another network ({first_line(error)}): copy or train it again"
            ) from None
        self.resolution: int = about["resolution"]
        self.dimension: int = about["text"]["projection_dim"]
        self.device = device
        self.towers.eval().to(device)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> np.ndarray:
        """Unit embeddings (batch, dimension) float32 of images (batch, 1, resolution, resolution) in [-1, 1]."""
        return self.towers.encode_images(pixels.to(self.device)).float().cpu().numpy()

    @torch.no_grad()
    def encode_texts(self, texts: list[str], batch_size: int = 256) -> np.ndarray:
        """Unit embeddings (n, dimension) float32 of texts; what passes the tokenizer's length is cut off."""
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        chunks = torch.from_numpy(tokenize(self.tokenizer, texts).ids).to(self.device).split(batch_size)
        return torch.cat([self.towers.encode_texts(chunk).float() for chunk in chunks]).cpu().numpy()
