"""The CLIP task: an image and a text tower whose embeddings agree on which caption belongs to which radiograph.

Small towers for the evaluation of small experiments: a timm network for grey images and CLIP's own text transformer,
both from random weights.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sdcxr.backbones import stable_diffusion as components
from sdcxr.config import TrainConfig
from sdcxr.data.stream import CaptionedImages
from sdcxr.embedded import base as tiny
from sdcxr.io.files import atomic, read_json, write_json
from sdcxr.io.manifest import text_key
from sdcxr.runtime.errors import UserError
from sdcxr.tasks.base import training_rows
from sdcxr.tasks.classifier import ARCHITECTURE, RESOLUTION, network

DIMENSION = 64  # of the embeddings
TEXT_TOWER = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
START_TEMPERATURE, MIN_TEMPERATURE = 0.07, 0.01  # of CLIP (Radford et al. 2021, arXiv 2103.00020)


class ClipTask(nn.Module):
    """Symmetric InfoNCE over the images of a micro-batch, all images of one caption being positives of each other.

    A sample's loss depends on the other samples of its micro-batch, which are its negatives. So micro-steps and
    processes do not add up to one large batch: `--train_batch_size` is part of what is learnt.
    """

    def __init__(self, config: TrainConfig):
        super().__init__()
        if config.train_batch_size < 2:
            raise UserError(f"--train_batch_size {config.train_batch_size}: clip compares images, it needs at least 2")
        self.config = config
        rows = training_rows(config)
        self.rows = rows[rows["text"].str.strip() != ""]
        self.captions, distinct = pd.factorize(self.rows["text"].map(text_key))
        if len(distinct) < 2:
            raise UserError(f"{config.data}: clip needs at least 2 different captions, train has {len(distinct)}")
        self.resolution = config.resolution or RESOLUTION
        self.architecture = config.base or ARCHITECTURE
        self.tokenizer = tiny.tokenizer()
        self.towers = Towers(self.architecture, text_config(self.tokenizer))

    def groups(self) -> list[dict[str, Any]]:
        rate, text_rate = self.config.learning_rate, self.config.text_encoder_lr or self.config.learning_rate
        return [
            {"name": "image tower", "params": list(self.towers.image.parameters()), "lr": rate},
            {"name": "text tower", "params": list(self.towers.text.parameters()), "lr": text_rate},
            {"name": "temperature", "params": [self.towers.log_scale], "lr": rate, "weight_decay": 0.0},
        ]

    def examples(self) -> CaptionedImages:
        input_ids, cut = components.token_ids(self.tokenizer, self.rows["text"].tolist())
        if cut:
            print(f"{cut} of {len(input_ids)} captions are cut to {self.tokenizer.model_max_length} tokens")
        # The tower is causal and reads at the first end token: what follows the longest caption changes nothing.
        longest = int((input_ids != self.tokenizer.eos_token_id).sum(axis=1).max()) + 1
        paths, ids = self.rows["path"].tolist(), self.rows["id"].tolist()
        return CaptionedImages(paths, ids, input_ids[:, :longest], self.captions, self.resolution)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        images, texts = self.towers.encode_images(batch["pixels"]), self.towers.encode_texts(batch["input_ids"])
        kind = images.device.type
        # In half precision, cosines over a small temperature are too coarse. Autocast knows no meta device, on which
        # operations are counted.
        with torch.autocast("cpu" if kind == "meta" else kind, enabled=False):
            return info_nce(images.float(), texts.float(), batch["caption"], self.towers.scale())

    def validation_examples(self) -> None:
        """None: the loss compares the images of one batch, and says little of so few."""

    n_previews = 0

    def preview(self, indices: list[int]) -> list[np.ndarray]:
        return []

    def save(self, run: Path) -> None:
        folder = run / "clip"
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(folder / "tokenizer")
        tensors = {name: tensor.contiguous() for name, tensor in self.towers.state_dict().items()}
        with atomic(folder / "model.safetensors") as temporary:
            save_file(tensors, temporary)
        about = {"architecture": self.architecture, "resolution": self.resolution, "text": text_config(self.tokenizer)}
        write_json(folder / "config.json", about)


def info_nce(images: Tensor, texts: Tensor, captions: Tensor, scale: Tensor) -> Tensor:
    """Symmetric cross-entropy of images against texts, the target spread evenly over all pairs of one caption.

    With distinct captions this is CLIP's loss; with repeated ones the bidirectional loss of UniCL (Yang et al. 2022,
    arXiv 2204.03610), which does not push an image away from its own caption on another row.

    Args:
        images: unit embeddings, shape (batch, dimension).
        texts: unit embeddings, row i the caption of image i, shape (batch, dimension).
        captions: equal numbers for equal captions, shape (batch,).
        scale: inverse temperature.

    Returns:
        The loss of each sample, shape (batch,); its mean is the loss of the batch.
    """
    logits = scale * images @ texts.T
    same = (captions[:, None] == captions[None, :]).to(logits.dtype)
    target = same / same.sum(dim=1, keepdim=True)
    by_image = -(target * logits.log_softmax(dim=1)).sum(dim=1)
    by_text = -(target * logits.T.log_softmax(dim=1)).sum(dim=1)
    return (by_image + by_text) / 2


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
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{folder} is damaged or of another network ({reason}): copy or train it again") from None
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
        input_ids, _ = components.token_ids(self.tokenizer, texts)
        chunks = torch.from_numpy(input_ids).to(self.device).split(batch_size)
        return torch.cat([self.towers.encode_texts(chunk).float() for chunk in chunks]).cpu().numpy()
