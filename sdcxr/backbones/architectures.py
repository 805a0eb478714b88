"""Stable Diffusion's architectures with random weights: the embedded tiny one, SD 1.5 and SD 2.1."""

from typing import Any, Literal

import torch

from sdcxr.backbones.stable_diffusion import StableDiffusion
from sdcxr.backbones.text_encoders import clip_tokenizer

Name = Literal["sd15", "sd21", "tiny"]
TINY_RESOLUTION = 128

# Of runwayml/stable-diffusion-v1-5 and stabilityai/stable-diffusion-2-1, as far as it differs from diffusers' and
# transformers' defaults or between the two.
UNET: dict[str, dict[str, Any]] = {
    "sd15": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21": {
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
        "upcast_attention": True,
    },
}
TEXT: dict[str, dict[str, Any]] = {
    "sd15": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "sd21": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
    },
}
PREDICTION = {"sd15": "epsilon", "sd21": "v_prediction"}


def random_weights(name: Name, seed: int = 0) -> StableDiffusion:
    """A base with random weights; under `torch.device("meta")` without memory for them."""
    if name == "tiny":
        return tiny(seed)
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    unet = UNet2DConditionModel(block_out_channels=(320, 640, 1280, 1280), **UNET[name])
    vae = AutoencoderKL(
        sample_size=8 * UNET[name]["sample_size"],
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    text = CLIPTextConfig(vocab_size=49408, bos_token_id=49406, eos_token_id=49407, pad_token_id=49407, **TEXT[name])
    with torch.device("cpu"):  # a schedule is values, not only shapes
        scheduler = PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type=PREDICTION[name],
            skip_prk_steps=True,
            set_alpha_to_one=False,
            steps_offset=1,
        )
    return StableDiffusion(unet, vae, CLIPTextModel(text), clip_tokenizer(), scheduler)


def tiny(seed: int = 0) -> StableDiffusion:
    """The embedded base's architecture: 6 million parameters for 128 px, with random weights."""
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    width = 64
    unet = UNet2DConditionModel(
        sample_size=TINY_RESOLUTION // 8,
        block_out_channels=(48, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    vae = AutoencoderKL(
        sample_size=TINY_RESOLUTION,
        latent_channels=4,
        block_out_channels=(8, 16, 32, 64),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=2,
            num_attention_heads=4,
            bos_token_id=49406,
            eos_token_id=49407,
            pad_token_id=49407,
        )
    )
    # Stable Diffusion's schedule and sampler; v-prediction as in 2.x, because it learns the layout of a picture sooner.
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusion(unet, vae, text_encoder, clip_tokenizer(), scheduler)
