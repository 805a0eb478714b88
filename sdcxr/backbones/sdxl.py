"""Stable Diffusion XL (Podell et al. 2023, arXiv 2307.01952): a UNet that also takes sizes; two CLIPs."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from sdcxr.backbones.base import Conditioning, Defaults
from sdcxr.backbones.clip_pair import ClipPair, behind_penultimate
from sdcxr.backbones.compatibility import check_states, misfit
from sdcxr.backbones.ddpm_training import DdpmTraining
from sdcxr.backbones.family import Family
from sdcxr.backbones.guidance import shared_guidance
from sdcxr.io.files import read_json
from sdcxr.runtime.errors import UserError

SIZES = 6  # numbers of a micro-condition: height and width of the original, corner of the crop, target


class StableDiffusionXL(DdpmTraining, Family):
    """See `base.Backbone`."""

    pipeline_class: ClassVar[str] = "StableDiffusionXLPipeline"
    components: ClassVar[dict[str, str]] = {
        "unet": "unet", "text": "text_encoder", "text_2": "text_encoder_2", "vae": "vae"
    }  # fmt: skip
    networks: ClassVar[dict[str, str]] = {
        "unet": "UNet2DConditionModel",
        "text": "CLIPTextModel",
        "text_2": "CLIPTextModelWithProjection",
        "vae": "AutoencoderKL",
    }
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer", "tokenizer_2")
    tunable_text: ClassVar[tuple[str, ...]] = ("text", "text_2")
    caches_text: ClassVar[bool] = False  # both CLIPs are 2 % of a step at 512 px
    defaults: ClassVar[Defaults] = Defaults("euler", 50, 5.0)  # the pipeline's
    half: ClassVar[bool] = True
    pipeline_options: ClassVar[dict[str, Any]] = {
        "image_encoder": None, "feature_extractor": None, "add_watermarker": False
    }  # fmt: skip
    zeros: bool = True
    """Whether the unconditional input is zeros (force_zeros_for_empty_prompt) instead of the empty text's states."""

    def __init__(self, parts: dict[str, Any], tokenizers: dict[str, Any], scheduler: Any):
        super().__init__(parts, tokenizers, scheduler)
        self.clips = ClipPair(parts, (tokenizers["tokenizer"], tokenizers["tokenizer_2"]))
        parts["text"].unreached = behind_penultimate(parts["text"])

    @classmethod
    def load(cls, folder: Path, dtype: Any) -> Self:
        loaded = super().load(folder, dtype)
        loaded.zeros = bool(read_json(folder / "model_index.json").get("force_zeros_for_empty_prompt", True))
        return loaded

    @torch.no_grad()
    def check_parts(self) -> None:
        config, vae = self.denoiser.config, self.codec.vae.config
        if config.addition_embed_type != "text_time":
            raise UserError(
                f"its UNet takes no sizes (addition_embed_type {config.addition_embed_type}): it is no SDXL"
            )
        plain = type(config)(config | {"addition_embed_type": None})
        if problem := misfit(plain, vae, self.scheduler.config):
            raise UserError(problem)
        if vae.latents_mean is not None:
            raise UserError("its VAE has latents_mean and latents_std, which are not supported")
        self.clips.check()
        null = self.unconditional(1)
        check_states(null.hidden, self.clips.length, config)
        width = config.projection_class_embeddings_input_dim - SIZES * config.addition_time_embed_dim
        if null.pooled is None or null.pooled.shape[1] != width:
            raise UserError(f"its UNet takes a pooled text {width} wide, its text encoders give another")
        super().check_parts()

    @property
    def multiple(self) -> int:
        return int(self.codec.factor * 2 ** (len(self.denoiser.config.block_out_channels) - 1))

    def tokenize(self, texts: list[str]) -> tuple[dict[str, np.ndarray], int]:
        ids, n_cut = self.clips.tokenize(texts)
        return ids | {"null": np.zeros((len(texts), 1), dtype=bool)}, n_cut

    def tokenize_null(self) -> dict[str, np.ndarray]:
        return self.tokenize([""])[0] | {"null": np.full((1, 1), self.zeros)}

    def encode_text(self, tokens: dict[str, Tensor], clip_skip: int = 0) -> Conditioning:
        """With zeros for rows of `tokenize_null`."""
        encoded, null = self.clips.encode(tokens, clip_skip), tokens["null"]
        pooled = None if encoded.pooled is None else encoded.pooled.masked_fill(null, 0)
        return Conditioning(encoded.hidden.masked_fill(null[..., None], 0), pooled=pooled)

    def unconditional(self, n: int) -> Conditioning:
        # As many rows as texts: the last bit of a product depends on them.
        return self.encode_text(self.on_device({name: row.repeat(n, 0) for name, row in self.tokenize_null().items()}))

    def denoise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        # As the pipeline has them by default: an original of the size of the target, not cropped.
        height, width = (side * self.codec.factor for side in x_t.shape[-2:])
        sizes = x_t.new_tensor([height, width, 0, 0, height, width]).expand(len(x_t), SIZES)
        added = {"text_embeds": conditioning.pooled, "time_ids": sizes}
        predicted: Tensor = self.denoiser(x_t, t, conditioning.hidden, added_cond_kwargs=added, return_dict=False)[0]
        return predicted

    def pipeline(self) -> Any:
        pipeline = super().pipeline()
        pipeline.register_to_config(force_zeros_for_empty_prompt=self.zeros)
        return pipeline

    def shared_guidance(self, guided: bool) -> AbstractContextManager[None]:
        return shared_guidance(self.denoiser, guided)
