"""Weights that others trained: where their files come from, and that the one found here is the right one."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sdcxr.io.files import checksum, state_of, write_text
from sdcxr.runtime.errors import UserError


@dataclass(frozen=True)
class WeightsFile:
    """A file that a user has to provide, because nothing is downloaded silently."""

    file: str
    """Its name, as its origin gives it."""
    url: str
    """Where to get it."""
    size: int | None = None
    """Bytes, where they are known for sure; then another size is refused."""
    about: str = ""
    """The size for a reader, where it is not known for sure: "about 28 MB, size unconfirmed"."""
    sha256: str = ""
    """The checksum, or its first digits, where known; then another file is refused."""

    def find(self, weights_dir: Path | None, *others: Path) -> Path:
        """The file, checked.

        Args:
            weights_dir: the folder of `--weights_dir`.
            others: further folders to look into, only for weights whose checksum is known.

        Raises:
            UserError: the file is absent, or is not what it should be.
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
        """Refuse a file of another size or checksum.

        Raises:
            UserError: see above.
        """
        if self.size is not None and path.stat().st_size != self.size:
            found = path.stat().st_size
            raise UserError(f"{path} has {found:,} bytes instead of {self.size:,}: download it again from {self.url}")
        if self.sha256 and not (found_sum := checksum(path)).startswith(self.sha256):
            raise UserError(
                f"{path} has the sha256 {found_sum[:16]}… instead of {self.sha256[:16]}…: "
                f"download it again from {self.url}"
            )


def remembered_checksum(path: Path, memory: Path) -> str:
    """`checksum`, kept in the folder `memory` for as long as the file's size and times of change stay the same."""
    identity = " ".join(map(str, (path.resolve(), *state_of(path))))
    record = memory / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.sha256"
    if record.is_file():
        return record.read_text(encoding="utf-8")
    found = checksum(path)
    with suppress(OSError):  # a memory that cannot be written to costs time, and nothing else
        memory.mkdir(parents=True, exist_ok=True)
        write_text(record, found)
    return found


def hub_folder(repository: str, weights_dir: Path | None, about: str) -> Path:
    """The folder of a repository of the Hugging Face hub: below `--weights_dir`, else in the hub's cache.

    Args:
        repository: `owner/name`.
        weights_dir: may hold it as `owner/name` or `name`.
        about: its size in words, for the message.

    Raises:
        UserError: it is in neither place; says how to get it.
    """
    name = repository.partition("/")[2]
    for folder in (weights_dir / repository, weights_dir / name) if weights_dir else ():
        if folder.is_dir():
            return folder

    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        place = weights_dir or "WEIGHTS_DIR"
        raise UserError(
            f"{repository} ({about}) is neither a folder here, nor in --weights_dir, nor in the hub's cache: "
            f"hf download {repository} --local-dir {place}/{name}, then --weights_dir {place}"
        ) from None
