"""Pipeline folders on disk: check that one is complete, load its parts from safetensors, save one atomically."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdcxr.runtime.errors import UserError
from sdcxr.runtime.quiet import LIBRARIES, quiet_libraries

VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model")


def pipeline_class_of(folder: Path) -> str:
    """The `_class_name` of model_index.json.

    Raises:
        UserError: there is no such file, or it names none.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(f"{folder} has no model_index.json: it is not a diffusers pipeline folder")
    try:
        return str(json.loads(index.read_text(encoding="utf-8"))["_class_name"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{index} does not name a pipeline: copy the pipeline folder again") from None


def check_pipeline_folder(folder: Path, networks: Sequence[str]) -> None:
    """Refuse a folder that lacks a part or its safetensors weights, naming what is missing.

    Args:
        folder: the pipeline folder.
        networks: names of the components that have weights.
    """
    folders = (*networks, "tokenizer", "scheduler")
    for part in folders:
        if not (folder / part).is_dir():
            raise UserError(f"{folder} has no part {part!r}: copy the whole pipeline (it needs: {', '.join(folders)})")
    for part in networks:
        if not (folder / part / "config.json").is_file():
            raise UserError(f"{folder / part} has no config.json: copy the whole pipeline")
        if not any((folder / part).glob("*.safetensors")):
            raise UserError(
                f"{folder / part} has no .safetensors weights: pickled ones are not read, convert them first"
            )
    if not any((folder / "tokenizer" / name).is_file() for name in VOCABULARIES):
        raise UserError(f"{folder / 'tokenizer'} has no vocabulary ({' or '.join(VOCABULARIES)}): copy it again")


def component_class(folder: Path, name: str) -> Any:
    """The transformers class that model_index.json names for a component.

    Raises:
        ValueError: the installed transformers does not have it.
    """
    import transformers

    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    _, class_name = index.get(name) or (None, None)
    found = getattr(transformers, str(class_name), None)
    if not hasattr(found, "from_pretrained"):
        raise ValueError(f"its {name} is a {class_name}, which the installed transformers does not have")
    return found


def load_part(kind: Any, folder: Path, name: str, dtype: Any) -> Any:
    """One network with exactly the weights that its file holds: the libraries would fill gaps with random ones.

    Raises:
        ValueError: weights are missing, or there are more than the architecture takes.
    """
    part, info = kind.from_pretrained(folder, subfolder=name, use_safetensors=True, output_loading_info=True)
    # Position ids were once saved as weights; they are 0, 1, 2 …
    unexpected = [key for key in info["unexpected_keys"] if not key.endswith("position_ids")]
    for what, keys in (("lack", info["missing_keys"]), ("hold more than its config.json asks for:", unexpected)):
        if keys:
            raise ValueError(f"the weights of {name} {what} {', '.join(sorted(keys)[:3])} ({len(keys)} in all)")
    return part.to(dtype)


def hash_weights(part: Any, prefixes: tuple[str, ...] = ("",)) -> str:
    """SHA-256 of names and float32 values of the tensors of a part whose names begin with one of the prefixes."""
    weights = hashlib.sha256()
    for name, tensor in sorted(part.state_dict().items()):
        if name.startswith(prefixes):
            weights.update(name.encode() + tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return weights.hexdigest()


def hash_parts(backbone: Any) -> dict[str, str]:
    """`hash_weights` of every part of a backbone, by the names of the pipeline's components."""
    return {backbone.components[name]: hash_weights(part) for name, part in backbone.parts.items()}


def save_pipeline(pipeline: Any, folder: Path) -> None:
    """Save a complete diffusers pipeline atomically: written beside `folder`, then renamed."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    for left_behind in folder.parent.glob(f".{folder.name}.*.tmp"):  # by a killed process
        shutil.rmtree(left_behind)
    try:
        with quiet_libraries(*LIBRARIES):
            pipeline.save_pretrained(temporary, safe_serialization=True)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
