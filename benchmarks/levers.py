"""The levers of training speed, and which combinations of them a table has as rows."""

from dataclasses import dataclass, field
from typing import Any, Literal

Which = Literal["all", "on", "off", "full"]


@dataclass(frozen=True)
class Lever:
    """Something that can be on or off: settings of `TrainConfig`."""

    name: str
    label: str
    on: dict[str, Any]
    off: dict[str, Any]
    needs: str | None = None
    """a lever without which this one cannot be on"""
    only: str | None = None
    """the kind of device where it applies; everywhere by default"""


# In the order in which they are switched on.
LEVERS = (
    Lever("cache", "latents cache", {"cache_latents": True}, {"cache_latents": False}),
    Lever("bf16", "bf16 autocast", {"mixed_precision": "bf16"}, {"mixed_precision": "no"}),
    Lever("channels_last", "channels last", {"channels_last": True}, {"channels_last": False}, only="cuda"),
    Lever("fused", "fused AdamW", {"fused_optimizer": True}, {"fused_optimizer": False}),
    Lever("compile", "torch.compile", {"torch_compile": True}, {"torch_compile": False}, only="cuda"),
    Lever("graphs", "CUDA graphs", {"cuda_graphs": True}, {"cuda_graphs": False}, needs="compile", only="cuda"),
    Lever(
        "memory",
        "latents in GPU memory",
        {"cache_in_memory": True},
        {"cache_in_memory": False},
        needs="cache",
        only="cuda",
    ),
)


@dataclass(frozen=True)
class Row:
    """One training run of a table: the levers that are on, and images per step."""

    levers: frozenset[str]
    batch_size: int
    label: str = field(compare=False)

    def settings(self) -> dict[str, Any]:
        """The settings of `TrainConfig` that make it."""
        values: dict[str, Any] = {"train_batch_size": self.batch_size}
        for lever in LEVERS:
            values |= lever.on if lever.name in self.levers else lever.off
        return values


def available(device: str) -> list[Lever]:
    """The levers that a kind of device has: "cpu", "cuda"."""
    return [lever for lever in LEVERS if lever.only in (None, device)]


def cumulative(device: str, batch_size: int) -> list[Row]:
    """From everything off to everything on, one lever after the other, and at last with twice the batch."""
    levers = available(device)
    names = [lever.name for lever in levers]
    rows = [Row(frozenset(), batch_size, "naive, fp32")]
    rows += [Row(frozenset(names[: i + 1]), batch_size, f"+ {lever.label}") for i, lever in enumerate(levers)]
    return [*rows, Row(frozenset(names), 2 * batch_size, f"+ batch {2 * batch_size}")]


def full(device: str, batch_size: int) -> Row:
    """Everything on."""
    return Row(frozenset(lever.name for lever in available(device)), batch_size, "everything on")


def one_off(device: str, batch_size: int) -> list[Row]:
    """Everything on, then each lever off by itself, along with those that need it."""
    everything = full(device, batch_size)
    rows = [everything]
    for lever in available(device):
        gone = {lever.name} | {other.name for other in LEVERS if other.needs == lever.name}
        also = [other.label for other in available(device) if other.name in gone - {lever.name}]
        rows.append(Row(everything.levers - gone, batch_size, " and ".join([f"without {lever.label}", *also])))
    return rows


def plan(which: Which, device: str, batch_size: int) -> list[Row]:
    """The runs to make, each once: both directions, one of them, or only the two ends."""
    on, off = cumulative(device, batch_size), one_off(device, batch_size)
    ends = [on[0], off[0]]
    return list(dict.fromkeys({"all": on + off, "on": on, "off": off, "full": ends}[which]))
