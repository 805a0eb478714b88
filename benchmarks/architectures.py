"""Bases of published size with random weights: for counting and timing, where no weights are needed."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, get_args

import torch

from sdcxr.backbones.registry import FAMILIES
from sdcxr.embedded import base
from sdcxr.text.clip_tokens import clip_tokenizer

Name = Literal["sd15", "sd21", "tiny", "sana", "sana16", "pixart", "sdxl", "sd3", "sd35", "klein"]
NAMES: tuple[Name, ...] = get_args(Name)

Network = tuple[str, dict[str, Any]]
"""Class of diffusers or transformers, and its settings as far as they differ from the defaults."""


@dataclass(frozen=True)
class Architecture:
    """The parts of a pipeline, each by the name of its component."""

    pipeline: str
    networks: dict[str, Network]
    scheduler: Network
    tokenizers: dict[str, Callable[[], Any]]
    light: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By text encoder whose outputs are cached, settings of a small one with states of the same width."""
    encoded: int | None = None
    """Tokens that the text encoder sees with the published tokenizer, where letters are more."""
    tuning: dict[str, Any] = field(default_factory=dict)
    """Settings without which the family refuses to be trained."""


def t5_tokenizer() -> Any:
    """Letters, as all tokenizers here: speed does not depend on the ids."""
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((each, -8.0) for each in LETTERS)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def gemma_tokenizer() -> Any:
    from transformers import GemmaTokenizer

    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>")
    vocab = {piece: i for i, piece in enumerate((*special, *LETTERS))}
    return GemmaTokenizer(vocab=vocab, merges=[], padding_side="right", model_max_length=8192, add_bos_token=True)


def qwen_tokenizer() -> Any:
    from transformers import Qwen2Tokenizer

    from sdcxr.text.clip_tokens import byte_letters

    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    vocab = {piece: i for i, piece in enumerate((*special, *byte_letters()))}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], model_max_length=512)
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    return tokenizer


LETTERS = "▁abcdefghijklmnopqrstuvwxyz0123456789.,:;'\"-()\n"


