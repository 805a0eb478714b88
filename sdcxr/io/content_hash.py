"""Hash of many files by content, which reads only those that changed since the last time."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from sdcxr.io.files import atomic, state_of, user_cache

Result = TypeVar("Result")
CHUNK = 256  # files a task of a thread
THREADS = 16  # reading and hashing release the interpreter; network file systems answer many at once


def file_digests(paths: Sequence[Path], progress: bool = False) -> np.ndarray:
    """SHA-256 of the content of every file, uint8 of shape (n, 32).

    Digests are remembered in the user's cache with size, mtime and ctime of each file, for this list of files, so that
    a second call only asks for the states: 2 s instead of a minute for 300,000 images of 100 kB on a local disk.

    Args:
        paths: the files.
        progress: show a bar where reading takes more than 3 s.

    Raises:
        FileNotFoundError: names the first file that is missing.
    """
    names = "\n".join(str(path.absolute()) for path in paths)
    remembered = user_cache() / "digests" / f"{hashlib.sha256(names.encode()).hexdigest()[:32]}.safetensors"
    states = np.array(in_threads(state_of, paths), dtype=np.int64).reshape(-1, 3)
    known = _recall(remembered, len(paths))
    digests = np.zeros((len(paths), 32), dtype=np.uint8) if known is None else known["digests"].copy()
    stale = np.arange(len(paths)) if known is None else np.flatnonzero((known["states"] != states).any(axis=1))
    if not len(stale):
        return digests
    changed = [paths[int(i)] for i in stale]
    with tqdm(total=len(changed), desc="reading images", unit="image", delay=3, disable=not progress) as bar:
        digests[stale] = np.array(in_threads(_digest, changed, bar), dtype=np.uint8).reshape(-1, 32)
    with suppress(OSError):  # unwritable cache: only slower
        _remember(remembered, {"states": states, "digests": digests})
    return digests


def _digest(path: Path) -> list[int]:
    with path.open("rb") as file:
        return list(hashlib.file_digest(file, "sha256").digest())


def in_threads(function: Callable[[Any], Result], items: Sequence[Any], bar: Any = None) -> list[Result]:
    """`function` of each item, in threads, because a network file system takes long to answer; `bar` is updated."""
    chunks = (items[first : first + CHUNK] for first in range(0, len(items), CHUNK))
    with ThreadPoolExecutor(THREADS) as pool:
        results: list[Result] = []
        for result in pool.map(lambda chunk: [function(item) for item in chunk], chunks):
            results += result
            if bar is not None:
                bar.update(len(result))
    return results


def _recall(path: Path, n: int) -> dict[str, np.ndarray] | None:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        known = load_file(path)
    except (OSError, SafetensorError):
        return None
    return (
        known
        if {name: array.shape for name, array in known.items()} == {"states": (n, 3), "digests": (n, 32)}
        else None
    )


def _remember(path: Path, arrays: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        save_file(arrays, temporary)
