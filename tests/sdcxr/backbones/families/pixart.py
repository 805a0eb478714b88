"""A tiny PixArt-Σ: every part of its real class, with random weights."""

from typing import Any

from tests.sdcxr.backbones.families.tokenizers import t5_tokenizer


def pipeline() -> Any:
    """Of 64 px: latents of 8 × 8, 191,000 parameters in the transformer."""
    from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    tokenizer = t5_tokenizer()
    text = T5Config(
        vocab_size=len(tokenizer), d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", is_encoder_decoder=False,
    )  # fmt: skip
    transformer = PixArtTransformer2DModel(
        sample_size=8, num_layers=2, num_attention_heads=4, attention_head_dim=16, cross_attention_dim=64,
        caption_channels=64, interpolation_scale=1, use_additional_conditions=False,
    )  # fmt: skip
    vae = AutoencoderKL(
        sample_size=64, latent_channels=4, block_out_channels=(8, 16, 16, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=0.13025,
    )  # fmt: skip
    scheduler = DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
    return PixArtSigmaPipeline(
        tokenizer=tokenizer, text_encoder=T5EncoderModel(text), vae=vae, transformer=transformer, scheduler=scheduler
    )
