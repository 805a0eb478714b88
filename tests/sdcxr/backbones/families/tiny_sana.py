"""Sana: AutoencoderDC, Gemma 2, and the instruction before the prompt."""

import inspect
from typing import Any

from tests.sdcxr.backbones.families.tiny import (
    Embeddings,
    Published,
    Tiny,
    byte_pairs,
    masked_null,
    meta_states,
    on_meta,
)

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>")


def build() -> Any:
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

    vocabulary, merges = byte_pairs(SPECIAL, byte_level=False)
    tokenizer = GemmaTokenizer(
        vocab=vocabulary, merges=merges, padding_side="right", model_max_length=8192, add_bos_token=True
    )
    text_encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=64,
            attn_implementation="eager",
        )
    )
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=32,
        sample_size=2,
        patch_size=1,
    )
    blocks = ("ResBlock",) * 4 + ("EfficientViTBlock",) * 2
    widths, scales = (4, 4, 8, 8, 16, 16), ((), (), (), (), (5,), (5,))
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=8,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    scheduler = DPMSolverMultistepScheduler(flow_shift=3.0, use_flow_sigmas=True, prediction_type="flow_prediction")
    return SanaPipeline(
        tokenizer=tokenizer, text_encoder=text_encoder, vae=vae, transformer=transformer, scheduler=scheduler
    )


def embed(pipe: Any, texts: list[str]) -> Embeddings:
    instruction = inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"].default
    hidden, mask, *_ = pipe.encode_prompt(
        texts, do_classifier_free_guidance=False, complex_human_instruction=instruction
    )
    return {"hidden": hidden, "mask": mask}


def published(width: int, layers: int, heads: int, **known: Any) -> Published:
    """A size of Sana; `heads` are those of the cross-attention, the linear one has heads of 32."""
    about = {"num_attention_heads": width // 32, "num_cross_attention_heads": heads, "num_layers": layers}
    about |= {"cross_attention_head_dim": width // heads, "cross_attention_dim": width}
    return Published(
        build=on_meta("SanaTransformer2DModel", **about),
        conditioning=meta_states(300, 2304, mask=True),
        latent=(32, 16, 16),
        **known,
    )


TINY = Tiny(
    build=build,
    resolution=64,
    embed=embed,
    null=masked_null,
    published={
        "0.6B": published(
            1152, 28, 16, parameters=591_747_872, forward_gflop=316, training_gflop=945, lora=(224, 8_257_536)
        ),
        "1.6B": published(
            2240, 20, 20, parameters=1_604_462_752, forward_gflop=837, training_gflop=2507, lora=(160, 11_468_800)
        ),
    },
    oracle=5e-3,  # its DPM-Solver++ hands the network times cut to integers (999, 749, …)
    call={"use_resolution_binning": False},
)
