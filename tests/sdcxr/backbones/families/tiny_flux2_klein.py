"""FLUX.2-klein: patched latents with statistics, and states from within Qwen3, which has the layers that are taken."""

from typing import Any

import torch

from tests.sdcxr.backbones.families.tiny import Embeddings, Published, Tiny, byte_pairs, meta_states, on_meta

# In the manner of Qwen3's.
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def build() -> Any:
    from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline
    from diffusers import Flux2Transformer2DModel as Transformer
    from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

    vocabulary, merges = byte_pairs(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), byte_level=True)
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges, model_max_length=512)
    tokenizer.chat_template = CHAT
    text_encoder = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=28,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=1024,
        )
    )
    transformer = Transformer(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    vae = AutoencoderKLFlux2(latent_channels=4, block_out_channels=(4, 8, 8, 8), layers_per_block=1, norm_num_groups=4)
    vae.bn.running_mean.copy_(torch.linspace(-0.5, 0.5, 16))
    vae.bn.running_var.copy_(torch.linspace(0.5, 2.0, 16))
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer,
    )


def embed(pipe: Any, texts: list[str]) -> Embeddings:
    return {"hidden": pipe.encode_prompt(texts)[0]}


def null(pipe: Any, n: int) -> Embeddings:
    return embed(pipe, [""] * n)


def square(tokens: torch.Tensor) -> torch.Tensor:
    """(batch, places, channels) of a square image to (batch, channels, h, w)."""
    side = round(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (side, side))


TINY = Tiny(
    build=build,
    resolution=64,
    embed=embed,
    null=null,
    published={
        "4B": Published(
            build=on_meta(
                "Flux2Transformer2DModel",
                num_layers=5,
                num_single_layers=20,
                num_attention_heads=24,
                joint_attention_dim=7680,
                guidance_embeds=False,
            ),
            parameters=3_875_544_576,
            conditioning=meta_states(512, 7680),
            latent=(128, 32, 32),
            forward_gflop=10173,
            training_gflop=30494,
            lora=(80, 18_677_760),
        )
    },
    unpacked=square,
    answer=lambda target: target.flatten(2).transpose(1, 2),
    latents=lambda backbone, images: backbone.codec.to_model(images),
)
