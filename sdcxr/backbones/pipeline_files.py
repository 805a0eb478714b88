"""Pipeline folders on disk: check that one is complete, load its parts from safetensors, save one atomically."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from sdcxr.backbones.text_projection import load_with_mlp, mark_saved, saved_form
from sdcxr.io.files import read_json, write_json
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.quiet import LIBRARIES, quiet_libraries

# What config.json of published weights calls a class that diffusers has renamed since.
FORMER_NAMES = {"PixArtTransformer2DModel": "Transformer2DModel"}
HASHED: WeakKeyDictionary[Any, tuple[Any, str]] = WeakKeyDictionary()
"""Type and hash of text encoders that never train."""
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")


def pipeline_class_of(folder: Path) -> str:
    """The `_class_name` of model_index.json.

    Raises:
        UserError: there is no such file, or it names none.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        alone = next((part for part in (folder, folder / "transformer", folder / "unet") if _is_network(part)), None)
        if alone is not None:
            raise UserError(
                f"{folder} has a denoiser only ({read_json(alone / 'config.json')['_class_name']}): copy the pipeline "
                f"that it belongs to, put it in place of that one's {'unet' if alone.name == 'unet' else 'transformer'}"
                "/, and give that folder"
            )
        raise UserError(f"{folder} has no model_index.json: it is not a diffusers pipeline folder")
    try:
        return str(json.loads(index.read_text(encoding="utf-8"))["_class_name"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{index} does not name a pipeline: copy the pipeline folder again") from None


def _is_network(folder: Path) -> bool:
    """Whether a folder holds a network of diffusers."""
    about = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return isinstance(about, dict) and "_class_name" in about


def check_pipeline_folder(folder: Path, networks: Sequence[str], tokenizers: Sequence[str] = ("tokenizer",)) -> None:
    """Refuse a folder that lacks a part or its safetensors weights, naming what is missing.

    Args:
        folder: the pipeline folder.
        networks: names of the components that have weights.
        tokenizers: names of the tokenizers.
    """
    folders = (*networks, *tokenizers, "scheduler")
    for part in folders:
        if not (folder / part).is_dir():
            raise UserError(f"{folder} has no part {part!r}: copy the whole pipeline (it needs: {', '.join(folders)})")
    for part in networks:
        if not (folder / part / "config.json").is_file():
            raise UserError(f"{folder / part} has no config.json: copy the whole pipeline")
        variant_of(folder / part)
    for tokenizer in tokenizers:
        if not any((folder / tokenizer / name).is_file() for name in VOCABULARIES):
            raise UserError(f"{folder / tokenizer} has no vocabulary ({' or '.join(VOCABULARIES)}): copy it again")


def variant_of(part: Path) -> str | None:
    """The variant that a network was saved in where there is no plain one: `fp16` of model.fp16.safetensors.

    Raises:
        UserError: no safetensors weights, which names those that there are, or several variants without a plain one.
    """
    # model.safetensors, model-00001-of-00002.safetensors; with a variant model.fp16.safetensors, or by its shards
    # model.fp16-00001-of-00002.safetensors, model-00001-of-00002.fp16.safetensors
    name = re.compile(r"(?:diffusion_pytorch_)?model(-\d+-of-\d+)?(?:\.([\w-]+?))?(-\d+-of-\d+)?\.safetensors")
    found = [match[2] for file in sorted(part.iterdir()) if (match := name.fullmatch(file.name))]
    if None in found:
        return None
    if not found:
        pickled = next((file.name for file in sorted(part.iterdir()) if file.suffix in (".bin", ".ckpt", ".pt")), None)
        if pickled is None:
            raise UserError(f"{part} has no .safetensors weights: copy the whole pipeline")
        raise UserError(
            f"{part} has no .safetensors weights, only {pickled}, and pickled ones are not read: where you trust it, "
            f'StableDiffusionPipeline.from_pretrained("{part.parent}").save_pretrained("NEW") of diffusers writes a '
            "folder NEW that can be used"
        )
    if len(variants := sorted(set(found))) > 1:
        raise UserError(f"{part} has weights only as variants ({', '.join(variants)}): keep those of one of them")
    return str(variants[0])


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

    In `dtype`, or where that is None in the type that they are stored in.

    Raises:
        ValueError: weights are missing, or there are more than the architecture takes.
    """
    saved = json.loads((folder / name / "config.json").read_text(encoding="utf-8")).get("_class_name", kind.__name__)
    if saved not in (kind.__name__, FORMER_NAMES.get(kind.__name__)):
        raise ValueError(f"the class of its {name} is {saved}, not {kind.__name__}")
    if (with_mlp := load_with_mlp(kind, folder / name)) is not None:
        return with_mlp.to(dtype)
    options = {"use_safetensors": True, "variant": variant_of(folder / name), "output_loading_info": True}
    options |= {"dtype": "auto"} if dtype is None else {}
    part, info = kind.from_pretrained(folder, subfolder=name, **options)
    # Position ids were once saved as weights; they are 0, 1, 2 …
    unexpected = [key for key in info["unexpected_keys"] if not key.endswith("position_ids")]
    for what, keys in (("lack", info["missing_keys"]), ("hold more than its config.json asks for:", unexpected)):
        if keys:
            raise ValueError(f"the weights of {name} {what} {', '.join(sorted(keys)[:3])} ({len(keys)} in all)")
    return part if dtype is None else part.to(dtype)


def hash_weights(part: Any, prefixes: tuple[str, ...] = ("",)) -> str:
    """SHA-256 of names and float32 values of the tensors of a part whose names begin with one of the prefixes."""
    weights = hashlib.sha256()
    for name, tensor in sorted(part.state_dict().items()):
        if name.startswith(prefixes):
            weights.update(name.encode() + tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return weights.hexdigest()


def never_trains(backbone: Any, name: str) -> bool:
    """Whether a part of a backbone is a text encoder that no `--tune` changes."""
    return name.startswith("text") and name not in backbone.tunable_text


def hash_part(backbone: Any, name: str) -> str:
    """`hash_weights` of a part; of one that never trains once in a process, since T5-XXL has 19 GB of them."""
    part = backbone.parts[name]
    if not never_trains(backbone, name):
        return hash_weights(part)
    own = next(part.parameters()).dtype  # which generate.py may change
    dtype, digest = HASHED.get(part, (None, ""))
    if dtype != own:
        HASHED[part] = own, (digest := hash_weights(part))
    return digest


def hash_parts(backbone: Any) -> dict[str, str]:
    """`hash_part` of every part of a backbone, by the names of the pipeline's components."""
    return {backbone.components[name]: hash_part(backbone, name) for name in backbone.parts}


def describe_config(part: Any) -> str:
    """The configuration of a network of transformers as JSON, without the version that is installed."""
    about = json.loads(part.config.to_json_string())
    return json.dumps({name: value for name, value in about.items() if name != "transformers_version"}, sort_keys=True)


def hash_base(backbone: Any) -> dict[str, str]:
    """`hash_parts`, and the schedule in words: what tells a base from another."""
    return hash_parts(backbone) | {"schedule": describe_schedule(backbone)}


def describe_schedule(backbone: Any) -> str:
    """Some values of a base's noise process and latent scale, which its weights do not tell, to three digits.

    x₀ = 1 and noise = 2 corrupted, and what the network then predicts, at two times; a latent of 1 for the denoiser.
    """
    import torch

    process, codec = backbone.inference_process(), backbone.codec
    t = torch.as_tensor([process.stratum_start(part, 4) for part in (1, 3)])
    x0 = torch.ones(2, 1, 1, 1)
    latent = torch.ones(1, *codec.posterior_shape(backbone.multiple))
    values = [process.corrupt(x0, 2 * x0, t), process.target(x0, 2 * x0, t), codec.to_model(latent).mean()]
    return " ".join(f"{value:.3g}" for tensor in values for value in tensor.flatten().tolist())


def save_pipeline(pipeline: Any, folder: Path, stored: dict[str, Path] | None = None) -> None:
    """Save a complete diffusers pipeline atomically: written beside `folder`, then renamed.

    Args:
        pipeline: of diffusers.
        folder: of the result.
        stored: by component, a folder that has it as it is, which is linked where it still exists.
    """
    linked = {name: source for name, source in (stored or {}).items() if source.is_dir()}
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    for left_behind in folder.parent.glob(f".{folder.name}.*.tmp"):  # by a killed process
        shutil.rmtree(left_behind)
    try:
        with quiet_libraries(*LIBRARIES):
            forms = {name: saved_form(each) for name, each in getattr(pipeline, "components", {}).items()}
            if changed := {name: form for name, form in forms.items() if form is not pipeline.components[name]}:
                pipeline.register_modules(**changed)
            with linking({pipeline.components[name]: source for name, source in linked.items()}):
                pipeline.save_pretrained(temporary, safe_serialization=True)
        for name, component in getattr(pipeline, "components", {}).items():
            if name in linked:  # its files are also those of the base
                continue
            mark_saved(component, temporary / name)
            if hasattr(component, "backend_tokenizer"):
                save_vocabulary(component, temporary / name)
            elif type(component).__name__.startswith("CLIPTextModel"):
                use_hub_names(temporary / name)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def linking(networks: dict[Any, Path]) -> Iterator[None]:
    """Inside, saving one of these networks links or copies the files of its folder."""
    for network, source in networks.items():
        network.save_pretrained = partial(link_files, source)  # in front of the method of its class
    try:
        yield
    finally:
        for network in networks:
            del network.save_pretrained


def link_files(source: Path, folder: str, **_: Any) -> None:
    """Give a folder the files of another as hard links, or as copies where the disk does not have them."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for file in sorted(path for path in source.iterdir() if path.is_file()):
        original = file.resolve()  # in the hub's cache they are symbolic links
        try:
            os.link(original, Path(folder) / file.name)
        except OSError:
            shutil.copyfile(original, Path(folder) / file.name)


def save_vocabulary(tokenizer: Any, folder: Path) -> None:
    """Add the files of the vocabulary (vocab.json and merges.txt of CLIP) to the tokenizer.json of transformers 5.

    The tokenizers of transformers 4 that diffusers' pipelines name read nothing else.
    """
    model = tokenizer.backend_tokenizer.model
    if type(model).__name__ not in ("BPE", "WordPiece"):
        return
    model.save(str(folder))
    known = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["vocab"]
    added = {word: index for word, index in tokenizer.get_added_vocab().items() if word not in known}
    if added:  # by textual inversion
        write_json(folder / "added_tokens.json", added)


def use_hub_names(folder: Path) -> None:
    """Give the weights of a CLIP text encoder the names that they have on the hub and in transformers 4: text_model.*

    transformers 5 loads both, and saves one that was made in the process without the prefix, which transformers 4 would
    fill with random weights.
    """
    from safetensors.torch import load_file, save_file

    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        named = {_hub_name(key): value for key, value in tensors.items()}
        if named.keys() != tensors.keys():
            save_file(named, file, metadata={"format": "pt"})
    for index in folder.glob("*.safetensors.index.json"):
        content = read_json(index)
        content["weight_map"] = {_hub_name(key): file for key, file in content["weight_map"].items()}
        write_json(index, content)


def _hub_name(key: str) -> str:
    inner = key.startswith(("embeddings.", "encoder.", "final_layer_norm."))
    return f"text_model.{key}" if inner else key
