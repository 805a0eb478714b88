"""Stable Diffusion XL: two CLIPs, sizes as conditions, zeros as the unconditional input."""

from typing import Any

from tests.sdcxr.backbones.families.tiny import Embeddings, Published, Tiny, clip, kl_vae, meta_states, on_meta


def build() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(1, 2),
        cross_attention_dim=64,
        norm_num_groups=4,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32 + 6 * 8,
        use_linear_projection=True,
    )
    (text_encoder, tokenizer), (text_encoder_2, tokenizer_2) = clip(), clip(projected=True)
    tokenizer_2.pad_token = "!"
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    )
    return StableDiffusionXLPipeline(
        vae=kl_vae(4, scaling_factor=0.13025),
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    )


def embed(pipe: Any, texts: list[str]) -> Embeddings:
    hidden, _, pooled, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False)
    return {"hidden": hidden, "pooled": pooled}


def null(pipe: Any, n: int) -> Embeddings:
    _, hidden, _, pooled = pipe.encode_prompt(["any"] * n, do_classifier_free_guidance=True)
    return {"hidden": hidden, "pooled": pooled}


TINY = Tiny(
    build=build,
    resolution=64,
    embed=embed,
    null=null,
    published={
        "base": Published(
            build=on_meta(
                "UNet2DConditionModel",
                sample_size=128,
                block_out_channels=(320, 640, 1280),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 2, 10),
                attention_head_dim=(5, 10, 20),
                cross_attention_dim=2048,
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=2816,
                use_linear_projection=True,
            ),
            parameters=2_567_463_684,
            conditioning=meta_states(77, 2048, pooled=1280),
            latent=(4, 64, 64),
            forward_gflop=1589,
            training_gflop=4714,
            lora=(560, 23_224_320),
        )
    },
    modes=("unet", "text", "unet+text"),
)
