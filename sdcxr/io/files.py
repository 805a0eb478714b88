"""Atomic file writes, JSON, path checks, and the user's cache folder."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sdcxr import __version__
from sdcxr.runtime.errors import NotWritten, UserError, os_error_behind


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Atomic write: yield a temporary path next to `path`, renamed to `path` at the end, deleted on an error.

    At any moment, also after a kill, `path` is the old file or the complete new one.

    Raises:
        NotWritten: the system refuses to write; errors about other files are raised unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.randbits(48)}.tmp")  # process ids are not unique across nodes
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except Exception as error:
        cause = os_error_behind(error)
        if cause is None or cause.errno is None or cause.filename not in (None, os.fspath(temporary)):
            raise
        raise NotWritten(cause.errno, cause.strerror, os.fspath(path)) from error
    finally:
        with suppress(OSError):  # the parent may be missing; keep the original error
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` atomically as indented JSON with a final newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; invalid JSON is a `UserError`."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error})") from None


def checksum(path: Path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def uniform(key: str) -> float:
    """A pseudorandom number in [0, 1) that depends on the key only, such as a seed and an id."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64


def state_of(path: Path) -> tuple[int, int, int]:
    """Size in bytes, mtime and ctime in ns: differs when the content may differ.

    The ctime is set by the system; `cp -p` and `tar` restore the mtime only.
    """
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def existing_folder(path: str | Path, flag: str) -> Path:
    """`path` with ~ expanded; a `UserError` that names the flag if it is not an existing folder."""
    path = Path(path).expanduser()
    if not path.is_dir():
        kind = "is a file, not a folder" if path.exists() else "does not exist"
        raise UserError(f"{flag} {path}: {kind}")
    return path


def inside(folder: Path, name: str) -> Path:
    """`folder / name`; a `UserError` if `name` would lead out of the folder."""
    path = folder / name
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{folder}: the file name {name!r} leads out of the folder")
    return path


def check_same_settings(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise a `UserError` that lists what differs if a folder was begun with other settings."""
    keys = dict.fromkeys([*new, *old])
    differing = [f"{key} {old.get(key)} → {new.get(key)}" for key in keys if old.get(key) != new.get(key)]
    if differing:
        raise UserError(f"{folder} was begun with other settings ({'; '.join(differing)}): use another --output_dir")


def claim_folder(folder: Path, record: str, settings: Mapping[str, Any], kind: str) -> None:
    """Record the settings that a folder is made with, or compare them with those recorded there.

    Args:
        folder: made where it is missing.
        record: name of the JSON file in it.
        settings: as JSON.
        kind: what the folder is ("a samples folder"), for messages.

    Raises:
        UserError: it was begun with other settings, or holds something else.
    """
    path = folder / record
    if path.is_file():
        check_same_settings(folder, read_json(path), settings)
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"--output_dir {folder}: not empty and not {kind}: give another one")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def require_space(folder: Path, n_bytes: int, what: str) -> None:
    """Raise a `UserError` if the disk of `folder` has less free space than `n_bytes`; a quota is not seen here."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if free < n_bytes:
        raise UserError(
            f"{folder}: {what} takes {n_bytes / 1e9:.3g} GB and its disk has {free / 1e9:.3g} GB left: free some space "
            "or use another folder"
        )


def user_cache() -> Path:
    """Folder for what is built once per user and version: in $SDCXR_CACHE, else in sdcxr of the XDG cache."""
    root = os.environ.get("SDCXR_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "sdcxr"
    return Path(root).expanduser() / __version__
