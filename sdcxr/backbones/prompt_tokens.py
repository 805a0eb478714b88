"""Trained tokens beside those of an image in a vision transformer.

Visual prompt tuning (Jia et al. 2022, arXiv 2203.12119).
No plain vision transformer has a place for them: a saved classifier keeps them as they are, and plain timm or
transformers refuse its weights instead of leaving them out.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sdcxr.runtime.errors import UserError


class PromptTokens(nn.Module):
    """Tokens (n, width), the child `prompt` of the block in front of which they are inserted."""

    def __init__(self, n: int, width: int):
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(n, width))
        nn.init.uniform_(self.tokens, -((6 / width) ** 0.5), (6 / width) ** 0.5)


def transformer_blocks(network: nn.Module) -> dict[str, nn.Module]:
    """The blocks of a vision transformer by name, those with attention and an MLP; none in a convolutional network."""
    return {
        name: each
        for name, each in network.named_modules()
        if isinstance(getattr(each, "mlp", None), nn.Module) and attention_of(each) is not None
    }


def attention_of(block: nn.Module) -> str | None:
    """Name of the attention in a block; None if it has none."""
    return next((name for name in ("attn", "attention") if isinstance(getattr(block, name, None), nn.Module)), None)


def prompt_place(network: nn.Module) -> tuple[int, int] | None:
    """Tokens in front of those of the image, and the width of all; None if it is not one sequence of blocks."""
    blocks = transformer_blocks(network)
    layers = [layer for block in blocks.values() for layer in block.children() if isinstance(layer, nn.LayerNorm)]
    widths, parents = {layer.normalized_shape[0] for layer in layers}, {name.rpartition(".")[0] for name in blocks}
    first = _prefix_tokens(network)
    return None if first is None or len(widths) != 1 or len(parents) != 1 else (first, widths.pop())


def insert_prompts(network: nn.Module, n: int, deep: bool) -> list[str]:
    """Give a vision transformer n tokens before its first block, and return the names of the new parameters.

    Or, `deep`, before every block, where they replace those of the block before. Behind the last block there are none.

    Raises:
        UserError: it is not one sequence of blocks of one width.
    """
    place = prompt_place(network)
    if place is None:
        raise UserError(f"visual prompts need a plain vision transformer, which {type(network).__name__} is not")
    first, width = place
    blocks, names = transformer_blocks(network), []
    for i, (name, block) in enumerate(blocks.items()):
        if deep or i == 0:
            block.add_module("prompt", PromptTokens(n, width))
            block.register_forward_pre_hook(partial(_insert, at=first), with_kwargs=True)
            names.append(f"{name}.prompt.tokens")
        if deep or i == len(blocks) - 1:
            block.register_forward_hook(partial(_remove, at=first, n=n))
    return names


def _prefix_tokens(network: nn.Module) -> int | None:
    """Tokens in front of those of the image (class, registers); None where that is not known."""
    known = getattr(network, "num_prefix_tokens", None)  # of timm
    if known is None and any(name.endswith("embeddings.cls_token") for name, _ in network.named_parameters()):
        about: Any = getattr(network, "config", None)
        known = 1 + (getattr(about, "num_register_tokens", 0) or 0)
        known += any(name.endswith("distillation_token") for name, _ in network.named_parameters())
    return known


def _insert(
    block: Any, args: tuple[Any, ...], kwargs: dict[str, Any], at: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Before a block: the prompts behind the first `at` tokens of (batch, tokens, width)."""
    states = args[0] if args else kwargs["hidden_states"]
    prompts = block.prompt.tokens.to(states.dtype).expand(len(states), -1, -1)
    states = torch.cat([states[:, :at], prompts, states[:, at:]], dim=1)
    return ((states, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": states})


def _remove(block: Any, args: Any, output: Any, at: int, n: int) -> Any:
    """Behind a block: the tokens without the prompts."""
    states: Tensor = output if isinstance(output, Tensor) else output[0]
    states = torch.cat([states[:, :at], states[:, at + n :]], dim=1)
    return states if isinstance(output, Tensor) else (states, *output[1:])
