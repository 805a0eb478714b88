"""The layers that a method adapts: those of a table by the names that libraries give, or those of `--lora_targets`."""

import re
from typing import Any

from torch import nn

from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError

# Attention of image and text together, each with projections of its own (Stable Diffusion 3).
TWO_STREAMS = ("to_q", "to_k", "to_v", r"to_out\.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
# Regular expressions for the ends of names. The first row of which a part has all is its own.
ATTENTION: tuple[tuple[str, ...], ...] = (
    # diffusers: transformers with two streams, then with one whose projections are fused (FLUX.2)
    (*TWO_STREAMS, "to_qkv_mlp_proj", r"attn\.to_out"),
    TWO_STREAMS,
    ("to_q", "to_k", "to_v", r"to_out\.0"),  # diffusers: UNets and transformers
    ("q_proj", "k_proj", "v_proj", "out_proj"),  # CLIP
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("query", "key", "value"),  # BERT
    ("q", "k", "v", "o"),  # T5
    ("qkv",),  # timm
)
# Of networks that read images: queries and values, as Dutt et al. (arXiv 2305.08252) count; timm has them in one.
VISION: tuple[tuple[str, ...], ...] = (("q_proj", "v_proj"), ("query", "value"), ("qkv",))


def target_layers(
    module: nn.Module,
    config: TrainConfig,
    method: Any,
    table: tuple[tuple[str, ...], ...] = ATTENTION,
    also: tuple[str, ...] = (),
) -> list[str]:
    """Names of the layers of a part that a method adapts.

    Args:
        module: the part.
        config: with `--lora_targets`.
        method: its `name`, `serves` (classes of layers) and `grouped` (whether it can adapt grouped convolutions).
        table: rows of layers by default.
        also: further ones, where the part has them.

    Raises:
        UserError: there is none, or a given name matches none; says which there are.
    """
    layers = adaptable(module, method.serves)
    if config.lora_targets is not None:
        chosen = _given(config.lora_targets, layers, method.name)
    else:
        rows = VISION if table is ATTENTION and hasattr(getattr(module, "config", None), "image_size") else table
        row = next((row for row in rows if all(_matching(entry, layers) for entry in row)), ())
        chosen = sorted({name for entry in (*row, *also) for name in _matching(entry, layers)})
        if not chosen:
            raise UserError(
                f"--method {method.name} has no layers of its own choice in a {type(module).__name__}: give "
                f"--lora_targets, of {kinds_of(layers)}"
            )
    grouped = [name for name in chosen if getattr(layers[name], "groups", 1) > 1]
    if grouped and not method.grouped:
        raise UserError(f"--method {method.name} cannot merge a grouped convolution: leave {grouped[0]} out")
    return chosen


def adaptable(module: nn.Module, serves: tuple[str, ...]) -> dict[str, nn.Module]:
    """The layers of a part by name whose class, or a base class of it, has one of these names.

    Not those within torch's MultiheadAttention: it reads their weights and never calls them, so that what is put around
    them would have no effect.
    """
    found: dict[str, nn.Module] = {}
    closed: list[str] = []
    for name, layer in module.named_modules():
        if isinstance(layer, nn.MultiheadAttention):
            closed.append(f"{name}.")
        elif not name.startswith(tuple(closed)) and {base.__name__ for base in type(layer).__mro__} & set(serves):
            found[name] = layer
    return found


def kinds_of(layers: dict[str, nn.Module]) -> str:
    """The last words of the layers' names, each once, as text: to_q, to_out.0."""
    ends = (re.search(r"[^.]*[^.\d][^.]*(\.\d+)*$", name) for name in layers)
    kinds = dict.fromkeys(end[0] for end in ends if end is not None)
    return ", ".join(list(kinds)[:30]) or "none that it serves"


def _given(targets: str, layers: dict[str, nn.Module], method: str) -> list[str]:
    names = [name.strip() for name in targets.split(",")]
    if not all(re.fullmatch(r"[\w.]+", name) for name in names):
        names = [targets]
        try:
            chosen = {targets: [name for name in layers if re.fullmatch(targets, name)]}
        except re.error as error:
            raise UserError(f"--lora_targets {targets}: no regular expression ({error})") from None
    else:
        chosen = {name: _matching(re.escape(name), layers) for name in names}
    for name in names:
        if not chosen[name]:
            raise UserError(
                f"--lora_targets {name}: no layer for --method {method} has it; there are {kinds_of(layers)}"
            )
    return sorted({layer for found in chosen.values() for layer in found})


def _matching(entry: str, layers: dict[str, nn.Module]) -> list[str]:
    return [name for name in layers if re.fullmatch(rf"(.*\.)?(?:{entry})", name)]
