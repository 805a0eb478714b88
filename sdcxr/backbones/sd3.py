"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206): rectified flow; two CLIPs and T5."""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from sdcxr.backbones.base import Conditioning, Defaults
from sdcxr.backbones.clip_pair import ClipPair
from sdcxr.backbones.family import Family
from sdcxr.backbones.text_encoders import tokenize
from sdcxr.config import TrainConfig
from sdcxr.noise.rectified_flow import RectifiedFlow, refuse_settings_of_diffusion
from sdcxr.runtime.errors import UserError

TOKENS = 77  # of T5 in training; the pipeline's default is 256, and it takes 512 at most
LONGEST = 512


class StableDiffusion3(Family):
    """See `base.Backbone`. T5 never trains; the CLIPs can."""

    pipeline_class: ClassVar[str] = "StableDiffusion3Pipeline"
    components: ClassVar[dict[str, str]] = {
        "unet": "transformer",
        "text": "text_encoder",
        "text_2": "text_encoder_2",
        "text_3": "text_encoder_3",
        "vae": "vae",
    }
    networks: ClassVar[dict[str, str]] = {
        "unet": "SD3Transformer2DModel",
        "text": "CLIPTextModelWithProjection",
        "text_2": "CLIPTextModelWithProjection",
        "text_3": "T5EncoderModel",
        "vae": "AutoencoderKL",
    }
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer", "tokenizer_2", "tokenizer_3")
    tunable_text: ClassVar[tuple[str, ...]] = ("text", "text_2")
    defaults: ClassVar[Defaults] = Defaults("euler", 28, 4.5)  # steps of the pipeline, guidance of 3.5 Medium's card
    seats: ClassVar[tuple[str, ...]] = ("text_length",)
    pipeline_options: ClassVar[dict[str, Any]] = {"image_encoder": None, "feature_extractor": None}

    def __init__(self, parts: dict[str, Any], tokenizers: dict[str, Any], scheduler: Any):
        super().__init__(parts, tokenizers, scheduler)
        self.clips = ClipPair(parts, (tokenizers["tokenizer"], tokenizers["tokenizer_2"]))

    @torch.no_grad()
    def check_parts(self) -> None:
        self.clips.check()
        # transformers prepares for hidden states at the first call, at which a compiled step would break into graphs.
        self.clips.encode(self.on_device(self.clips.tokenize([""])[0]))
        encoders = [self.parts[name].config for name in ("text", "text_2", "text_3")]
        if problem := misfit(self.denoiser.config, encoders, self.scheduler.config):
            raise UserError(problem)
        super().check_parts()

    def adapt(self, config: TrainConfig) -> None:
        if config.text_length is not None:
            if config.text_length > LONGEST:
                raise UserError(
                    f"--text_length {config.text_length}: the pipeline takes at most {LONGEST} tokens of T5"
                )
            self.tokenizer_of["tokenizer_3"].init_kwargs["text_length"] = config.text_length
        super().adapt(config)

    @property
    def text_length(self) -> int:
        """Tokens of T5: 77, or those of a `--text_length`, which the tokenizer's file keeps."""
        return int(self.tokenizer_of["tokenizer_3"].init_kwargs.get("text_length", TOKENS))

    def noise_process(self, config: TrainConfig) -> RectifiedFlow:
        refuse_settings_of_diffusion(config)
        return self.inference_process()

    def inference_process(self) -> RectifiedFlow:
        config = self.scheduler.config
        return RectifiedFlow(shift=config.shift, time_scale=float(config.num_train_timesteps))

    def tokenize(self, texts: list[str]) -> tuple[dict[str, np.ndarray], int]:
        ids, n_cut = self.clips.tokenize(texts)
        tokens = tokenize(self.tokenizer_of["tokenizer_3"], texts, length=self.text_length)
        return ids | {"input_ids_3": tokens.ids}, max(n_cut, tokens.n_cut)

    def tokenize_null(self) -> dict[str, np.ndarray]:
        return self.tokenize([""])[0]

    def encode_frozen(self, tokens: dict[str, Tensor]) -> Conditioning:
        """The states of T5, which attends to its padding."""
        return Conditioning(self.parts["text_3"](tokens["input_ids_3"])[0])

    def encode_text(
        self, tokens: dict[str, Tensor], clip_skip: int = 0, frozen: Conditioning | None = None
    ) -> Conditioning:
        """The states of the CLIPs, widened by zeros to those of T5, and behind them these."""
        clips, long = self.clips.encode(tokens, clip_skip), (frozen or self.encode_frozen(tokens)).hidden
        short = nn.functional.pad(clips.hidden, (0, long.shape[-1] - clips.hidden.shape[-1]))
        return Conditioning(torch.cat([short, long], dim=1), pooled=clips.pooled)

    def unconditional(self, n: int) -> Conditioning:
        # As many rows as texts: the last bit of a product depends on them.
        return self.encode_text(self.on_device({name: row.repeat(n, 0) for name, row in self.tokenize_null().items()}))

    def denoise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        predicted: Tensor = self.denoiser(
            hidden_states=x_t,
            timestep=t,
            encoder_hidden_states=conditioning.hidden,
            pooled_projections=conditioning.pooled,
            return_dict=False,
        )[0]
        return predicted


def misfit(transformer: Any, encoders: list[Any], scheduler: Any) -> str | None:
    """What does not fit between the parts, by their configurations; None where all does.

    Args:
        transformer: of an SD3Transformer2DModel.
        encoders: of the two CLIPs and of T5.
        scheduler: of the inference scheduler.
    """
    small, large, t5 = encoders
    for name, takes, given in (
        ("joint_attention_dim", transformer.joint_attention_dim, t5.d_model),
        ("pooled_projection_dim", transformer.pooled_projection_dim, small.projection_dim + large.projection_dim),
    ):
        if takes != given:
            return f"its transformer takes texts {takes} wide ({name}), its text encoders give {given}"
    if small.hidden_size + large.hidden_size > t5.d_model:
        return "its CLIPs' states are wider than T5's: parts of different models"
    if scheduler.get("use_dynamic_shifting") or "shift" not in scheduler:
        return f"its {scheduler.get('_class_name', 'scheduler')} has no fixed shift of time"
    return None
