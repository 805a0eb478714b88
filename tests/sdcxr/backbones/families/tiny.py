"""What the tiny families share: what the contract asks of one, tokenizers and networks with random weights."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from sdcxr.noise.ddpm import Ddpm
from tests.sdcxr.backbones.small_encoders import LETTERS, WORDS

Embeddings = dict[str, Tensor]  # by the names of `Conditioning.tensors`


def _same(x: Tensor) -> Tensor:
    return x


def _same_latents(_: Any, images: Tensor) -> Tensor:
    return images


@dataclass(frozen=True)
class Published:
    """A denoiser of published size, built on the meta device, and what is known of it."""

    build: Callable[[], nn.Module]
    parameters: int
    conditioning: Callable[[], Embeddings]
    """What its text encoders give for one text."""
    latent: tuple[int, int, int]
    """(channels, h, w) at 512 px."""
    forward_gflop: int
    training_gflop: int
    """Forward and backward pass of all weights."""
    lora: tuple[int, int]
    """Adapted modules and parameters of LoRA of rank 16 on the attention."""


@dataclass(frozen=True)
class Tiny:
    """A tiny member of a family, as `tiny_<family>.py` defines it in `TINY`."""

    build: Callable[[], Any]
    """The plain pipeline with random weights: less than a second."""
    resolution: int
    embed: Callable[[Any, list[str]], Embeddings]
    """The plain pipeline's own embeddings of prompts."""
    null: Callable[[Any, int], Embeddings]
    """Its own unconditional ones."""
    published: dict[str, Published]
    oracle: float = 1e-6
    """How far a perfect denoiser may leave the data, by the sampler's own fault."""
    unpacked: Callable[[Tensor], Tensor] = _same
    """The network's input as latents (batch, channels, h, w)."""
    answer: Callable[[Tensor], Tensor] = _same
    """What the network answers where this is the target."""
    latents: Callable[[Any, Tensor], Tensor] = _same_latents
    """What `output_type="latent"` gives, as the denoiser sees it."""
    scheduler: str | None = None
    """Of generate.py, where the saved one is not the family's default."""
    call: dict[str, Any] = field(default_factory=dict)
    """Further keywords of the plain pipeline's call."""
    modes: tuple[str, ...] = ("unet",)
    """Values of `--tune` that the family takes, beside "vae"."""
    trains: dict[str, Any] = field(default_factory=dict)
    """Further settings of its trainings."""


def masked_null(pipe: Any, n: int) -> Embeddings:
    """`Tiny.null` of a pipeline whose embeddings have a mask."""
    *_, hidden, mask = pipe.encode_prompt(["any"] * n, do_classifier_free_guidance=True)
    return {"hidden": hidden, "mask": mask}


def meta_states(tokens: int, width: int, pooled: int | None = None, mask: bool = False) -> Callable[[], Embeddings]:
    """`Published.conditioning` of one text."""

    def states() -> Embeddings:
        found = {"hidden": torch.empty(1, tokens, width, device="meta")}
        if pooled is not None:
            found["pooled"] = torch.empty(1, pooled, device="meta")
        if mask:
            found["mask"] = torch.empty(1, tokens, dtype=torch.int64, device="meta")
        return found

    return states


def noise_of(process: Any, x_t: Tensor, x0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The noise in x_t by a network that knows x0, and the process's own time, from the time that it is given."""
    if isinstance(process, Ddpm):
        alpha = process.alphas_cumprod[t.long()].view(-1, 1, 1, 1)
        return (x_t - alpha.sqrt() * x0) / (1 - alpha).sqrt(), t.long()
    sigma = t.double() / process.time_scale
    share = sigma.view(-1, 1, 1, 1)
    return ((x_t - (1 - share) * x0) / share).float(), sigma


@cache
def byte_pairs(special: tuple[str, ...], byte_level: bool) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges over the words of the micro dataset, after the special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    level, spaces = pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = level if byte_level else spaces
    alphabet = level.alphabet() if byte_level else [*LETTERS, *"▁.,;:'\"-()0123456789\n"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    import json

    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(each) for each in model["merges"]]


def kl_vae(channels: int, **settings: Any) -> Any:
    """AutoencoderKL with factor 8."""
    from diffusers import AutoencoderKL

    about: dict[str, Any] = {
        "latent_channels": channels,
        "block_out_channels": (4, 8, 8, 8),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    return AutoencoderKL(**about | settings)


def clip(projected: bool = False, width: int = 32, layers: int = 2) -> tuple[Any, Any]:
    """CLIP's text encoder, with its projection or without, and its tokenizer with the first 1000 merges."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from tests.conftest import micro_tokenizer

    tokenizer = micro_tokenizer()
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    about = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers}
    config = CLIPTextConfig(vocab_size=len(tokenizer), num_attention_heads=2, projection_dim=width, **about, **special)
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config), tokenizer


def t5(width: int = 32) -> tuple[Any, Any]:
    """T5's encoder and tokenizer."""
    from transformers import T5Config, T5EncoderModel

    from tests.sdcxr.backbones.small_encoders import unigrams

    tokenizer = unigrams()
    about = {"d_model": width, "d_kv": 16, "d_ff": 2 * width, "num_layers": 2, "num_heads": 2}
    about |= {"feed_forward_proj": "gated-gelu", "is_encoder_decoder": False}
    return T5EncoderModel(T5Config(vocab_size=len(tokenizer), **about)), tokenizer


def on_meta(kind: str, **settings: Any) -> Callable[[], nn.Module]:
    """A class of diffusers on the meta device, at its published size."""

    def build() -> nn.Module:
        import diffusers

        with torch.device("meta"):
            network: nn.Module = getattr(diffusers, kind)(**settings)
        return network

    return build
