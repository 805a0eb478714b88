"""Stable Diffusion 1.x and 2.x: UNet, AutoencoderKL and a CLIP text encoder."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from sdcxr.backbones.base import Conditioning, Defaults
from sdcxr.backbones.compatibility import attended_widths, check_states, fit_tokenizer, misfit, set_length
from sdcxr.backbones.ddpm_training import DdpmTraining
from sdcxr.backbones.encoder_classes import without_last_layers
from sdcxr.backbones.encoder_files import load_encoder
from sdcxr.backbones.guidance import shared_guidance
from sdcxr.backbones.latent_codec import KLCodec
from sdcxr.backbones.new_words import add_words, with_all_vectors
from sdcxr.backbones.pipeline_files import component_class, describe_config, hash_weights, load_part
from sdcxr.backbones.text_encoders import TextEncoder
from sdcxr.backbones.text_projection import add_projection
from sdcxr.config import TrainConfig
from sdcxr.noise.ddpm import without_clipping
from sdcxr.runtime.errors import UserError

LIVE = 500_000_000  # parameters of a frozen text encoder that runs in every step: CLIP's forward pass is 0.5 % of it


class StableDiffusion(DdpmTraining):
    """See `base.Backbone`.

    Args:
        unet: UNet2DConditionModel.
        vae: AutoencoderKL.
        text_encoder: CLIPTextModel, or another encoder of the cross-attention's width.
        tokenizer: of the text encoder.
        scheduler: the inference scheduler, which holds the noise schedule.
    """

    pipeline_class: ClassVar[str] = "StableDiffusionPipeline"
    components: ClassVar[dict[str, str]] = {"unet": "unet", "text": "text_encoder", "vae": "vae"}
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer",)
    tunable_text: ClassVar[tuple[str, ...]] = ("text",)
    one_text_encoder: ClassVar[bool] = True
    defaults: ClassVar[Defaults] = Defaults("pndm", 75, 4.0)  # RoentGen's

    def __init__(self, unet: Any, vae: Any, text_encoder: Any, tokenizer: Any, scheduler: Any):
        self.parts: dict[str, Any] = {"unet": unet, "text": text_encoder, "vae": vae}
        self.tokenizer, self.scheduler = tokenizer, scheduler
        self.codec = KLCodec(vae)
        self.untrained: dict[str, nn.Module] = {}
        self.stored: dict[str, Path] = {}
        without_clipping(scheduler)

    @classmethod
    def load(cls, folder: Path, dtype: Any) -> Self:
        from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

        kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
        kinds["text_encoder"] = component_class(folder, "text_encoder")
        parts = {name: load_part(kind, folder, name, dtype) for name, kind in kinds.items()}
        pipeline = StableDiffusionPipeline.from_pretrained(folder, **parts, image_encoder=None, **WITHOUT_CHECKER)
        loaded = cls(**parts, tokenizer=pipeline.tokenizer, scheduler=pipeline.scheduler)
        loaded.check_parts()
        return loaded

    @torch.no_grad()
    def check_parts(self) -> None:
        """Refuse parts that do not fit each other.

        Raises:
            UserError: what does not fit.
        """
        if problem := misfit(self.unet.config, self.vae.config, self.scheduler.config):
            raise UserError(problem)
        fit_tokenizer(self.tokenizer, self.parts["text"])
        check_states(self.unconditional(1).hidden, self.tokenizer.model_max_length, self.unet.config)
        self.inference_process()

    def adapt(self, config: TrainConfig) -> None:
        if not config.adapts_base:
            return
        length = self.tokenizer.model_max_length
        if config.text_encoder is not None:
            self.parts["text"], self.tokenizer = load_encoder(config.text_encoder, config.trust_remote_code)
        if config.text_skip_layers:
            self.parts["text"] = without_last_layers(self.parts["text"], config.text_skip_layers)
        if config.text_attention_mask is not None:
            self.parts["text"].config.use_attention_mask = config.text_attention_mask
        set_length(self.tokenizer, self.parts["text"], config.text_length, length)
        if self.text_encoder.in_windows and self.text_encoder.use_mask:
            raise UserError("--text_attention_mask: not for texts in windows of CLIP, which is causal: leave it out")
        if config.placeholder_token is not None:
            add_words(self.tokenizer, self.parts["text"], config)
        with torch.no_grad():
            width = int(self.unconditional(1).hidden.shape[-1])
        with seeded(config.seed):
            self._fit_unet(config, width)
        self.check_parts()

    def _fit_unet(self, config: TrainConfig, width: int) -> None:
        """Give the UNet the width of the text encoder's states, in the way that was asked for."""
        if config.random_unet:
            self.parts["unet"] = random_unet(self.unet, width)
        elif config.text_projection is not None:
            self.untrained["projection"] = add_projection(self.unet, config.text_projection, width)
        elif {width} != (attended := attended_widths(self.unet.config)):
            raise UserError(
                f"--text_encoder {config.text_encoder}: its states are {width} wide, the UNet attends to "
                f"{', '.join(map(str, sorted(attended)))}: add --text_projection linear (or mlp), or begin with a UNet "
                "of that width and random weights, --random_unet"
            )

    @property
    def unet(self) -> Any:
        return self.parts["unet"]

    @property
    def vae(self) -> Any:
        return self.parts["vae"]

    @property
    def text_encoder(self) -> TextEncoder:
        """Encoder and tokenizer; with attention mask where its configuration asks the pipeline for one.

        Stable Diffusion was trained without.
        """
        return TextEncoder.of(self.parts["text"], self.tokenizer)

    @property
    def caches_text(self) -> bool:
        return sum(p.numel() for p in self.parts["text"].parameters()) > LIVE

    @property
    def resolution(self) -> int:
        size = self.unet.config.sample_size
        sides = {size} if isinstance(size, int) else set(size or ())
        if len(sides) != 1:
            raise UserError(
                f"this model is made for no single side (sample_size {size} of its UNet): give --resolution"
            )
        return int(sides.pop()) * self.codec.factor

    @property
    def multiple(self) -> int:
        return int(self.codec.factor * 2 ** (len(self.unet.config.block_out_channels) - 1))

    def tokenize(self, texts: list[str]) -> tuple[dict[str, np.ndarray], int]:
        encoder = self.text_encoder
        tokens = encoder.tokenize(with_all_vectors(self.tokenizer, texts))
        arrays = {"input_ids": tokens.ids}
        return arrays | ({"attention_mask": tokens.mask} if encoder.use_mask else {}), tokens.n_cut

    def tokenize_null(self) -> dict[str, np.ndarray]:
        return self.tokenize([""])[0]

    def encode_text(self, tokens: dict[str, Tensor], clip_skip: int = 0) -> Conditioning:
        return Conditioning(self.text_encoder.states(tokens["input_ids"], tokens.get("attention_mask"), clip_skip))

    def unconditional(self, n: int) -> Conditioning:
        arrays, _ = self.tokenize([""] * n)
        return self.encode_text({name: torch.from_numpy(ids).to(self.unet.device) for name, ids in arrays.items()})

    def text_fingerprint(self) -> dict[str, Any]:
        encoder = self.parts["text"]
        return {"text_encoder": hash_weights(encoder), "config": describe_config(encoder)}

    def denoise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        predicted: Tensor = self.unet(x_t, t, conditioning.hidden, return_dict=False)[0]
        return predicted

    def pipeline(self) -> Any:
        from diffusers import StableDiffusionPipeline

        networks = {component: self.parts[name] for name, component in self.components.items()}
        return StableDiffusionPipeline(
            **networks, tokenizer=self.tokenizer, scheduler=self.scheduler, **WITHOUT_CHECKER
        )

    def call_arguments(self, conditioning: Conditioning, null: Conditioning) -> dict[str, Any]:
        dtype = self.unet.dtype
        return {"prompt_embeds": conditioning.hidden.to(dtype), "negative_prompt_embeds": null.hidden.to(dtype)}

    def shared_guidance(self, guided: bool) -> AbstractContextManager[None]:
        return shared_guidance(self.unet, guided)

    def prepare_for_bf16_on_cpu(self) -> None:
        """Attention as two products and a softmax, layer normalisations in float32.

        A backward call of the fused attention kernel took 7.7 ms instead of 2.0 on two cores with AVX512-BF16. Layer
        normalisations compute in float32 under CUDA's autocast, too: in bfloat16 the gradients of their biases were
        off by up to 60 % (docs/decisions.md).
        """
        from diffusers.models.attention_processor import AttnProcessor

        self.unet.set_attn_processor(AttnProcessor())
        self.parts["text"].set_attn_implementation("eager")
        normalise_in_float32(self.unet)
        normalise_in_float32(self.parts["text"])


def random_unet(unet: Any, width: int) -> Any:
    """A UNet of the same architecture with weights from torch's generator, which attends to states of this width."""
    settings = dict(unet.config) | {"encoder_hid_dim": None, "encoder_hid_dim_type": None}
    if unet.config.encoder_hid_dim or {width} != attended_widths(unet.config):
        settings["cross_attention_dim"] = width
    return type(unet).from_config(settings).to(unet.dtype).eval()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside the block torch's generator of the CPU begins at a seed, and outside it goes on as if nothing had been."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


# The safety checker blanks radiographs.
WITHOUT_CHECKER: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def normalise_in_float32(network: nn.Module) -> None:
    """Give all layer normalisations float32, whatever autocast would."""
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_pre_hook(_in_float32)


def _in_float32(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(each.float() for each in inputs)
