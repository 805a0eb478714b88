"""The image classifier of `train.py --tune classifier`: a network of timm or transformers, and its folder.

The folder is what both libraries write: `timm.create_model("local-dir:FOLDER", pretrained=True)` or
`AutoModelForImageClassification.from_pretrained("FOLDER")` load it. config.json also has our own fields.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sdcxr.backbones.prompt_tokens import insert_prompts
from sdcxr.io.files import atomic, read_json, write_json
from sdcxr.runtime.errors import UserError, first_line
from sdcxr.runtime.memory import is_out_of_memory
from sdcxr.runtime.quiet import LIBRARIES, quiet_libraries

ARCHITECTURE = "resnet10t"

RESOLUTION = 64

Problem = Literal["multi_label", "multi_class"]
"""One sigmoid per label, or one class of several (softmax)."""


@dataclass(frozen=True)
class Description:
    """What a network is and how it takes an image: all of config.json that is ours."""

    architecture: str
    """timm's name, the `model_type` of transformers, or a name in `volume_networks.NETWORKS`."""
    labels: Sequence[str]
    resolution: int
    """Side of the images in pixels, of patches of volumes in voxels."""
    library: Literal["timm", "transformers", "monai"] = "timm"
    problem: Problem = "multi_label"
    channels: int = 1
    """That the network takes."""
    mean: Sequence[float] = (0.5,)
    """Per channel, of values in [0, 1], as `std`."""
    std: Sequence[float] = (0.5,)
    colour: bool = False
    """Whether it was trained on images of three channels."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of `timm.create_model` beyond the defaults."""
    prompt_tokens: int = 0
    """Of visual prompt tuning, which stay in the network: no plain layer is equal to them."""
    deep_prompts: bool = False
    """Whether every block has prompts of its own."""
    spacing_mm: Sequence[float] = ()
    """Of networks for volumes: size of the voxels along the patient's axes."""

    @property
    def of_volumes(self) -> bool:
        """Whether it reads volumes."""
        return self.library == "monai"

    def inputs(self, pixels: Tensor) -> Tensor:
        """What the network takes of images (batch, 1 or 3, H, W) in [-1, 1]."""
        if pixels.shape[1] != self.channels:
            pixels = pixels.expand(-1, self.channels, -1, -1) if self.channels == 3 else pixels.mean(1, keepdim=True)
        if all(value == 0.5 for value in (*self.mean, *self.std)):
            return pixels
        mean, std = (pixels.new_tensor(each).view(-1, 1, 1) for each in (self.mean, self.std))
        return (pixels / 2 + 0.5 - mean) / std


def network(architecture: str, outputs: int, channels: int = 1, **arguments: Any) -> nn.Module:
    """An untrained timm network, for grey images where nothing else is said.

    Args:
        architecture: timm's name.
        outputs: number of logits.
        channels: of its input.
        arguments: further ones of `timm.create_model`.

    Raises:
        UserError: timm does not know the name; the nearest names are listed. Or it does not take the arguments.
    """
    import timm

    check_architecture(architecture)
    try:
        return timm.create_model(architecture, pretrained=False, in_chans=channels, num_classes=outputs, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"--base {architecture}: timm cannot build it with {arguments} ({error})") from None


def check_architecture(name: str, flag: str = "--base") -> None:
    """Raise a `UserError` with the nearest names if timm does not know an architecture."""
    import timm

    if name not in timm.list_models() and name not in timm.list_pretrained():
        import difflib

        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise UserError(f"{flag} {name}: timm has no such model (near: {', '.join(near) or 'none'})")


def head_of(network: nn.Module) -> tuple[str, ...]:
    """Names of the last layer, or last layers, whose outputs are the logits; none in a network of another kind."""
    about = getattr(network, "pretrained_cfg", None)
    names = about.get("classifier") if about else "classifier" if hasattr(network, "config") else None
    return () if names is None else (names,) if isinstance(names, str) else tuple(names)


def is_in(name: str, modules: Sequence[str]) -> bool:
    """Whether a parameter or module is one of these modules or lies in one of them."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def logits_of(network: nn.Module, inputs: Tensor) -> Tensor:
    """The logits (batch, outputs), also of a network of transformers, which returns them in an object."""
    result = network(inputs)
    return result if isinstance(result, Tensor) else result.logits


def probabilities_of(logits: Tensor, problem: Problem) -> Tensor:
    """Probabilities (batch, outputs), float32."""
    return logits.float().softmax(dim=1) if problem == "multi_class" else logits.float().sigmoid()


def log_odds(logits: Tensor, problem: Problem) -> Tensor:
    """Logits whose sigmoid is the probability: of a class against all others where there is one class of several."""
    if problem == "multi_label":
        return logits
    classes = logits.shape[1]
    without = logits[:, None].expand(-1, classes, -1).masked_fill(torch.eye(classes).bool().to(logits.device), -np.inf)
    return logits - without.logsumexp(dim=2)


def classifier_folder(folder: Path) -> Path:
    """The folder of the classifier itself, where that of its run is given."""
    return folder / "classifier" if (folder / "classifier").is_dir() else folder


def read_description(folder: Path) -> Description | None:
    """What config.json of a classifier of ours says; None for any other folder."""
    if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
        return None
    about = read_json(folder / "config.json")
    if not {"architecture", "labels", "resolution"} <= about.keys():
        return None
    own = {name: about[name] for name in Description.__dataclass_fields__ if name in about}
    if "in_chans" in own.get("model_args", {}):
        own["model_args"] = {name: value for name, value in own["model_args"].items() if name != "in_chans"}
    own |= {name: tuple(own[name]) for name in ("mean", "std", "spacing_mm") if name in own}
    return Description(**own)


def write_classifier(folder: Path, network: nn.Module, about: Description, **results: Any) -> None:
    """Write the folder of a network, plain but for prompt tokens; `results` are added to config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    own = asdict(about) | {"labels": list(about.labels)} | results
    if about.library == "transformers":
        config = _transformers_config(network, about)
        side = {"height": about.resolution, "width": about.resolution}
        processing = {"image_mean": list(about.mean), "image_std": list(about.std), "do_resize": True, "size": side}
        processing |= {"image_processor_type": "ViTImageProcessor", "do_rescale": True, "do_normalize": True}
        write_json(folder / "preprocessor_config.json", processing)
        # transformers would only warn of surplus weights: it does not find its settings then.
        own |= {"transformers": config} if about.prompt_tokens else config
    else:
        own |= _timm_config(network, about)
    if about.library == "transformers" and not about.prompt_tokens:
        of_transformers: Any = network
        with quiet_libraries(*LIBRARIES):
            of_transformers.save_pretrained(folder)  # under the names of tensors that every version reads
    else:
        tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
        with atomic(folder / "model.safetensors") as temporary:
            save_file(tensors, temporary)
    write_json(folder / "config.json", own)


