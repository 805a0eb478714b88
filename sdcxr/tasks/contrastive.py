"""The CLIP task: contrastive training of an image and a text tower on radiographs and captions.

Small towers for the evaluation of small experiments: a timm network for grey images and CLIP's own text transformer,
both from random weights.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sdcxr.backbones.image_classifier import ARCHITECTURE, RESOLUTION
from sdcxr.backbones.image_text_towers import Towers, text_config
from sdcxr.backbones.text_encoders import describe_cut, tokenize
from sdcxr.config import TrainConfig
from sdcxr.data.examples import CaptionedImages
from sdcxr.io.files import atomic, write_json
from sdcxr.io.manifest import text_key
from sdcxr.runtime.errors import UserError
from sdcxr.tasks.base import training_rows
from sdcxr.text.clip_tokens import clip_tokenizer


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
        self.base_sha256: dict[str, str] = {}
        self.notes: dict[str, Any] = {}
        self.tokenizer = clip_tokenizer()
        self.towers = Towers(self.architecture, text_config(self.tokenizer))

    def groups(self) -> list[dict[str, Any]]:
        rate, text_rate = self.config.learning_rate, self.config.text_encoder_lr or self.config.learning_rate
        return [
            {"name": "image tower", "params": list(self.towers.image.parameters()), "lr": rate},
            {"name": "text tower", "params": list(self.towers.text.parameters()), "lr": text_rate},
            {"name": "temperature", "params": [self.towers.log_scale], "lr": rate, "weight_decay": 0.0},
        ]

    def examples(self) -> CaptionedImages:
        tokens = tokenize(self.tokenizer, self.rows["text"].tolist())
        input_ids = tokens.ids
        self.notes["captions"] = {"cut": tokens.n_cut, "of": len(input_ids), "tokens": input_ids.shape[1]}
        if line := describe_cut(tokens.n_cut, *input_ids.shape):
            print(line)
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
        """None: the loss compares the images of one batch, and is meaningless for so few."""

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
