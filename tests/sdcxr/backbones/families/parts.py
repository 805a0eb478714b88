"""Parts of tiny members of several families: VAE, CLIP and T5."""

from typing import Any

from tests.conftest import micro_tokenizer


def kl(channels: int, **settings: Any) -> Any:
    """AutoencoderKL of factor 8."""
    from diffusers import AutoencoderKL

    sizes: dict[str, Any] = {"sample_size": 64, "block_out_channels": (8, 16, 16, 16), "norm_num_groups": 4}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return AutoencoderKL(latent_channels=channels, layers_per_block=1, **sizes, **blocks, **settings)


def clip_tokenizer(**settings: Any) -> Any:
    """CLIP's tokenizer with its first 1000 merges."""
    tokenizer = micro_tokenizer()
    for name, value in settings.items():
        setattr(tokenizer, name, value)
    return tokenizer


def clip(projected: bool) -> Any:
    """A CLIP text encoder 32 wide, with a projection to as many."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = micro_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def t5(tokenizer: Any) -> Any:
    """A T5 encoder 64 wide."""
    from transformers import T5Config, T5EncoderModel

    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), feed_forward_proj="gated-gelu", is_encoder_decoder=False, **sizes)
    )
