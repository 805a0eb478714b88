"""PixArt-Σ: linear betas, T5 with its mask, twice the channels."""

from typing import Any

import torch

from tests.sdcxr.backbones.families.tiny import (
    Embeddings,
    Published,
    Tiny,
    kl_vae,
    masked_null,
    meta_states,
    on_meta,
    t5,
)


def build() -> Any:
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    text_encoder, tokenizer = t5()
    transformer = PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=32,
        interpolation_scale=1,
        use_additional_conditions=False,
    )
    return PixArtSigmaPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=kl_vae(4, scaling_factor=0.13025),
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
    )


def embed(pipe: Any, texts: list[str]) -> Embeddings:
    hidden, mask, *_ = pipe.encode_prompt(texts, do_classifier_free_guidance=False)
    return {"hidden": hidden, "mask": mask}


TINY = Tiny(
    build=build,
    resolution=64,
    embed=embed,
    null=masked_null,
    published={
        "XL/2": Published(
            build=on_meta(
                "PixArtTransformer2DModel", sample_size=64, caption_channels=4096, use_additional_conditions=False
            ),
            parameters=610_856_096,
            conditioning=meta_states(300, 4096, mask=True),
            latent=(4, 64, 64),
            forward_gflop=1289,
            training_gflop=3863,
            lora=(224, 8_257_536),
        )
    },
    answer=lambda target: torch.cat([target, torch.full_like(target, 9.0)], dim=1),  # a variance that nobody takes
    call={"use_resolution_binning": False},
)
