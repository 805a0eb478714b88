"""Pretrained weights of others: where to get them, where to find them locally, checks of size and checksum."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdcxr.io.files import checksum
from sdcxr.io.hub import cached_snapshot
from sdcxr.runtime.errors import UserError, first_line
from sdcxr.runtime.quiet import quiet_libraries


@dataclass(frozen=True)
class WeightsFile:
    """A file that the user has to provide: nothing is downloaded."""

    file: str
    """Its name at the origin."""
    url: str
    """Where to get it."""
    size: int | None = None
    """Bytes, if confirmed: files of another size are refused."""
    about: str = ""
    """The size in words if not confirmed: "about 28 MB, size unconfirmed"."""
    sha256: str = ""
    """The checksum or its first digits, if known: other files are refused."""

    def find(self, weights_dir: Path | None, *others: Path) -> Path:
        """Path of the file, after its check.

        Args:
            weights_dir: the folder of `--weights_dir`.
            others: further folders to search, if the checksum is known.

        Raises:
            UserError: the file is absent or has another size or checksum.
        """
        for folder in [weights_dir, *(others if self.sha256 else ())]:
            if folder is not None and (folder / self.file).is_file():
                self.check(folder / self.file)
                return folder / self.file
        raise UserError(
            f"the weights {self.file} ({self.size_text}) are not in --weights_dir"
            f"{f' {weights_dir}' if weights_dir else ''}: download them from {self.url} and name their folder with "
            f"--weights_dir"
        )

    @property
    def size_text(self) -> str:
        return self.about or f"{self.size or 0:,} bytes"

    def check(self, path: Path) -> None:
        """Check the size and checksum of a file.

        Raises:
            UserError: they differ.
        """
        if self.size is not None and path.stat().st_size != self.size:
            found = path.stat().st_size
            raise UserError(f"{path} has {found:,} bytes instead of {self.size:,}: download it again from {self.url}")
        if self.sha256 and not (found_sum := checksum(path)).startswith(self.sha256):
            raise UserError(
                f"{path} has the sha256 {found_sum[:16]}… instead of {self.sha256[:16]}…: "
                f"download it again from {self.url}"
            )


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Silence transformers, and raise a `UserError` where what it loads is absent or damaged."""
    from safetensors import SafetensorError

    try:
        with quiet_libraries():
            yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise UserError(f"{what} cannot be loaded ({first_line(error)})") from None


def load_pretrained(kind: Any, folder: Path) -> tuple[Any, list[str]]:
    """A model of a class of transformers, in float32 from local safetensors, and the names of absent weights."""
    import torch

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
    model, loaded = kind.from_pretrained(folder, output_loading_info=True, dtype=torch.float32, **options)
    return model, sorted(loaded["missing_keys"])


def hub_folder(repository: str, weights_dir: Path | None, about: str) -> Path:
    """The local folder of a repository of the Hugging Face hub: in `--weights_dir`, else in the hub's cache.

    Args:
        repository: `owner/name`.
        weights_dir: may contain it as `owner/name` or `name`.
        about: its size in words, for the message.

    Raises:
        UserError: it is in neither place; the message says how to get it.
    """
    name = repository.partition("/")[2]
    folders = (weights_dir / repository, weights_dir / name) if weights_dir else ()
    found = next((folder for folder in folders if folder.is_dir()), None) or cached_snapshot(repository)
    if found is None:
        place = weights_dir or "WEIGHTS_DIR"
        raise UserError(
            f"{repository} ({about}) is neither a folder here, nor in --weights_dir, nor in the hub's cache: "
            f"hf download {repository} --local-dir {place}/{name}, then --weights_dir {place}"
        )
    return found
