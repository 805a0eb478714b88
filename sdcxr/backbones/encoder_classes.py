"""Text encoders of transformers: which class encodes a text, its weights, positions and layers."""

import copy
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import nn

from sdcxr.runtime.errors import UserError


def encoder_class(about: dict[str, Any]) -> Any:
    """The class of transformers that gives the token states of a text, by the content of config.json.

    Raises:
        UserError: it is no text encoder.
    """
    import transformers
    from transformers.models.auto import modeling_auto as auto

    model_type = about["model_type"]
    if model_type in ("clip", "clip_text_model"):
        return transformers.CLIPTextModel  # also of a whole CLIP, and of one with a projection, which no state passes
    looks_both_ways = model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not about.get("is_encoder_decoder")
    name = auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(model_type)
    name = name or (auto.MODEL_MAPPING_NAMES.get(model_type) if looks_both_ways else None)
    decodes_only = model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not about.get("is_encoder_decoder")
    if about.get("is_decoder") or (decodes_only and not looks_both_ways):
        raise UserError(
            f"is a {model_type}, a decoder-only language model: give an encoder (BERT, RoBERTa, T5, CLIP, …)"
        )
    if not isinstance(name, str):
        raise UserError(
            f"is a {model_type}, whose text encoder is not known: give another (BERT, RoBERTa, T5, CLIP, …)"
        )
    return getattr(transformers, name)


def plain_encoder(kind: Any, settings: dict[str, Any], weights: dict[str, Any]) -> Any:
    """An encoder of a class of transformers with these weights, all of which it takes."""
    known = {name: value for name, value in settings.items() if name not in ("auto_map", "model_type", "architectures")}
    encoder = kind(kind.config_class(**known))
    missing, unexpected = encoder.load_state_dict(weights, strict=False)
    if unexpected:
        raise UserError(f"its weights do not fit a {kind.__name__}: {unexpected[0]} ({len(unexpected)} in all)")
    fill_pooler(encoder, set(missing))
    return encoder


def fill_pooler(encoder: nn.Module, missing: set[str]) -> None:
    """Accept that weights lack a pooler, which language models are saved without and no token state passes: zeros.

    Raises:
        UserError: something else is missing.
    """
    lacking = sorted(name for name in missing if not name.startswith("pooler."))
    if lacking:
        raise UserError(f"its weights lack {lacking[0]} ({len(lacking)} in all)")
    for name, parameter in encoder.named_parameters():
        if name in missing:
            nn.init.zeros_(parameter)


def text_positions(encoder: Any) -> int | None:
    """The longest text in tokens; None where positions are relative and nothing says how many there are."""
    positions = getattr(encoder.config, "max_position_embeddings", None)
    for name, table in encoder.named_modules():
        padding = getattr(table, "padding_idx", None)
        # RoBERTa's positions begin behind the one of padding.
        if "position" in name.rsplit(".", 1)[-1] and padding is not None and table.num_embeddings == positions:
            return int(positions - padding - 1)
    return None if positions is None or positions < 0 else int(positions)


def clip_positions(encoder: Any) -> int | None:
    """The tokens that a CLIP takes at once; None for other encoders, which take texts of their length whole."""
    if not getattr(encoder.config, "model_type", "").startswith("clip"):
        return None
    return int(encoder.config.max_position_embeddings)


def without_last_layers(encoder: Any, n: int) -> Any:
    """A copy of an encoder without its last n layers, whose states a final normalisation, if there is one, follows.

    Raises:
        UserError: there are not that many layers, or the class does not allow another number.
    """
    layers = encoder.config.num_hidden_layers
    if n >= layers:
        raise UserError(f"--text_skip_layers {n}: the text encoder has {layers} layers, and one has to be left")
    settings, weights = copy.deepcopy(encoder.config), encoder.state_dict()
    try:
        settings.num_hidden_layers = layers - n
        type(settings).from_dict(settings.to_dict())  # would else be refused when it is saved
        shorter = type(encoder)(settings)
        shorter.load_state_dict({name: weights[name] for name in shorter.state_dict()})
    # A setting for each layer, for instance: ModernBERT's kinds of attention, Longformer's windows.
    except (RuntimeError, LookupError, ValueError, TypeError, AssertionError, StrictDataclassError):
        raise UserError(f"--text_skip_layers: a {type(encoder).__name__} cannot leave out layers") from None
    return shorter.to(encoder.dtype).train(encoder.training)
