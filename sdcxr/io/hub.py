"""Hugging Face hub: tell names from local folders, and find snapshots in the local cache without downloading."""

from pathlib import Path


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
