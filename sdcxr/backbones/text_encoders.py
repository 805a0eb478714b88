"""Text encoder and tokenizer as one: token ids with attention mask, token states, pooled embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from sdcxr.backbones.encoder_classes import clip_positions
from sdcxr.runtime.errors import UserError

BATCH = 64  # texts through the encoder at once


@dataclass(frozen=True)
class Tokens:
    """Texts as token ids, padded and cut to a length."""

    ids: np.ndarray
    """int64, shape (n, tokens)."""
    mask: np.ndarray
    """1 for the tokens of a text, 0 for its padding, int64, shape (n, tokens)."""
    n_cut: int
    """How many texts were longer."""


def tokenize(tokenizer: Any, texts: Sequence[str], window: int | None = None, length: int | None = None) -> Tokens:
    """Token ids and attention mask of texts; never logs what is cut off, which may be a patient's.

    Args:
        tokenizer: of transformers; texts are cut to its `model_max_length`.
        texts: any.
        window: tokens that the encoder takes at once, which divide that length. Each window of a longer text has its
            own start and end token and padding; windows behind the end of a text are those of the empty one.
        length: another one than the tokenizer's.
    """
    length = length or tokenizer.model_max_length
    window = window or length
    options = {"padding": "max_length", "max_length": window, "truncation": True, "return_tensors": "np"}
    if window == length:
        padded = tokenizer(list(texts), **options)
        ids, mask = (padded[name].astype("int64") for name in ("input_ids", "attention_mask"))
        return Tokens(ids, mask, n_cut=int(is_cut(tokenizer, texts, length).sum()))
    found = tokenizer([*texts, ""], return_overflowing_tokens=True, **options)
    text_of, most = found["overflow_to_sample_mapping"], length // window
    first = np.searchsorted(text_of, np.arange(len(texts)))
    n_windows = np.searchsorted(text_of, np.arange(len(texts)), side="right") - first
    there = np.arange(most) < n_windows[:, None]
    rows = np.where(there, first[:, None] + np.arange(most), len(text_of) - 1)  # the last is that of the empty text
    ids, mask = (found[name].astype("int64")[rows].reshape(-1, length) for name in ("input_ids", "attention_mask"))
    return Tokens(ids, mask, n_cut=int((n_windows > most).sum()))


def describe_cut(n_cut: int, n: int, length: int, what: str = "captions") -> str:
    """A line about texts that are cut to a length in tokens; empty where none is."""
    return f"{n_cut} of {n} {what} are cut to {length} tokens ({n_cut / n:.1%})" if n_cut else ""


def is_cut(tokenizer: Any, texts: Sequence[str], length: int) -> np.ndarray:
    """Which texts have more tokens than `length`, bool, shape (n,)."""
    full = tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
    return np.array([len(row) > length for row in full], dtype=bool)


class TextEncoder:
    """A transformers text encoder with its tokenizer, the one way from text to embedding.

    Args:
        module: the encoder; its first output is the token states.
        tokenizer: of transformers.
        use_mask: whether the encoder is given the attention mask. Stable Diffusion's CLIP is causal and was trained
            without; encoders that look both ways need it, or padding changes the embedding.

    Where the tokenizer's length is a multiple of CLIP's positions, texts are taken in windows of so many tokens, each
    encoded by itself, whose states are joined along the sequence.
    """

    def __init__(self, module: Any, tokenizer: Any, use_mask: bool = False):
        self.module, self.tokenizer, self.use_mask = module, tokenizer, use_mask
        self.positions = clip_positions(module)

    @classmethod
    def of(cls, module: Any, tokenizer: Any) -> Self:
        """With attention mask where the encoder's configuration asks the pipeline for one."""
        return cls(module, tokenizer, bool(getattr(module.config, "use_attention_mask", False)))

    @property
    def in_windows(self) -> bool:
        """Whether texts are longer than the encoder takes at once."""
        return self.positions is not None and self.tokenizer.model_max_length > self.positions

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """The texts as `states` takes them, cut to the tokenizer's length."""
        return tokenize(self.tokenizer, texts, self.positions if self.in_windows else None)

    def states(self, ids: Tensor, mask: Tensor | None = None, clip_skip: int = 0) -> Tensor:
        """Last hidden states (batch, tokens, width) of token ids (batch, tokens).

        Args:
            ids: int64.
            mask: attention mask (batch, tokens), needed with `use_mask`.
            clip_skip: layers to leave out at the end, before CLIP's final normalisation, as in diffusers.

        Raises:
            UserError: there are not that many layers, or no such normalisation.
        """
        if self.positions is None or ids.shape[1] <= self.positions:
            return self._states(ids, mask, clip_skip)
        windows = None if mask is None else mask.reshape(-1, self.positions)
        return self._states(ids.reshape(-1, self.positions), windows, clip_skip).reshape(*ids.shape, -1)

    def _states(self, ids: Tensor, mask: Tensor | None, clip_skip: int) -> Tensor:
        # transformers looks at the mask's values, which a count of the work on meta tensors does not have or need.
        masked = {"attention_mask": mask} if self.use_mask and not ids.is_meta else {}
        if not clip_skip:
            states: Tensor = self.module(ids, **masked)[0]
            return states
        inner: Any = getattr(self.module, "text_model", self.module)  # where transformers 4 has its layers
        layers = self.module.config.num_hidden_layers
        if not hasattr(inner, "final_layer_norm"):
            raise UserError(
                f"--clip_skip {clip_skip}: this text encoder is no CLIP: train with --text_skip_layers instead"
            )
        if clip_skip >= layers:
            raise UserError(f"--clip_skip {clip_skip}: this text encoder can leave out at most {layers - 1}")
        hidden = self.module(ids, output_hidden_states=True, **masked).hidden_states
        skipped: Tensor = inner.final_layer_norm(hidden[-(clip_skip + 1)])
        return skipped

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], pooling: Literal["mean", "end"] = "mean") -> np.ndarray:
        """One vector a text, float32 of shape (n, width).

        Args:
            texts: cut to the tokenizer's length.
            pooling: "mean" of the last states over a text's tokens without padding, or the state of its "end" token.
        """
        device = next(self.module.parameters()).device
        vectors = []
        for start in range(0, len(texts), BATCH):
            tokens = self.tokenize(texts[start : start + BATCH])
            # The mask hides padding: that behind the longest text is only work.
            used = int(tokens.mask.any(axis=0).cumsum().argmax()) + 1 if self.use_mask and not self.in_windows else None
            ids, attended = (torch.from_numpy(array[:, :used]).to(device) for array in (tokens.ids, tokens.mask))
            states = self.states(ids, attended).float()
            mask = without_empty(attended, self.positions) if self.positions and self.in_windows else attended
            mask = mask.to(states.dtype)
            if pooling == "end":
                last = mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)
                mask = nn.functional.one_hot(last, mask.shape[1]).to(states.dtype)
            vectors.append((states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True))
        return torch.cat(vectors).cpu().numpy()


def without_empty(mask: Tensor, window: int) -> Tensor:
    """A mask (n, tokens) without the windows behind the end of a text, which hold a start and an end token only."""
    windows = mask.reshape(len(mask), -1, window)
    empty = windows.sum(dim=2, keepdim=True) <= 2
    empty[:, 0] = False  # of the empty text
    return windows.masked_fill(empty, 0).reshape(mask.shape)
