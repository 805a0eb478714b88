"""Textual projection: a projection fitted so that the states of one text encoder become those of another.

Chambon et al. 2022 (arXiv 2210.04133) put a domain encoder in front of a frozen Stable Diffusion in this way.
"""

import math
from collections.abc import Iterator
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from sdcxr import backbones
from sdcxr.backbones.text_encoders import TextEncoder
from sdcxr.config import TrainConfig
from sdcxr.data.stream import generator
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.processes import on_cpu

HELD_OUT = 0.1  # of the texts
FEWEST, MOST = 20, 1000  # texts; held-out texts
STATES = 64  # texts through the encoders at once


def fit_projection(config: Any, texts: list[str]) -> tuple[Any, dict[str, float]]:
    """The base with the new encoder behind a fitted projection, and what `measure` says on held-out texts.

    Args:
        config: see `sdcxr.commands.fit_projection.ProjectionConfig`.
        texts: distinct ones.

    Raises:
        UserError: too few texts, or base, encoder or projection do not fit.
    """
    if len(texts) < FEWEST:
        raise UserError(f"--prompts {config.prompts}: holds {len(texts)} different texts, at least {FEWEST} are needed")
    device = torch.device("cuda" if torch.cuda.is_available() and not on_cpu() else "cpu")
    backbone = backbones.load(config.base)
    own = backbone.text_encoder
    shared = {
        name: getattr(config, name) for name in ("base", "text_encoder", "text_projection", "text_length", "seed")
    }
    backbone.adapt(TrainConfig(**shared, trust_remote_code=config.trust_remote_code))
    new, projection = backbone.text_encoder, backbone.untrained["projection"].to(device)
    for encoder in (own, new):
        encoder.module.requires_grad_(False).eval().to(device)
    order = generator(config.seed, 0).permutation(len(texts))
    n_held_out = min(MOST, math.ceil(HELD_OUT * len(texts)))
    held_out, train = ([texts[i] for i in part] for part in (order[:n_held_out], order[n_held_out:]))
    states = partial(pair_of_states, new, own, device)
    if isinstance(projection, nn.Linear):
        solve_linear(projection, (states(train[i : i + STATES]) for i in range(0, len(train), STATES)))
    else:
        draws = (
            generator(config.seed, 1 + step).integers(len(train), size=config.train_batch_size) for step in count()
        )
        descend(projection, (states([train[i] for i in chosen]) for chosen in draws), config)
    with torch.no_grad():
        pairs = [states(held_out[i : i + STATES]) for i in range(0, n_held_out, STATES)]
        projected = torch.cat([projection(inputs).cpu() for inputs, _ in pairs])
        measured = measure(projected, torch.cat([targets.cpu() for _, targets in pairs]))
    for part in backbone.parts.values():
        part.cpu()
    return backbone, measured | {"n_texts": len(texts), "n_held_out": n_held_out}


Pairs = Iterator[tuple[Tensor, Tensor]]
"""States of both encoders, (n, tokens, width) each."""


@torch.no_grad()
def solve_linear(projection: nn.Linear, pairs: Pairs) -> None:
    """Give a linear projection the weights and bias of least squares over all pairs."""
    sums: list[Tensor] = []
    for inputs, targets in pairs:
        x = nn.functional.pad(inputs.flatten(0, 1).double().cpu(), (0, 1), value=1.0)
        products = [x.T @ x, x.T @ targets.flatten(0, 1).double().cpu()]
        sums = products if not sums else [total + product for total, product in zip(sums, products, strict=True)]
    gram, moment = sums
    # States span fewer directions than their width in short texts; the ridge is far below what rounding in them costs.
    ridge = 1e-9 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    solution = torch.linalg.solve(gram + ridge, moment)
    projection.weight.copy_(solution[:-1].T)
    projection.bias.copy_(solution[-1])


def descend(projection: nn.Module, pairs: Pairs, config: Any) -> None:
    """Minimise the mean squared error with AdamW, one pair a step."""
    optimizer = torch.optim.AdamW(projection.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.max_train_steps)
    for _ in tqdm(range(config.max_train_steps), desc="fitting", unit="step"):
        inputs, targets = next(pairs)
        loss = nn.functional.mse_loss(projection(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def pair_of_states(new: TextEncoder, own: TextEncoder, device: torch.device, texts: list[str]) -> tuple[Tensor, Tensor]:
    """States of the same texts by both encoders, (n, tokens, width) each, cut to the shorter length."""
    states = []
    with torch.no_grad():
        for encoder in (new, own):
            tokens = encoder.tokenize(texts)
            ids, mask = (torch.from_numpy(array).to(device) for array in (tokens.ids, tokens.mask))
            states.append(encoder.states(ids, mask))
    length = min(each.shape[1] for each in states)
    return states[0][:, :length], states[1][:, :length]


def measure(projected: Tensor, targets: Tensor) -> dict[str, float]:
    """How well states (n, tokens, width) take the place of others of the same texts.

    Returns:
        `explained`: 1 minus the squared error over that of the mean state at each position; 1 is perfect, 0 as good as
        no text at all. `top1` and `mean_reciprocal_rank`: the text itself among all n by the cosine of mean states,
        from which the mean over texts is taken; of those that tie, each is first in its share of the cases.
    """
    baseline = (targets - targets.mean(dim=0)).square().sum()
    explained = 1 - float((projected - targets).square().sum() / baseline)
    queries, gallery = (_directions(states.mean(dim=1)) for states in (projected, targets))
    similarity = queries @ gallery.T
    own = similarity.diagonal()[:, None]
    nearer, tied = ((compared.sum(dim=1).double()) for compared in (similarity > own, similarity == own))  # with itself
    return {
        "explained": explained,
        "top1": float(((nearer == 0) / tied).mean()),
        "mean_reciprocal_rank": float((1 / (nearer + (1 + tied) / 2)).mean()),
    }


def _directions(vectors: Tensor) -> Tensor:
    return nn.functional.normalize(vectors - vectors.mean(dim=0), dim=1)
