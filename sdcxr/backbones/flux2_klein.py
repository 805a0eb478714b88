"""FLUX.2-klein 4B (Black Forest Labs 2025, Apache-2.0): rectified flow over patches of latents, attending to Qwen3."""

import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sdcxr.backbones.base import Conditioning, Defaults
from sdcxr.backbones.family import Family
from sdcxr.backbones.latent_codec import PatchedCodec
from sdcxr.backbones.text_encoders import tokenize
from sdcxr.config import TrainConfig
from sdcxr.noise.rectified_flow import RectifiedFlow, refuse_settings_of_diffusion
from sdcxr.runtime.errors import UserError

TOKENS, LAYERS = 512, (9, 18, 27)  # of the pipeline: the states behind these layers, side by side
SIDE = 1024  # pixels; no part's configuration has it
TRAIN_MOST = ("full", "attention", "attention_layers", "bias+norm+attention")  # its attention holds feed-forward layers


class Flux2Klein(Family):
    """See `base.Backbone`. Tuned by adapters with gradient checkpointing: nothing else fits into a GPU of 80 GB."""

    pipeline_class: ClassVar[str] = "Flux2KleinPipeline"
    networks: ClassVar[dict[str, str]] = {
        "unet": "Flux2Transformer2DModel",
        "text": "Qwen3ForCausalLM",
        "vae": "AutoencoderKLFlux2",
    }
    defaults: ClassVar[Defaults] = Defaults("euler", 50, 4.0)  # of the pipeline

    @staticmethod
    def build_codec(vae: Any) -> Any:
        return PatchedCodec(vae)

    @classmethod
    def check_index(cls, index: dict[str, Any]) -> None:
        if index.get("is_distilled"):
            raise UserError("it is distilled to a few steps, which training undoes: give FLUX.2-klein-base-4B")

    def check_parts(self) -> None:
        super().check_parts()
        width, text = self.denoiser.config.joint_attention_dim, self.parts["text"].config
        if width != len(LAYERS) * text.hidden_size or text.num_hidden_layers <= max(LAYERS):
            raise UserError(
                f"its transformer takes states {width} wide, those behind layers {', '.join(map(str, LAYERS))} of its "
                f"text encoder ({text.num_hidden_layers} layers) are {text.hidden_size} each: parts of different models"
            )

    def adapt(self, config: TrainConfig) -> None:
        super().adapt(config)
        billions = sum(p.numel() for p in self.denoiser.parameters()) / 1e9
        if billions < 1:  # a small member of the family, of which all fits
            return
        method = config.method.rpartition("=")[2]
        if method in TRAIN_MOST:
            raise UserError(
                f"--method {method}: to train most of {billions:.1f} billion parameters takes {18 * billions:.0f} GB "
                f"for weights, gradients and moments ({22 * billions:.0f} GB with --use_ema) before any activation: "
                "take --method lora --gradient_checkpointing"
            )
        if not config.gradient_checkpointing:
            raise UserError(f"a {self.pipeline_class} of this size is trained with --gradient_checkpointing only")

    @property
    def resolution(self) -> int:
        return SIDE

    @property
    def multiple(self) -> int:
        return int(self.codec.factor)

    def inference_process(self) -> RectifiedFlow:
        return self._process(SIDE)

    def noise_process(self, config: TrainConfig) -> RectifiedFlow:
        refuse_settings_of_diffusion(config)
        return self._process(config.resolution or SIDE)

    def _process(self, resolution: int) -> RectifiedFlow:
        _, height, width = self.codec.latent_shape(resolution)
        return RectifiedFlow(shift=math.exp(time_shift(height * width)), time_scale=1.0)

    def tokenize(self, texts: list[str]) -> tuple[dict[str, np.ndarray], int]:
        tokenizer = self.tokenizer_of["tokenizer"]
        template = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        turns = [tokenizer.apply_chat_template([{"role": "user", "content": text}], **template) for text in texts]
        tokens = tokenize(tokenizer, turns, length=TOKENS)
        return {"input_ids": tokens.ids, "attention_mask": tokens.mask}, tokens.n_cut

    def tokenize_null(self) -> dict[str, np.ndarray]:
        return self.tokenize([""])[0]

    def encode_text(self, tokens: dict[str, Tensor]) -> Conditioning:
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        # transformers looks at the mask's values, which meta tensors lack; a dictionary are masks made already.
        known: Any = {"full_attention": None} if ids.is_meta else mask
        encoder = self.parts["text"].model  # without the head, which gives 151,936 numbers a token
        states = encoder(ids, attention_mask=known, output_hidden_states=True, use_cache=False).hidden_states
        return Conditioning(torch.cat([states[layer] for layer in LAYERS], dim=-1))  # padding is attended to

    def unconditional(self, n: int) -> Conditioning:
        return self.encode_text(self.on_device(self.tokenize_null())).rows([0] * n)

    def denoise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        predicted: Tensor = self.denoiser(
            hidden_states=x_t.flatten(2).transpose(1, 2),
            timestep=t,
            encoder_hidden_states=conditioning.hidden.to(x_t.dtype),
            txt_ids=positions(1, 1, conditioning.hidden.shape[1], x_t.device),
            img_ids=positions(x_t.shape[2], x_t.shape[3], 1, x_t.device),
            return_dict=False,
        )[0]
        return predicted.transpose(1, 2).unflatten(2, x_t.shape[2:])


def positions(height: int, width: int, tokens: int, device: torch.device) -> Tensor:
    """(time 0, row, column, token) of each place, shape (height · width · tokens, 4)."""
    return torch.cartesian_prod(*(torch.arange(n, device=device) for n in (1, height, width, tokens)))


def time_shift(tokens: int) -> float:
    """μ, the logarithm of the shift of time, for an image of so many tokens.

    The pipeline's empirical μ depends on the number of steps too. At its 200 steps it is FLUX.1's line from 0.5 at 256
    tokens to 1.15 at 4,096, which training takes: more steps are nearer to the continuous process.
    """
    return 0.00016927 * tokens + 0.45666666