def _timm_config(network: nn.Module, about: Description) -> dict[str, Any]:
    """Fields of config.json as timm writes and reads them."""
    given: Any = getattr(network, "pretrained_cfg", {})
    kept = {
        key: given[key] for key in ("first_conv", "classifier", "interpolation", "fixed_input_size") if key in given
    }
    return {
        "num_classes": len(about.labels),
        "label_names": list(about.labels),
        "model_args": about.model_args | {"in_chans": about.channels},
        "pretrained_cfg": kept
        | {
            "input_size": (about.channels, about.resolution, about.resolution),
            "mean": list(about.mean),
            "std": list(about.std),
            "num_classes": len(about.labels),
            "crop_pct": 1.0,
        },
    }


def _transformers_config(network: Any, about: Description) -> dict[str, Any]:
    """Fields of config.json as transformers writes and reads them, with the names of the labels."""
    config = network.config
    config.id2label = dict(enumerate(about.labels))
    config.label2id = {label: i for i, label in enumerate(about.labels)}
    many = about.problem == "multi_label"
    config.problem_type = "multi_label_classification" if many else "single_label_classification"
    config.architectures = [type(network).__name__]
    fields: dict[str, Any] = config.to_dict()
    return fields


class Classifier:
    """A trained classifier folder, ready to read images: `labels`, `predict`, `logits`, `features`."""

    def __init__(self, folder: Path, device: torch.device):
        folder = classifier_folder(folder)
        about = read_description(folder)
        if about is None:
            raise UserError(f"{folder} holds no trained classifier: make one with train.py --tune classifier")
        self.about = about
        self.labels: list[str] = list(about.labels)
        self.resolution, self.architecture, self.device = about.resolution, about.architecture, device
        self.network = load_network(folder, about)
        self.network.eval().to(device)

    def logits(self, pixels: Tensor) -> Tensor:
        """Logits (batch, labels), whose sigmoid is the probability, of images (batch, 1 or 3, H, W) in [-1, 1]."""
        return log_odds(logits_of(self.network, self.about.inputs(pixels.to(self.device))), self.about.problem)

    @torch.no_grad()
    def predict(self, pixels: Tensor) -> np.ndarray:
        """Probabilities (batch, labels) of images (batch, 1 or 3, resolution, resolution) in [-1, 1]."""
        logits = logits_of(self.network, self.about.inputs(pixels.to(self.device)))
        return probabilities_of(logits, self.about.problem).cpu().numpy()

    def features(self, pixels: Tensor) -> Tensor:
        """What the last layer takes, (batch, width)."""
        inputs, network = self.about.inputs(pixels.to(self.device)), self.network
        if self.about.library == "timm":
            of_timm: Any = network
            features: Tensor = of_timm.forward_head(of_timm.forward_features(inputs), pre_logits=True)
            return features
        seen: list[Tensor] = []
        hook = network.get_submodule(head_of(network)[0]).register_forward_pre_hook(lambda _, x: seen.append(x[0]))
        network(inputs)
        hook.remove()
        return seen[0].flatten(1)


def load_network(folder: Path, about: Description) -> nn.Module:
    """The network of a classifier folder with its weights, all of which have to fit.

    Raises:
        UserError: they do not, or are damaged.
    """
    file = folder / "model.safetensors"
    try:
        if about.library == "transformers" and not about.prompt_tokens:
            return _of_transformers(folder)
        if about.library == "transformers":
            module = _transformers_network(read_json(folder / "config.json")["transformers"])
        else:
            module = network(about.architecture, len(about.labels), about.channels, **about.model_args)
        if about.prompt_tokens:
            insert_prompts(module, about.prompt_tokens, about.deep_prompts)
        module.load_state_dict(load_file(file))
        return module
    except (SafetensorError, RuntimeError, OSError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"{file} is damaged or of another network ({first_line(error)})") from None


def _of_transformers(folder: Path) -> nn.Module:
    from transformers import AutoModelForImageClassification

    with quiet_libraries(*LIBRARIES):
        module, info = AutoModelForImageClassification.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
    if odd := [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]:
        raise RuntimeError(f"{len(odd)} tensors do not fit, such as {odd[0]}")
    loaded: nn.Module = module
    return loaded


def _transformers_network(fields: dict[str, Any]) -> nn.Module:
    from transformers import CONFIG_MAPPING, AutoModelForImageClassification

    made: nn.Module = AutoModelForImageClassification.from_config(
        CONFIG_MAPPING[fields["model_type"]].from_dict(fields)
    )
    return made
