"""Stable Diffusion 1.5 and 2.1 with random weights: for counting and timing, where no weights are needed."""

from typing import Any, Literal

import torch

from sdcxr.backbones.stable_diffusion import StableDiffusion
from sdcxr.embedded import base
from sdcxr.text.clip_tokens import clip_tokenizer

Name = Literal["sd15", "sd21", "tiny"]

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
        return base.tiny(seed)
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
