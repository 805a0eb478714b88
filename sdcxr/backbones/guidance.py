"""Classifier-free guidance without computing twice what its two halves, or all steps, have in common."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def shared_guidance(unet: Any, guided: bool) -> Iterator[None]:
    """Inside, diffusers' UNet2DConditionModel computes once what repeats, with the same results.

    The two halves of a batch under guidance are the same latents at the same timestep: until the first cross-attention,
    where the texts come in, one half is computed and doubled. Keys and values of the texts are kept over the steps.

    Args:
        unet: used for sampling only while this is in force.
        guided: whether batches are two halves of the same latents, as the pipeline makes them for guidance.
    """
    with ExitStack() as stack:
        for part in before_text(unet) if guided else ():
            for handle in (
                part.register_forward_pre_hook(_first_half, with_kwargs=True),
                part.register_forward_hook(lambda _part, _inputs, output: _doubled(output)),
            ):
                stack.callback(handle.remove)
        for name, module in unet.named_modules():
            if name.endswith(("attn2.to_k", "attn2.to_v")):
                stack.callback(_restore, module, module.__dict__.get("forward"))
                module.forward = _remembering(module.forward)
        yield


def _restore(module: nn.Module, forward: Callable[..., Any] | None) -> None:
    """Give a module the `forward` that it had of its own, or none."""
    del module.forward
    if forward is not None:
        module.forward = forward


def before_text(unet: Any) -> list[nn.Module]:
    """The modules of a UNet through which latents pass before the first cross-attention, in order.

    None where the timestep's embedding holds more than the timestep, which may differ between the halves.
    """
    config = unet.config
    if any(getattr(config, name, None) for name in ("addition_embed_type", "class_embed_type", "time_cond_proj_dim")):
        return []
    parts: list[nn.Module] = [unet.conv_in]
    for block in unet.down_blocks:
        if not hasattr(block, "attentions"):
            parts.append(block)
            continue
        parts.append(block.resnets[0])
        layer = (
            block.attentions[0].transformer_blocks[0] if hasattr(block.attentions[0], "transformer_blocks") else None
        )
        if layer is not None and not layer.only_cross_attention:
            parts.append(layer.attn1)
        break
    return parts


def _first_half(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(map(_half, inputs)), {name: _half(value) for name, value in named.items()}


def _half(value: Any) -> Any:
    return value[: len(value) // 2] if isinstance(value, Tensor) and value.dim() else value


def _doubled(output: Any) -> Any:
    return torch.cat([output, output]) if isinstance(output, Tensor) else tuple(map(_doubled, output))


def _remembering(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The function, computed anew only for another tensor than at the last call."""
    last: list[Tensor] = []

    def remembered(states: Tensor) -> Tensor:
        if not last or last[0] is not states:
            last[:] = [states, forward(states)]
        return last[1]

    return remembered