def kl_vae(channels: int, scale: float, side: int, **settings: Any) -> Network:
    about = {
        "latent_channels": channels,
        "scaling_factor": scale,
        "sample_size": side,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    return "AutoencoderKL", about | settings


def clip_l(kind: str = "CLIPTextModel") -> Network:
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    return kind, SPECIAL | sizes | {"projection_dim": 768}


SPECIAL = {"vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
CLIP_H: Network = (
    "CLIPTextModel",
    SPECIAL
    | {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
    | {"hidden_act": "gelu"},
)
CLIP_G: Network = (
    "CLIPTextModelWithProjection",
    SPECIAL
    | {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
    | {"hidden_act": "gelu", "projection_dim": 1280},
)
T5_XXL: Network = (
    "T5EncoderModel",
    {"vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
    | {"feed_forward_proj": "gated-gelu", "is_encoder_decoder": False},
)
LIGHT_T5 = {"num_layers": 1, "vocab_size": 128}
GEMMA_2B: Network = ("Gemma2Model", {})
QWEN_4B: Network = (
    "Qwen3ForCausalLM",
    {"vocab_size": 151936, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36}
    | {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True},
)

# Of DC-AE f32c32, as Sana has it.
DC_AE: Network = (
    "AutoencoderDC",
    {
        "encoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
        "decoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
        "downsample_block_type": "conv",
        "upsample_block_type": "interpolate",
        "scaling_factor": 0.41407,
    },
)
SCALED_LINEAR = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SANA_SCHEDULER: Network = (
    "DPMSolverMultistepScheduler",
    {"flow_shift": 3.0, "use_flow_sigmas": True, "prediction_type": "flow_prediction"},
)


def stable_diffusion(side: int, prediction: str, text: Network, **unet: Any) -> Architecture:
    """1.5 and 2.1, of runwayml/stable-diffusion-v1-5 and stabilityai/stable-diffusion-2-1."""
    return Architecture(
        "StableDiffusionPipeline",
        {"unet": ("UNet2DConditionModel", {"sample_size": side // 8} | unet)}
        | {"vae": kl_vae(4, 0.18215, side), "text_encoder": text},
        ("PNDMScheduler", SCALED_LINEAR | {"prediction_type": prediction, "skip_prk_steps": True}),
        {"tokenizer": clip_tokenizer},
    )


def sana(width: int, layers: int, heads: int) -> Architecture:
    """Of Efficient-Large-Model/Sana_600M_512px and Sana_1600M_512px; `heads` of the cross-attention."""
    transformer = {"num_attention_heads": width // 32, "num_layers": layers, "num_cross_attention_heads": heads}
    transformer |= {"cross_attention_head_dim": width // heads, "cross_attention_dim": width, "sample_size": 16}
    return Architecture(
        "SanaPipeline",
        {"transformer": ("SanaTransformer2DModel", transformer), "vae": DC_AE, "text_encoder": GEMMA_2B},
        SANA_SCHEDULER,
        {"tokenizer": gemma_tokenizer},
        {"text_encoder": {"num_hidden_layers": 1, "vocab_size": 128}},
        encoded=505,  # 207 of the instruction and 300, without the two that both have
    )


def sd3(positions: int, **transformer: Any) -> Architecture:
    """Of stabilityai/stable-diffusion-3-medium-diffusers and stable-diffusion-3.5-medium."""
    sizes = {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536}
    return Architecture(
        "StableDiffusion3Pipeline",
        {
            "transformer": ("SD3Transformer2DModel", sizes | {"pos_embed_max_size": positions} | transformer),
            "vae": kl_vae(16, 1.5305, 1024, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
            "text_encoder": clip_l("CLIPTextModelWithProjection"),
            "text_encoder_2": CLIP_G,
            "text_encoder_3": T5_XXL,
        },
        ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
        {"tokenizer": clip_tokenizer, "tokenizer_2": clip_tokenizer, "tokenizer_3": t5_tokenizer},
        {"text_encoder_3": LIGHT_T5},
    )


ARCHITECTURES: dict[str, Architecture] = {
    "sd15": stable_diffusion(512, "epsilon", clip_l(), cross_attention_dim=768, attention_head_dim=8),
    "sd21": stable_diffusion(
        768,
        "v_prediction",
        CLIP_H,
        cross_attention_dim=1024,
        attention_head_dim=(5, 10, 20, 20),
        use_linear_projection=True,
        upcast_attention=True,
    ),
    "sana": sana(1152, 28, 16),
    "sana16": sana(2240, 20, 20),
    # Of PixArt-alpha/PixArt-Sigma-XL-2-512-MS.
    "pixart": Architecture(
        "PixArtSigmaPipeline",
        {
            "transformer": (
                "PixArtTransformer2DModel",
                {"sample_size": 64, "caption_channels": 4096, "use_additional_conditions": False},
            ),
            "vae": kl_vae(4, 0.13025, 1024),
            "text_encoder": T5_XXL,
        },
        ("DPMSolverMultistepScheduler", {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}),
        {"tokenizer": t5_tokenizer},
        {"text_encoder": LIGHT_T5},
    ),
    # Of stabilityai/stable-diffusion-xl-base-1.0.
    "sdxl": Architecture(
        "StableDiffusionXLPipeline",
        {
            "unet": (
                "UNet2DConditionModel",
                {
                    "sample_size": 128,
                    "block_out_channels": (320, 640, 1280),
                    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                    "transformer_layers_per_block": (1, 2, 10),
                    "attention_head_dim": (5, 10, 20),
                    "cross_attention_dim": 2048,
                    "addition_embed_type": "text_time",
                    "addition_time_embed_dim": 256,
                    "projection_class_embeddings_input_dim": 2816,
                    "use_linear_projection": True,
                },
            ),
            "vae": kl_vae(4, 0.13025, 1024),
            "text_encoder": clip_l(),
            "text_encoder_2": CLIP_G,
        },
        ("EulerDiscreteScheduler", SCALED_LINEAR | {"timestep_spacing": "leading"}),
        {"tokenizer": clip_tokenizer, "tokenizer_2": clip_tokenizer},
    ),
    "sd3": sd3(192),
    "sd35": sd3(384, dual_attention_layers=tuple(range(13)), qk_norm="rms_norm"),
    # Of black-forest-labs/FLUX.2-klein-base-4B.
    "klein": Architecture(
        "Flux2KleinPipeline",
        {
            "transformer": (
                "Flux2Transformer2DModel",
                {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680}
                | {"guidance_embeds": False},
            ),
            "vae": ("AutoencoderKLFlux2", {}),
            "text_encoder": QWEN_4B,
        },
        ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "use_dynamic_shifting": True}),
        {"tokenizer": qwen_tokenizer},
        {
            "text_encoder": {"vocab_size": 300, "intermediate_size": 64, "num_hidden_layers": 28}
            | {"num_attention_heads": 1, "num_key_value_heads": 1}
        },
        tuning={"method": "lora", "lora_rank": 16, "gradient_checkpointing": True},
    ),
}


def build_network(kind: str, settings: dict[str, Any]) -> Any:
    """A network of diffusers or transformers by the name of its class."""
    import diffusers
    import transformers

    if hasattr(diffusers, kind):
        return getattr(diffusers, kind)(**settings)
    network = getattr(transformers, kind)
    return network(network.config_class(**settings))


def random_weights(name: Name, seed: int = 0, light: bool = False) -> Any:
    """A base with random weights; under `torch.device("meta")` without memory for them.

    Args:
        name: of the architecture.
        seed: of the embedded base.
        light: with small encoders in place of those whose outputs are cached: the same states for the denoiser.
    """
    if name == "tiny":
        return base.tiny(seed)
    about = ARCHITECTURES[name]
    module, _, kind = FAMILIES[about.pipeline].partition(":")
    family = getattr(import_module(module), kind)
    networks = {
        component: build_network(kind, settings | (about.light.get(component, {}) if light else {}))
        for component, (kind, settings) in about.networks.items()
    }
    for network in networks.values():
        network.requires_grad_(False).eval()
    with torch.device("cpu"):  # a schedule is values, not only shapes
        scheduler = build_network(*copy.deepcopy(about.scheduler))
    tokenizers = {component: build() for component, build in about.tokenizers.items()}
    if name in ("sd15", "sd21"):
        return family(**networks, **tokenizers, scheduler=scheduler)
    return family({part: networks[at] for part, at in family.components.items()}, tokenizers, scheduler)
