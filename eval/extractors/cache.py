"""Extract the features of an image folder: cached by images and weights, sharded over processes."""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.extractors.base import Extractor
from eval.inputs.folders import ImageFolder
from sdcxr.io.files import atomic, user_cache
from sdcxr.runtime.errors import UserError, explain_os_error, os_error_behind
from sdcxr.runtime.memory import out_of_memory
from sdcxr.runtime.threads import available_cores

VERSION = 2  # of the extraction and its cache keys: raise it to extract everything anew
BATCH = 32  # images per forward pass
WORKERS_FROM = 64  # images from which worker processes are worth their start


@dataclass(frozen=True)
class Features:
    """Features of a folder of images."""

    values: np.ndarray
    """Shape (images, dimension), float32."""
    ids: list[str]
    """`ImageFolder.ids` of the rows, in the order of the folder."""
    provenance: dict[str, Any]
    """Extractor, checksums of its weights, preprocessing, library versions, number and colour of the images."""


def extract(images: ImageFolder, extractor: Extractor, *, cache_dir: Path | None = None) -> Features:
    """Features of all images, from the cache where it holds them; otherwise every process extracts its share.

    Args:
        images: the folder.
        extractor: as `eval.extractors.find_extractor` returns it.
        cache_dir: folder of the cached arrays; default: `features` below the user's cache.

    Raises:
        UserError: images are unreadable (they are listed), or the weights are damaged.
    """
    cache = cache_dir or user_cache() / "features"
    provenance = describe(extractor) | {"folder": str(images.folder), "n_images": len(images)}
    path = cache / f"{_key(provenance, images)}.safetensors"
    found = _read(path, images.ids)
    if found is not None and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return found

    from accelerate.utils import gather_object

    from sdcxr.runtime.processes import processes

    state = processes()
    everywhere = all(gather_object([found is not None]))  # nodes may have a cache each
    if found is not None and everywhere:
        return found
    share = slice(state.process_index, None, state.num_processes)
    features = _merge(
        gather_object([_forward(extractor, images.paths[share], images.ids[share], state)]), images, provenance
    )
    if state.is_main_process:
        _keep(path, features)
    return features


def describe(extractor: Extractor) -> dict[str, Any]:
    """What the features depend on beside the images."""
    return extractor.provenance | {"version": VERSION}


def _key(provenance: dict[str, Any], images: ImageFolder) -> str:
    """The name of an array in the cache: a hash over its provenance and the state of the images."""
    about = provenance | {"folder": str(images.folder.resolve())}
    return hashlib.sha256(json.dumps([about, images.files_hash], sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class _Share:
    """The features that one process extracted, of every n-th image."""

    values: np.ndarray
    """Shape (images, dimension), or (0, 0) where there were no images or unusable ones."""
    colour: list[float]
    """Of each image, as `eval.inputs.images.read_grey` returns it."""
    problems: dict[str, str]
    """Of unusable images, by name."""


def _forward(extractor: Extractor, paths: Sequence[Path], names: Sequence[str], state: Any) -> _Share:
    """Features of the images of this process, in order.

    After the first unusable image the others are only read, to list all that are unusable.
    """
    import torch
    from tqdm import tqdm

    from eval.inputs.images import batches
    from sdcxr.runtime.threads import use_all_cores

    use_all_cores()
    with out_of_memory(f"{extractor.name} does not fit: free some memory, or use another device"):
        network = extractor.load(state.device)
    workers = _workers() if len(paths) >= WORKERS_FROM else 0
    colour: list[float] = []
    problems: dict[str, str] = {}
    outputs = []
    on_gpu = state.device.type == "cuda"
    loader = batches(paths, extractor.prepare, BATCH, workers, on_gpu, extractor.in_colour)
    with (
        out_of_memory(f"{extractor.name} takes {BATCH} images at a time: free some memory, or use another device"),
        tqdm(
            total=len(paths), desc=extractor.name, unit="image", disable=not state.is_main_process, leave=False
        ) as bar,
        torch.inference_mode(),
        torch.backends.cudnn.flags(enabled=True, allow_tf32=False),  # TF32 changes the third digit
    ):
        for batch in loader:
            problems |= {names[i]: problem for i, problem in batch.problems.items()}
            colour += batch.colour
            if not problems:
                outputs.append(network(batch.inputs.to(state.device, non_blocking=True)).float())
            bar.update(len(batch.colour))
    if problems or not outputs:
        return _Share(np.zeros((0, 0), np.float32), colour, problems)
    return _Share(torch.cat(outputs).cpu().numpy(), colour, problems)


def _workers() -> int:
    return max(1, min(8, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1))


def _merge(shares: list[_Share], images: ImageFolder, provenance: dict[str, Any]) -> Features:
    """The shares of all processes, interleaved again into the order of the folder.

    Raises:
        UserError: images were unusable, or the network gave numbers that are not finite.
    """
    problems = {name: problem for share in shares for name, problem in share.problems.items()}
    if problems:
        from eval.inputs.images import refuse

        refuse([f"{name} {problems[name]}" for name in images.ids if name in problems], images.paths)
    width = max(share.values.shape[1] for share in shares)
    values = np.empty((len(images), width), np.float32)
    for i, share in enumerate(shares):
        values[i :: len(shares)] = share.values.reshape(-1, width)
    broken = [name for name, row in zip(images.ids, values, strict=True) if not np.isfinite(row).all()]
    if broken:
        raise UserError(
            f"{provenance['extractor']} gives features that are not finite for {len(broken)} of {len(images)} images "
            f"(first: {broken[0]}): its weights are damaged"
        )
    colour = [value for share in shares for value in share.colour]
    about_colour = {"n_colour": sum(value > 0 for value in colour), "channel_difference": float(np.mean(colour))}
    return Features(values, images.ids, provenance | about_colour | {"dimension": width})


def write_features(path: Path, features: Features) -> None:
    """Write a safetensors file: `values`, and `ids` and `provenance` as JSON in its metadata."""
    from safetensors.numpy import save_file

    about = {"ids": json.dumps(features.ids), "provenance": json.dumps(features.provenance)}
    with atomic(path) as temporary:
        save_file({"values": np.ascontiguousarray(features.values)}, temporary, about)


def _keep(path: Path, features: Features) -> None:
    """Write to the cache; on a full or read-only disk warn and go on, because the features are in memory."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_features(path, features)
    except Exception as error:
        cause = os_error_behind(error)
        if cause is None:
            raise
        reason = explain_os_error(cause) or cause.strerror
        print(f"warning: features are not kept for the next time: {reason}", file=sys.stderr)


def _read(path: Path, ids: list[str]) -> Features | None:
    """The cached array; None if it is absent or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            values, about = file.get_tensor("values"), {k: json.loads(v) for k, v in file.metadata().items()}
    except (OSError, SafetensorError):
        return None
    return Features(values, about["ids"], about["provenance"]) if about["ids"] == ids else None
