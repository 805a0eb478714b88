"""Two CLIP text encoders side by side, as in Stable Diffusion XL and 3: penultimate states, pooled vectors."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdcxr.backbones.base import Conditioning
from sdcxr.backbones.compatibility import fit_tokenizer
from sdcxr.backbones.text_encoders import tokenize
from sdcxr.runtime.errors import UserError

ENCODERS = {"text": "input_ids", "text_2": "input_ids_2"}  # parts of a backbone, and their token ids


class ClipPair:
    """Token states of both encoders joined along the width (Podell et al. 2023, arXiv 2307.01952, sec. 2).

    Args:
        parts: of the backbone, with the encoders "text" and "text_2": CLIPTextModel or CLIPTextModelWithProjection.
        tokenizers: of both.
    """

    def __init__(self, parts: dict[str, Any], tokenizers: tuple[Any, Any]):
        self.parts, self.tokenizers = parts, tokenizers

    @property
    def modules(self) -> list[Any]:
        return [self.parts[name] for name in ENCODERS]

    @property
    def length(self) -> int:
        """Tokens of a text."""
        return int(self.tokenizers[0].model_max_length)

    def check(self) -> None:
        """Refuse tokenizers that do not fit their encoders.

        Raises:
            UserError: what does not fit.
        """
        for tokenizer, module in zip(self.tokenizers, self.modules, strict=True):
            fit_tokenizer(tokenizer, module)
        first, second = (tokenizer.model_max_length for tokenizer in self.tokenizers)
        if first != second:
            raise UserError(f"its two CLIPs take {first} and {second} tokens: parts of different models")

    def tokenize(self, texts: list[str]) -> tuple[dict[str, np.ndarray], int]:
        """Ids for `encode`, each (n, tokens), and how many texts were cut."""
        tokens = [tokenize(tokenizer, texts) for tokenizer in self.tokenizers]
        ids = {name: each.ids for name, each in zip(ENCODERS.values(), tokens, strict=True)}
        return ids, max(each.n_cut for each in tokens)

    def encode(self, tokens: dict[str, Tensor], clip_skip: int = 0) -> Conditioning:
        """Penultimate states (batch, tokens, width), and pooled the vectors of the encoders with a projection.

        Args:
            tokens: from `tokenize`.
            clip_skip: further layers to leave out at the end, as in diffusers.

        Raises:
            UserError: there are not that many layers.
        """
        hidden, pooled = [], []
        for module, ids in zip(self.modules, (tokens[name] for name in ENCODERS.values()), strict=True):
            layers = module.config.num_hidden_layers
            if clip_skip >= layers:
                raise UserError(f"--clip_skip {clip_skip}: this text encoder can leave out at most {layers - 1}")
            output = module(ids, output_hidden_states=True)
            hidden.append(output.hidden_states[-(clip_skip + 2)])
            if output[0].ndim == 2:  # with a projection; else the last states
                pooled.append(output[0])
        return Conditioning(torch.cat(hidden, dim=-1), pooled=torch.cat(pooled, dim=-1) if pooled else None)


def behind_penultimate(encoder: nn.Module) -> tuple[str, ...]:
    """Names of the modules that the penultimate states do not pass: the last layer and the normalisation behind it."""
    last = max(
        (name for name, _ in encoder.named_modules() if name.rpartition(".")[0].endswith("encoder.layers")),
        key=lambda name: int(name.rpartition(".")[2]),
    )
    norm = next(name for name, _ in encoder.named_modules() if name.endswith("final_layer_norm"))
    return last, norm
