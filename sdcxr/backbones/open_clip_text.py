"""The text tower of an open_clip model as a text encoder of transformers, from a local folder."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from sdcxr.backbones.encoder_classes import encoder_class, plain_encoder
from sdcxr.io.files import read_json
from sdcxr.io.hub import cached_snapshot
from sdcxr.runtime.errors import UserError
from sdcxr.text.clip_tokens import clip_tokenizer

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "model.safetensors")
# Settings of its own tower with which a CLIPTextModel computes the same; any other one has to be off.
EXPRESSED = """context_length vocab_size width heads layers mlp_ratio pad_id eos_id pool_type proj_bias proj_type
output_tokens hf_tokenizer_name tokenizer_kwargs tokenizer_mode hf_model_pretrained hf_proj_type hf_pooler_type"""
NAMES = {  # tensors in open_clip and in transformers; the input of the attention is cut in three
    "token_embedding.": "embeddings.token_embedding.",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.": "final_layer_norm.",
    "transformer.resblocks.": "encoder.layers.",
    ".attn.out_proj.": ".self_attn.out_proj.",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}


def load_open_clip(folder: Path) -> tuple[Any, Any]:
    """The text encoder of a folder with open_clip_config.json, and its tokenizer.

    A tower that is a model of transformers (BiomedCLIP's BERT) is taken out of it, open_clip's own becomes a
    CLIPTextModel. Neither has the projection to the joint space, which no token state passes.

    Raises:
        UserError: what is missing, or cannot be expressed.
    """
    about = read_json(folder / CONFIG)["model_cfg"]
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise UserError(f"has no weights in safetensors ({' or '.join(WEIGHTS)}); pickled ones are not read")
    state = load_file(weights)
    text = about["text_cfg"]
    if text.get("hf_model_name"):
        return _inner_model(folder, text, state)
    # OpenAI's weights need QuickGELU, and their configurations at timm do not say so.
    quick = bool(about.get("quick_gelu")) or ".openai" in str(folder)
    return _own_tower(folder, text, "quick_gelu" if quick else "gelu", state)


def _inner_model(folder: Path, text: dict[str, Any], state: dict[str, Tensor]) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoTokenizer

    named = text["hf_model_name"]
    described = [folder, Path(named), cached_snapshot(named)] if "/" in named else [folder, Path(named)]
    source = next((each for each in described if each and (each / "config.json").is_file()), None)
    if source is None:
        raise UserError(f"needs config.json of {named}: copy that file into the folder")
    config = AutoConfig.from_pretrained(source)
    weights = {k.removeprefix("text.transformer."): v for k, v in state.items() if k.startswith("text.transformer.")}
    weights.pop("embeddings.position_ids", None)  # a buffer that transformers no longer keeps
    encoder = plain_encoder(encoder_class(config.to_dict()), config.to_dict(), weights)
    encoder.config.use_attention_mask = True
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = min(tokenizer.model_max_length, text.get("context_length", 77))
    return encoder, tokenizer


def _own_tower(folder: Path, text: dict[str, Any], activation: str, state: dict[str, Tensor]) -> tuple[Any, Any]:
    from transformers import AutoTokenizer, CLIPTextModel

    other = sorted(name for name, value in text.items() if value and name not in EXPRESSED.split())
    if other:
        raise UserError(f"has a text tower with {', '.join(other)}, which no encoder of transformers computes")
    width, length = text.get("width", 512), text.get("context_length", 77)
    settings = {
        "vocab_size": text.get("vocab_size", 49408),
        "hidden_size": width,
        "intermediate_size": int(width * text.get("mlp_ratio", 4.0)),
        "num_hidden_layers": text.get("layers", 12),
        "num_attention_heads": text.get("heads", 8),
        "max_position_embeddings": length,
        "hidden_act": activation,
    }
    if text.get("hf_tokenizer_name"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.model_max_length = length
    else:
        tokenizer = clip_tokenizer(length)
        # Added, as the saved tokenizer has it: there a "!" in a text is that of the padding, as in Stable Diffusion 2.
        tokenizer.add_special_tokens({"pad_token": tokenizer.convert_ids_to_tokens(text.get("pad_id", 0))})
    for name in ("bos", "eos", "pad"):
        settings[f"{name}_token_id"] = getattr(tokenizer, f"{name}_token_id")
    encoder = plain_encoder(CLIPTextModel, settings, clip_names(state))
    encoder.config.use_attention_mask = False
    return encoder, tokenizer


def clip_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a text tower of open_clip under the names that they have in CLIPTextModel."""
    prefix = "text." if any(name.startswith("text.") for name in state) else ""
    tensors: dict[str, Tensor] = {}
    for full, tensor in state.items():
        name = full.removeprefix(prefix)
        if not full.startswith(prefix) or not name.startswith(
            ("token_emb", "positional_emb", "transformer.", "ln_final")
        ):
            continue  # image tower, projections, temperature
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        if ".attn.in_proj_" in name:
            before, kind = name.split(".attn.in_proj_")
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                tensors[f"{before}.self_attn.{letter}_proj.{kind}"] = third.contiguous()
        else:
            tensors[name] = tensor
    return tensors
