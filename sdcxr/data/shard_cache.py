"""Cache of encoder outputs in safetensors shards, memory-mapped: latent moments, text conditioning.

A fingerprint of everything that the rows depend on is checked on every use. Processes share the shards out; a build
that was stopped goes on with the missing ones.
"""

import errno
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from sdcxr.io.files import atomic, read_json, require_space, write_json
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.memory import out_of_memory
from sdcxr.runtime.processes import processes

SHARD = 1024  # rows a shard: 64 MiB of latents at 512 px
BATCH = 16  # rows through the encoder at once
OFFSETS = ".offsets"  # suffix of the tensor with the row boundaries of one whose rows differ in length

Encode = Callable[[int, int], dict[str, Tensor | list[Tensor]]]
"""(first, last) to the named rows of these items: a tensor (rows, …), or a list of tensors that differ in length."""


class ShardCache:
    """Rows of named tensors: `cache[i]` is {name: tensor}, in the order in which the items were given.

    Args:
        folder: with the shards.
        n: number of rows.
        shard: rows in each of them but the last.
    """

    def __init__(self, folder: Path, n: int, shard: int):
        self.n, self.shard = n, shard
        self.shards = [_open_shard(folder / name) for name in shard_names(n, shard)]
        rows = sum(_n_rows(shard) for shard in self.shards)
        if rows != n:
            raise UserError(f"{folder} holds {rows} rows instead of {n}: delete the folder and run again")

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        shard, row = self.shards[index // self.shard], index % self.shard
        values = {}
        for name, tensor in shard.items():
            if name.endswith(OFFSETS):
                continue
            bounds = shard.get(name + OFFSETS)
            values[name] = tensor[row] if bounds is None else tensor[int(bounds[row]) : int(bounds[row + 1])]
        return values

    def longest(self, name: str) -> int:
        """The most entries that a row of this tensor has."""
        bounds = [shard[name + OFFSETS] for shard in self.shards]
        return max(int(each.diff().max()) for each in bounds)

    def to_device(self, device: torch.device) -> dict[str, Tensor]:
        """All rows, stacked, on a device.

        Raises:
            UserError: they do not fit; says how large they are.
        """
        try:
            return {name: torch.cat([shard[name] for shard in self.shards]).to(device) for name in self.shards[0]}
        except (torch.OutOfMemoryError, MemoryError):
            size = sum(tensor.nbytes for shard in self.shards for tensor in shard.values())
            raise UserError(f"the cached rows ({size / 1e9:.1f} GB) do not fit: leave out --cache_in_memory") from None


def shard_names(n: int, shard: int) -> list[str]:
    """File names of the shards for n rows."""
    return [f"shard-{i:05d}.safetensors" for i in range(-(-n // shard))]


def _n_rows(shard: dict[str, Tensor]) -> int:
    name = next(name for name in shard if not name.endswith(OFFSETS))
    return len(shard[name + OFFSETS]) - 1 if name + OFFSETS in shard else len(shard[name])


def _open_shard(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:  # tensors stay mapped: pages are read when touched
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, FileNotFoundError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it and run the same command again") from None


def build_cache(
    what: str,
    fingerprint: dict[str, Any],
    encode: Encode,
    n: int,
    folder: Path | None,
    default: Path,
    shard: int | None = None,
) -> ShardCache:
    """Open the cache, after building the shards that are missing; every process takes its share of them.

    Args:
        what: what is cached ("latents"), for messages.
        fingerprint: what the rows depend on, as JSON.
        encode: the encoder.
        n: number of rows.
        folder: the cache, if the user named one.
        default: otherwise a folder named by the fingerprint is used below this one.
        shard: rows in a shard, which is made in memory; `SHARD` where that is None.

    Raises:
        UserError: the named folder holds something else; says what differs. Or the folder cannot be written to, or disk
            or memory is too small.
    """
    state, shard = processes(), shard or SHARD
    if folder is None:
        folder = default / hashlib.sha256(repr(sorted(fingerprint.items())).encode()).hexdigest()[:16]
    record = folder / "fingerprint.json"
    if record.is_file():
        found = read_json(record)
        differing = [key for key, value in fingerprint.items() if found.get(key) != value]
        if differing:
            raise UserError(
                f"{folder} caches other {what} (differing: {', '.join(differing)}): give another folder, or delete it"
            )
    names = shard_names(n, shard)
    # Shards without the record are of anything.
    missing = [i for i, name in enumerate(names) if not (record.is_file() and (folder / name).is_file())]
    state.wait_for_everyone()
    if state.is_main_process and missing:
        _begin(record, fingerprint, what)
    state.wait_for_everyone()
    rows = {i: range(i * shard, min((i + 1) * shard, n)) for i in missing}
    mine = missing[state.process_index :: state.num_processes]
    todo = sum(len(rows[i]) for i in mine)
    advice = f"{what} are encoded {BATCH} at a time: free some memory, or lower --resolution"
    quiet = not (todo and state.is_main_process)
    with out_of_memory(advice), tqdm(total=todo, desc=f"caching {what}", unit="row", disable=quiet) as bar:
        for turn, i in enumerate(mine):
            left = sum(len(rows[j]) for j in missing[turn * state.num_processes :])  # the others are about as far
            _write_shard(encode, rows[i], folder / names[i], bar, what, left)
    state.wait_for_everyone()
    return ShardCache(folder, n, shard)


def _begin(record: Path, fingerprint: dict[str, Any], what: str) -> None:
    """Make the folder of a cache and its record; a `UserError` where that cannot be."""
    folder = record.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(record, fingerprint)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise UserError(
            f"{folder}: the cache of {what} cannot be written there ({error.strerror}): name a folder by --latents_dir"
        ) from None


@torch.no_grad()
def _write_shard(encode: Encode, rows: range, path: Path, bar: Any, what: str, left: int) -> None:
    """A shard of the `left` rows that are not on the disk yet: one batch says how much of it they take."""
    batches: list[dict[str, Any]] = []
    for first in range(rows.start, rows.stop, BATCH):
        last = min(first + BATCH, rows.stop)
        rows_of = encode(first, last)
        batches.append({k: v.cpu() if isinstance(v, Tensor) else [row.cpu() for row in v] for k, v in rows_of.items()})
        if first == rows.start:
            size = sum(each.nbytes for v in batches[0].values() for each in ([v] if isinstance(v, Tensor) else v))
            require_space(path.parent, size // (last - first) * left, f"the cache of {what}")
        bar.update(last - first)
    tensors: dict[str, Tensor] = {}
    for name, first_batch in batches[0].items():
        if isinstance(first_batch, Tensor):
            tensors[name] = torch.cat([batch[name] for batch in batches]).contiguous()
        else:
            parts = [row for batch in batches for row in batch[name]]
            lengths = torch.tensor([0, *(len(part) for part in parts)])
            tensors |= {name: torch.cat(parts).contiguous(), name + OFFSETS: lengths.cumsum(0)}
    with atomic(path) as temporary:
        save_file(tensors, temporary)
