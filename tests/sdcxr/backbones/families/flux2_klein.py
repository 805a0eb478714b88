"""A tiny FLUX.2-klein: every part of its real class, with random weights; its text encoder has the layers that count."""

from typing import Any

from tests.sdcxr.backbones.families.tokenizers import qwen_tokenizer


def pipeline() -> Any:
    """One block of each kind; the encoder 28 layers, since states behind 9, 18 and 27 are taken."""
    import torch
    from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline
    from diffusers import Flux2Transformer2DModel
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = qwen_tokenizer()
    text = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=28, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=1024,
    )  # fmt: skip
    transformer = Flux2Transformer2DModel(
        in_channels=32, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=4,
        joint_attention_dim=48, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    vae = AutoencoderKLFlux2(
        sample_size=64, latent_channels=8, block_out_channels=(8, 16, 16, 16), layers_per_block=1, norm_num_groups=4
    )
    vae.bn.running_mean.copy_(torch.linspace(-0.5, 0.5, 32))
    vae.bn.running_var.copy_(torch.linspace(0.5, 2.0, 32))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return Flux2KleinPipeline(
        scheduler=scheduler, vae=vae, text_encoder=Qwen3ForCausalLM(text), tokenizer=tokenizer, transformer=transformer
    )
