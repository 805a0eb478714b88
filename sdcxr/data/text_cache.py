"""Cached text conditioning of a frozen encoder: every distinct caption once, trimmed to its length."""

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdcxr.backbones.base import Conditioning
from sdcxr.data.shard_cache import ShardCache, build_cache

VERSION = 3  # of the way from caption to rows; part of the fingerprint
SHARD = 64  # rows a shard, which is made in memory: half a gigabyte of the widest states (512 tokens × 7,680)
PREFIX = "conditioning."  # of the batch's fields


class CachedCaptions:
    """Captions of the diffusion task as rows of a cache, whose row 0 is the empty caption."""

    def __init__(self, cache: ShardCache, rows: list[int], texts: list[str]):
        self.cache, self.rows, self.texts = cache, rows, texts
        self.tokens = cache.longest("hidden")  # one shape for all batches: the longest caption's

    def fields(self, index: int | None, draws: np.random.Generator) -> dict[str, Tensor]:
        values = dict(self.cache[0 if index is None else self.rows[index]])
        padding = self.tokens - len(values["hidden"])
        for name in ("hidden", "mask"):
            if name in values:
                values[name] = nn.functional.pad(values[name], (0,) * (2 * values[name].ndim - 1) + (padding,))
        return {PREFIX + name: value for name, value in values.items()}

    def content(self) -> dict[str, np.ndarray]:
        return {"texts": np.frombuffer("\0".join(self.texts).encode(), dtype=np.uint8)}


def conditioning_of(batch: dict[str, Tensor]) -> Conditioning | None:
    """The conditioning that a batch carries; None where it carries token ids."""
    tensors = {name.removeprefix(PREFIX): value for name, value in batch.items() if name.startswith(PREFIX)}
    return Conditioning.of(tensors) if tensors else None


def cached_captions(
    backbone: Any, device: torch.device, texts: list[str], default: Path, frozen_only: bool = False
) -> CachedCaptions:
    """The conditioning of the captions, encoded first where it is not cached.

    Args:
        backbone: a `Backbone`, whose text encoder is on the device.
        device: where to encode.
        texts: a caption per image.
        default: see `build_cache`.
        frozen_only: the part of it that comes from encoders which never train.
    """
    distinct = sorted(set(texts))
    tokens, _ = backbone.tokenize(distinct)
    null = backbone.tokenize_null()

    def encode(first: int, last: int) -> dict[str, Tensor | list[Tensor]]:
        rows = []
        if not first:
            rows.append(_rows(encoded(null) if frozen_only else backbone.unconditional(1)))
        if last > max(first, 1):
            rows.append(_rows(encoded({name: ids[max(first, 1) - 1 : last - 1] for name, ids in tokens.items()})))
        return {name: [row for part in rows for row in part[name]] for name in rows[0]}

    def encoded(arrays: dict[str, np.ndarray]) -> Conditioning:
        here = {name: torch.from_numpy(ids).to(device) for name, ids in arrays.items()}
        states: Conditioning = (backbone.encode_frozen if frozen_only else backbone.encode_text)(here)
        return states

    digest = hashlib.sha256()
    for arrays in (null, tokens):
        for _, ids in sorted(arrays.items()):
            digest.update(ids.tobytes())
    fingerprint = backbone.text_fingerprint() | {
        "captions": hashlib.sha256("\0".join(distinct).encode()).hexdigest(),
        "tokens": digest.hexdigest(),
        "n_captions": len(distinct),
        "frozen_only": frozen_only,
        "transformers": version("transformers").partition(".")[0],
        "version": VERSION,
    }
    cache = build_cache("text conditioning", fingerprint, encode, len(distinct) + 1, None, default, SHARD)
    row_of = {text: row for row, text in enumerate(distinct, start=1)}
    return CachedCaptions(cache, [row_of[text] for text in texts], texts)


def _rows(conditioning: Conditioning) -> dict[str, list[Tensor]]:
    """A list per tensor; token states and mask without the padding at the end."""
    tensors = conditioning.tensors()
    lengths = [tensors["hidden"].shape[1]] * len(tensors["hidden"])
    if conditioning.mask is not None:
        lengths = [int(mask.nonzero().max()) + 1 if mask.any() else 1 for mask in conditioning.mask]
    return {
        name: [row[:n] if name in ("hidden", "mask") else row for row, n in zip(value, lengths, strict=True)]
        for name, value in tensors.items()
    }
