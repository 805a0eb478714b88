"""What a classifier begins from (`--base`): weights of timm, transformers or a run, from the hub, folders or files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sdcxr.backbones.image_classifier import (
    ARCHITECTURE,
    RESOLUTION,
    Classifier,
    Description,
    check_architecture,
    classifier_folder,
    head_of,
    network,
    read_description,
)
from sdcxr.backbones.pipeline_files import hash_weights
from sdcxr.config import TrainConfig
from sdcxr.io.files import read_json
from sdcxr.io.hub import hub_folder, is_hub_name
from sdcxr.runtime.errors import UserError, first_line
from sdcxr.runtime.memory import is_out_of_memory
from sdcxr.runtime.quiet import LIBRARIES, quiet_libraries

FILES = ("config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json")
RANDOM = "--random_weights begins without any"
FAILURES = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, AssertionError, SafetensorError)


def untrained(base: str | None, wanted: Description) -> tuple[nn.Module, Description]:
    """A timm network of random weights by its name; `wanted` says labels, channels, and a resolution (0: its own)."""
    import timm

    name = base or ARCHITECTURE
    check_architecture(name)
    about = replace(wanted, architecture=name, resolution=wanted.resolution or RESOLUTION)
    about = replace(about, model_args=_size_argument(timm.get_pretrained_cfg(name), about.resolution))
    return network(name, len(about.labels), about.channels, **about.model_args), about


def pretrained(base: str, architecture: str | None, wanted: Description) -> tuple[nn.Module, Description, str]:
    """A network with the weights of `--base` and a new last layer, how it takes its images, and the weights' hash.

    Args:
        base: name of timm (`resnet50`, `timm/resnet50.a1_in1k`), hub name or folder of a model of timm or transformers,
            or a safetensors file of a timm model.
        architecture: timm's name, for a file without a config.json beside it.
        wanted: labels, and a resolution in pixels, or 0 for the base's own.

    Raises:
        UserError: what is missing or does not fit, and what to do.
    """
    try:
        where = _locate(base)
        config = where.parent / "config.json" if where.is_file() else where / "config.json"
        about = read_json(config) if config.is_file() else {}
        if architecture is None and "model_type" in about:
            with quiet_libraries(*LIBRARIES):
                module, described = _of_transformers(where, about, wanted)
            return _with_new_head(module, described)
        name = architecture or about.get("architecture")
        if name is None:
            raise UserError(f"{where} does not say which network it is (no config.json): name it with --architecture")
        check_architecture(name, "--architecture" if architecture else "--base")
        return _with_new_head(*_of_timm(where, name, {} if architecture else about, wanted))
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"--base {base}: {first_line(error)}") from None


def _with_new_head(module: nn.Module, about: Description) -> tuple[nn.Module, Description, str]:
    sha256 = hash_weights(module)
    replace_head(module, len(about.labels))
    return module, about, sha256


def of_run(base: str) -> Classifier | None:
    """The classifier of another run with its last layer; None where `--base` is something else."""
    folder = classifier_folder(Path(base).expanduser())
    if not folder.is_dir() or read_description(folder) is None:
        if (Path(base).expanduser() / "config.yaml").is_file():
            raise UserError(f"--base {base}: is a run without a classifier yet: let its training finish")
        return None
    return Classifier(folder, torch.device("cpu"))


def resolution_of(begun: Any, config: TrainConfig) -> int:
    """Side of the images for the network of another run: `--resolution`, or its own.

    Args:
        begun: a `Classifier` or `Segmenter`.
        config: the settings.

    Raises:
        UserError: it takes images of its own size alone.
    """
    own, given = int(begun.resolution), config.resolution
    if given not in (None, own) and ("img_size" in begun.about.model_args or _has_positions(begun.network)):
        raise UserError(f"--resolution {given}: the network of --base {config.base} takes {own} px: leave it out")
    return given or own


def replace_head(network: nn.Module, outputs: int) -> None:
    """Give a network a new last layer of random weights."""
    if hasattr(network, "reset_classifier"):
        of_timm: Any = network
        of_timm.reset_classifier(outputs)
        return
    (head,) = head_of(network)
    path = head if isinstance(network.get_submodule(head), nn.Linear) else f"{head}.{_last_linear(network, head)}"
    old = network.get_submodule(path)
    assert isinstance(old, nn.Linear)
    new = nn.Linear(old.in_features, outputs)
    nn.init.trunc_normal_(new.weight, std=0.02)
    nn.init.zeros_(new.bias)
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, new)
    of_transformers: Any = network
    of_transformers.config.num_labels = of_transformers.num_labels = outputs


def _last_linear(network: nn.Module, head: str) -> str:
    layers = [n for n, each in network.get_submodule(head).named_modules() if isinstance(each, nn.Linear)]
    if not layers:
        raise UserError(f"{type(network).__name__} has no last layer {head} that could be replaced")
    return layers[-1]


def _locate(base: str) -> Path:
    """The local folder or file behind `--base`, downloaded where it is on the hub and not cached."""
    import timm

    path = Path(base).expanduser()
    if path.exists():
        if path.is_file() and path.suffix != ".safetensors":
            raise UserError(f"--base {base}: only safetensors files are read, pickled weights are not")
        return path
    owner, _, name = base.rpartition("/")
    if owner in ("", "timm"):
        check_architecture(name)
        about = timm.get_pretrained_cfg(name)
        if about is None or not about.hf_hub_id:
            raise UserError(f"--base {base}: timm knows no weights of this network on the Hugging Face hub; {RANDOM}")
        return hub_folder(about.hf_hub_id, f"--base {base}", FILES)
    if not is_hub_name(base):
        raise UserError(f"--base {base}: no such file or folder (a hub name has the form owner/name)")
    return hub_folder(base, f"--base {base}", FILES)


def _of_timm(where: Path, name: str, config: dict[str, Any], wanted: Description) -> tuple[nn.Module, Description]:
    import timm

    file = where if where.is_file() else where / "model.safetensors"
    if not file.is_file():
        raise UserError(f"{where} has no model.safetensors: pickled weights are not read")
    tensors = load_file(file)
    known = timm.get_pretrained_cfg(name)
    given = config.get("pretrained_cfg") or {key: value for key, value in config.items() if key != "architecture"}
    cfg: dict[str, Any] = (known.to_dict() if known else {}) | given
    args = {key: value for key, value in config.get("model_args", {}).items() if key != "in_chans"}
    resolution = wanted.resolution or int(cfg["input_size"][-1])
    args |= _size_argument(known, resolution)
    overlay = {
        "state_dict": tensors,
        "num_classes": _outputs(tensors, cfg["classifier"]),
        "input_size": (_channels(tensors, cfg), *cfg["input_size"][1:]),
        "label_offset": 0,
        "custom_load": False,
    }
    # With its own last layer, so that timm loads strictly.
    module = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=cfg | overlay, in_chans=overlay["input_size"][0],
        num_classes=overlay["num_classes"], **args,
    )  # fmt: skip
    module.pretrained_cfg = {key: value for key, value in module.pretrained_cfg.items() if key != "state_dict"}
    module.default_cfg = module.pretrained_cfg
    channels = overlay["input_size"][0]
    about = replace(
        wanted, architecture=name, resolution=resolution, channels=channels, model_args=args, library="timm",
        mean=tuple(cfg["mean"])[:channels], std=tuple(cfg["std"])[:channels],
    )  # fmt: skip
    return module, about


def _outputs(tensors: dict[str, Tensor], head: str | tuple[str, ...]) -> int:
    """Outputs of the last layer in a file; 0 where it has none."""
    name = head if isinstance(head, str) else head[0]
    return len(tensors[f"{name}.weight"]) if f"{name}.weight" in tensors else 0


def _channels(tensors: dict[str, Tensor], cfg: dict[str, Any]) -> int:
    first = cfg["first_conv"] if isinstance(cfg["first_conv"], str) else cfg["first_conv"][0]
    weight = tensors.get(f"{first}.weight")
    return int(cfg["input_size"][0]) if weight is None else weight.shape[1]


def _size_argument(cfg: Any, resolution: int) -> dict[str, Any]:
    """`img_size` for a network whose weights depend on it (position embeddings)."""
    return {"img_size": resolution} if cfg is not None and cfg.fixed_input_size else {}


def _of_transformers(folder: Path, config: dict[str, Any], wanted: Description) -> tuple[nn.Module, Description]:
    from transformers import AutoModelForImageClassification

    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder} has no .safetensors weights, and pickled ones are not read")
    model, info = AutoModelForImageClassification.from_pretrained(
        folder, use_safetensors=True, output_loading_info=True, dtype=torch.float32
    )
    (head,) = head_of(model)
    lacking = [key for key in info["missing_keys"] if not key.startswith(f"{head}.")]
    surplus = [key for key in info["unexpected_keys"] if "pooler." not in key and "mask_token" not in key]
    if lacking or surplus or info["mismatched_keys"]:
        odd = (lacking or surplus or [each[0] for each in info["mismatched_keys"]])[0]
        raise UserError(f"{folder}: its weights are not those of a {type(model).__name__} ({odd})")
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        raise UserError(f"{folder} has no preprocessor_config.json, which says how its images are normalised")
    about = read_json(file)
    side = getattr(model.config, "image_size", None) or about.get("size", 224)
    side = side if isinstance(side, int) else side[0] if isinstance(side, list | tuple) else max(side.values())
    own = int(side)
    if wanted.resolution not in (0, own) and _has_positions(model):
        raise UserError(f"--resolution {wanted.resolution}: this base takes images of {own} px: leave it out")
    normalised = about.get("do_normalize", True)
    described = replace(
        wanted,
        architecture=config["model_type"],
        library="transformers",
        resolution=wanted.resolution or own,
        channels=model.config.num_channels,
        mean=tuple(about["image_mean"]) if normalised else (0.0,) * 3,
        std=tuple(about["image_std"]) if normalised else (1.0,) * 3,
    )
    return model, described


def _has_positions(module: nn.Module) -> bool:
    """Whether a network of transformers has an embedding for each place of an image of one size."""
    return any("position_embeddings" in name for name, _ in module.named_parameters())
