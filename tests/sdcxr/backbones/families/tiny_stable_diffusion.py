"""Stable Diffusion 1.x, the family that the contract was drawn from."""

from typing import Any

from tests.sdcxr.backbones.families.tiny import Embeddings, Published, Tiny, clip, kl_vae, meta_states, on_meta


def build() -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    text_encoder, tokenizer = clip()
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    return StableDiffusionPipeline(
        vae=kl_vae(4),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def embed(pipe: Any, texts: list[str]) -> Embeddings:
    return {"hidden": pipe.encode_prompt(texts, "cpu", 1, do_classifier_free_guidance=False)[0]}


def null(pipe: Any, n: int) -> Embeddings:
    return {"hidden": pipe.encode_prompt(["any"] * n, "cpu", 1, do_classifier_free_guidance=True)[1]}


TINY = Tiny(
    build=build,
    resolution=32,
    embed=embed,
    null=null,
    published={
        "1.5": Published(
            build=on_meta("UNet2DConditionModel", sample_size=64, cross_attention_dim=768),
            parameters=859_520_964,
            conditioning=meta_states(77, 768),
            latent=(4, 64, 64),
            forward_gflop=803,
            training_gflop=2407,
            lora=(128, 3_188_736),
        )
    },
    scheduler="ddim",
    modes=("unet", "text", "unet+text"),
)
