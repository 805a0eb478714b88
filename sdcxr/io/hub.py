"""Hugging Face hub: tell names from local folders; find snapshots in the local cache, or download them."""

from collections.abc import Sequence
from pathlib import Path

from sdcxr.runtime.errors import UserError


def is_hub_name(name: str) -> bool:
    """Whether `name` has the form `owner/name` and is not an existing path."""
    owner, _, model = name.partition("/")
    return bool(owner and model) and "/" not in model and owner[0] not in ".~" and not Path(name).exists()


def cached_snapshot(repository: str) -> Path | None:
    """The folder of a repository `owner/name` in the hub's local cache; None where it is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def hub_folder(repository: str, flag: str, files: Sequence[str]) -> Path:
    """The local folder of a repository `owner/name`, downloaded where it is not cached.

    Args:
        repository: its name.
        flag: that named it, with its value, for messages.
        files: patterns of what is downloaded.

    Raises:
        UserError: it cannot be reached.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=list(files)))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{flag}: neither a folder here nor to be had from the Hugging Face hub "
            f"({type(error).__name__}): check the name and the network, or download it elsewhere and give its folder"
        ) from None
