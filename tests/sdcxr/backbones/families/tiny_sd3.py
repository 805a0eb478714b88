"""Stable Diffusion 3 and 3.5: two CLIPs and T5 at 77 tokens, rectified flow with shift 3."""

from typing import Any

from tests.sdcxr.backbones.families.tiny import Embeddings, Published, Tiny, clip, kl_vae, meta_states, on_meta, t5


def build() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=64,
        caption_projection_dim=32,
        pooled_projection_dim=64,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    (text_encoder, tokenizer), (text_encoder_2, tokenizer_2) = clip(projected=True), clip(projected=True)
    tokenizer_2.pad_token = "!"
    text_encoder_3, tokenizer_3 = t5(width=64)
    tokenizer_3.model_max_length = 512
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=kl_vae(16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        text_encoder_3=text_encoder_3,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        tokenizer_3=tokenizer_3,
    )


LENGTH = {"max_sequence_length": 77}


def embed(pipe: Any, texts: list[str]) -> Embeddings:
    hidden, _, pooled, _ = pipe.encode_prompt(texts, None, None, do_classifier_free_guidance=False, **LENGTH)
    return {"hidden": hidden, "pooled": pooled}


def null(pipe: Any, n: int) -> Embeddings:
    _, hidden, _, pooled = pipe.encode_prompt(["any"] * n, None, None, do_classifier_free_guidance=True, **LENGTH)
    return {"hidden": hidden, "pooled": pooled}


def published(tokens: int, own: dict[str, Any], **known: Any) -> Published:
    """A size of 24 layers that are 1536 wide; `tokens` are those of T5."""
    about: dict[str, Any] = {"in_channels": 16, "num_layers": 24, "num_attention_heads": 24, "attention_head_dim": 64}
    about |= {"joint_attention_dim": 4096, "caption_projection_dim": 1536, "pooled_projection_dim": 2048}
    return Published(
        build=on_meta("SD3Transformer2DModel", sample_size=128, **about | own),
        conditioning=meta_states(77 + tokens, 4096, pooled=2048),
        latent=(16, 64, 64),
        **known,
    )


DUAL = {"pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"}
TINY = Tiny(
    build=build,
    resolution=64,
    embed=embed,
    null=null,
    published={
        "3 Medium, T5 at 256": published(
            256,
            {"pos_embed_max_size": 192},
            parameters=2_028_328_000,
            forward_gflop=2107,
            training_gflop=6318,
            lora=(191, 9_388_032),
        ),
        "3.5 Medium": published(
            77, DUAL, parameters=2_243_171_520, forward_gflop=2138, training_gflop=6411, lora=(243, 11_943_936)
        ),
    },
    call=LENGTH,
    modes=("unet", "text", "unet+text"),
)
