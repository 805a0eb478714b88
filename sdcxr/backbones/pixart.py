"""PixArt-Σ (Chen et al. 2024, arXiv 2403.04692): a transformer over latents of SDXL's VAE, attending to T5."""

from functools import partial
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from sdcxr.backbones.base import Conditioning, Defaults
from sdcxr.backbones.ddpm_training import DdpmTraining
from sdcxr.backbones.family import Family
from sdcxr.backbones.text_encoders import tokenize
from sdcxr.runtime.errors import UserError

TOKENS = 300  # of the pipeline and of its training


class PixArtSigma(DdpmTraining, Family):
    """See `base.Backbone`. Its schedule is linear, unlike SDXL's; there is a transformer for each size of images."""

    pipeline_class: ClassVar[str] = "PixArtSigmaPipeline"
    networks: ClassVar[dict[str, str]] = {
        "unet": "PixArtTransformer2DModel",
        "text": "T5EncoderModel",
        "vae": "AutoencoderKL",
    }
    defaults: ClassVar[Defaults] = Defaults("dpm++", 20, 4.5)  # of the pipeline
    # Binning takes another size of the same area, and knows only those of the published models.
    call_options: ClassVar[dict[str, Any]] = {"negative_prompt": None, "use_resolution_binning": False}

    def check_parts(self) -> None:
        super().check_parts()
        config, width = self.denoiser.config, self.parts["text"].config.d_model
        if config.out_channels not in (config.in_channels, 2 * config.in_channels):
            raise UserError(f"its transformer predicts {config.out_channels} channels of {config.in_channels}")
        if config.caption_channels != width:
            raise UserError(
                f"its transformer takes states {config.caption_channels} wide (caption_channels), those of its text "
                f"encoder are {width} wide: parts of different models"
            )
        if self.denoiser.use_additional_conditions:
            raise UserError("its transformer takes sizes (use_additional_conditions), as PixArt-α does: give PixArt-Σ")

    def tokenize(self, texts: list[str]) -> tuple[dict[str, np.ndarray], int]:
        plain = [text.lower().strip() for text in texts]  # as the pipeline does without clean_caption
        tokens = tokenize(self.tokenizer_of["tokenizer"], plain, length=TOKENS)
        return {"input_ids": tokens.ids, "attention_mask": tokens.mask}, tokens.n_cut

    def tokenize_null(self) -> dict[str, np.ndarray]:
        return self.tokenize([""])[0]

    def encode_text(self, tokens: dict[str, Tensor]) -> Conditioning:
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        # transformers looks at the mask's values, which tensors on the meta device do not have.
        states = self.parts["text"](ids, attention_mask=None if ids.is_meta else mask)[0]
        return Conditioning(states, mask)

    def unconditional(self, n: int) -> Conditioning:
        return self.encode_text(self.on_device(self.tokenize_null())).rows([0] * n)

    def denoise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        predicted: Tensor = self.denoiser(
            x_t,
            encoder_hidden_states=conditioning.hidden.to(x_t.dtype),
            encoder_attention_mask=conditioning.mask,
            timestep=t,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},  # which only α takes
            return_dict=False,
        )[0]
        return predicted[:, : x_t.shape[1]]  # behind it a variance, which no sampler of diffusers uses

    def pipeline(self) -> Any:
        pipeline = super().pipeline()
        pipeline.encode_prompt = partial(keep_embeddings, pipeline)
        return pipeline


def keep_embeddings(pipeline: Any, prompt: Any, *args: Any, **given: Any) -> Any:
    """The pipeline's `encode_prompt`, but with given embeddings as they are.

    It would give them the type of the text encoder, bfloat16 where that is stored so, and with them the latents.
    """
    if given.get("prompt_embeds") is None:
        return type(pipeline).encode_prompt(pipeline, prompt, *args, **given)
    names = ("prompt_embeds", "prompt_attention_mask")
    return tuple(given[prefix + name] for prefix in ("", "negative_") for name in names)
