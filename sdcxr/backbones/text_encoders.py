"""Text encoder and tokenizer as one: token ids with attention mask, token states, pooled embeddings."""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from sdcxr.runtime.errors import UserError

BATCH = 64  # texts through the encoder at once


@dataclass(frozen=True)
class Tokens:
    """Texts as token ids, padded and cut to the tokenizer's length."""

    ids: np.ndarray
    """int64, shape (n, tokens)."""
    mask: np.ndarray
    """1 for the tokens of a text, 0 for its padding, int64, shape (n, tokens)."""
    n_cut: int
    """How many texts were longer."""


def tokenize(tokenizer: Any, texts: Sequence[str]) -> Tokens:
    """Token ids and attention mask of texts; never logs what is cut off, which may be a patient's."""
    length = tokenizer.model_max_length
    padded = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="np")
    ids, mask = (padded[name].astype("int64") for name in ("input_ids", "attention_mask"))
    return Tokens(ids, mask, n_cut=int(is_cut(tokenizer, texts, length).sum()))


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
    """

    def __init__(self, module: Any, tokenizer: Any, use_mask: bool = False):
        self.module, self.tokenizer, self.use_mask = module, tokenizer, use_mask

    @classmethod
    def of(cls, module: Any, tokenizer: Any) -> Self:
        """With attention mask where the encoder's configuration asks the pipeline for one."""
        return cls(module, tokenizer, bool(getattr(module.config, "use_attention_mask", False)))

    def states(self, ids: Tensor, mask: Tensor | None = None, clip_skip: int = 0) -> Tensor:
        """Last hidden states (batch, tokens, width) of token ids (batch, tokens).

        Args:
            ids: int64.
            mask: attention mask (batch, tokens), needed with `use_mask`.
            clip_skip: layers to leave out at the end, before CLIP's final normalisation, as in diffusers.

        Raises:
            UserError: there are not that many layers, or no such normalisation.
        """
        # transformers looks at the mask's values, which a count of the work on meta tensors does not have or need.
        masked = {"attention_mask": mask} if self.use_mask and not ids.is_meta else {}
        if not clip_skip:
            states: Tensor = self.module(ids, **masked)[0]
            return states
        inner: Any = getattr(self.module, "text_model", self.module)  # where transformers 4 has its layers
        layers = self.module.config.num_hidden_layers
        if not hasattr(inner, "final_layer_norm") or clip_skip >= layers:
            most = f"at most {layers - 1}" if hasattr(inner, "final_layer_norm") else "not, as it is no CLIP"
            raise UserError(f"--clip_skip {clip_skip}: this text encoder can leave out {most}")
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
            tokens = tokenize(self.tokenizer, texts[start : start + BATCH])
            # The mask hides padding: that behind the longest text is only work.
            used = int(tokens.mask.any(axis=0).nonzero()[0].max(initial=0)) + 1 if self.use_mask else None
            ids, attended = (torch.from_numpy(array[:, :used]).to(device) for array in (tokens.ids, tokens.mask))
            states = self.states(ids, attended).float()
            mask = attended.to(states.dtype)
            if pooling == "end":
                mask = nn.functional.one_hot(mask.sum(dim=1).long() - 1, mask.shape[1]).to(states.dtype)
            vectors.append((states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True))
        return torch.cat(vectors).cpu().numpy()


def clip_tokenizer(max_length: int = 77) -> Any:
    """CLIP's tokenizer, its vocabulary built from the merges that ship inside open_clip_torch.

    Raises:
        UserError: the installed open_clip_torch has no such file.
    """
    import importlib.util

    from transformers import CLIPTokenizer

    package = importlib.util.find_spec("open_clip")
    path = Path(package.origin or "").parent / "bpe_simple_vocab_16e6.txt.gz" if package else Path()
    if not path.is_file():
        raise UserError("open_clip_torch with its CLIP vocabulary is not installed: pip install open_clip_torch")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1:]  # the first line is a version
    merges = [tuple(line.split()) for line in lines[: 49152 - 256 - 2]]
    letters = byte_letters()
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge) for merge in merges)]
    vocabulary = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=max_length)


def byte_letters() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in the order of CLIP's vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
