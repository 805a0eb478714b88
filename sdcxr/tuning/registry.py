"""Registry of tuning methods by the name that `--method` takes, and their use on the parts of a backbone."""

import dataclasses
import difflib
from typing import Any

from torch import nn

from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError
from sdcxr.tuning.base import NothingToTune, TuningMethod, apply_method, modules_of, out_of_sight
from sdcxr.tuning.decoder import WithDecoder
from sdcxr.tuning.difffit import DiffFit
from sdcxr.tuning.full import Full
from sdcxr.tuning.lycoris_methods import LYCORIS_METHODS
from sdcxr.tuning.peft_methods import PEFT_METHODS
from sdcxr.tuning.selectors import SELECTORS
from sdcxr.tuning.svdiff import SVDiff
from sdcxr.tuning.textual_inversion import TextualInversion
from sdcxr.tuning.vision import VisionMethod, WithLastLayer
from sdcxr.tuning.vision_adapters import OF_CLASSIFIERS

_ALL: tuple[type[TuningMethod], ...] = (Full, *SELECTORS, SVDiff, DiffFit, *PEFT_METHODS, *LYCORIS_METHODS)
METHODS: dict[str, type[TuningMethod]] = {each.name: each for each in _ALL}

OF_IMAGES = {"classifier", "segmenter"}  # parts that read images: networks of timm or transformers
PRETRAINED_CLASSIFIER = {"learning_rate": 1e-4, "max_train_steps": 1000, "lr_warmup_steps": 50, "ema_decay": 0.995}


def register(method: type[TuningMethod]) -> type[TuningMethod]:
    """Add a method to the registry; also usable as a decorator."""
    METHODS[method.name] = method
    return method


def methods_for(part: str) -> dict[str, type[TuningMethod]]:
    """The methods for a part by name."""
    return METHODS | OF_CLASSIFIERS if part in OF_IMAGES else METHODS


def find_method(name: str, part: str = "") -> TuningMethod:
    """The method of that name for a part.

    Raises:
        UserError: there is none; names the nearest.
    """
    known = methods_for(part)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or sorted(known)
        raise UserError(f"--method {name}: unknown (near: {', '.join(near)})")
    method = known[name]()
    if part == "segmenter":
        return WithDecoder(method)
    whole = part != "classifier" or isinstance(method, VisionMethod | Full)
    return method if whole else WithLastLayer(method)


def choose_methods(config: TrainConfig) -> dict[str, TuningMethod]:
    """The method of each part that trains: `--method` is one name for all, or `unet=lora,text=bias`.

    Raises:
        UserError: an unknown method or part, a part without a method, or a setting that no chosen method reads.
    """
    if config.parts == {"token"}:
        return {"text": TextualInversion()}
    named = [item.strip().partition("=") for item in config.method.split(",")]
    if [part for part, equals, _ in named if equals]:
        given = {part.strip(): name.strip() for part, _, name in named}
        if given.keys() != config.parts or len(given) < len(named) or "" in given.values():
            example = ",".join(f"{part}=bias" for part in sorted(config.parts, reverse=True))
            raise UserError(
                f"--method {config.method}: name one method for each part of --tune {config.tune}, as {example}, or "
                "one for all"
            )
    else:
        given = dict.fromkeys(config.parts, config.method)
    methods = {part: find_method(given[part], part) for part in sorted(given)}
    _refuse_options_of_others(config, set(given.values()))
    return methods


def method_of(config: TrainConfig, part: str) -> TuningMethod:
    """The method of a part of a base: several text encoders (text, text_2) are all tuned as `text` is."""
    return choose_methods(config)[part.partition("_")[0]]


def _refuse_options_of_others(config: TrainConfig, chosen: set[str]) -> None:
    readers: dict[str, list[str]] = {}
    for name, method in (METHODS | OF_CLASSIFIERS).items():
        for option in method.options:
            readers.setdefault(option, []).append(name)
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for option, names in readers.items():
        if chosen.isdisjoint(names) and getattr(config, option) != defaults[option]:
            raise UserError(f"--{option} is for --method {', '.join(sorted(names))}, not for {config.method}")


def default_rates(config: TrainConfig, defaults: dict[str, Any]) -> dict[str, Any]:
    """Default settings with the learning rates of the chosen methods: `defaults` has that of full fine-tuning.

    Unchanged where the user gives a learning rate.
    """
    if config.parts <= OF_IMAGES and config.base is not None and not config.random_weights:
        defaults = defaults | PRETRAINED_CLASSIFIER
        if config.learning_rate is None:
            factor = next(iter(choose_methods(config).values())).learning_rate_factor
            defaults |= {"learning_rate": PRETRAINED_CLASSIFIER["learning_rate"] * factor}
        return defaults
    if config.learning_rate is not None or not config.parts <= {"unet", "text"}:
        return defaults
    factors = {part: method.learning_rate_factor for part, method in choose_methods(config).items()}
    rates = {part: defaults["learning_rate"] * factor for part, factor in factors.items()}
    first = rates.get("unet", rates.get("text"))
    apart = {"text_encoder_lr": rates["text"]} if rates.get("text", first) != first else {}
    return defaults | {"learning_rate": first} | apart


def fitting_methods(module: nn.Module) -> list[str]:
    """Names of the methods that serve some module within a part."""
    return sorted(name for name, method in METHODS.items() if any(modules_of(module, method.serves)))


def tune(backbone: Any, config: TrainConfig) -> dict[str, TuningMethod]:
    """Let exactly what `--tune` names train, and modules without trained weights; return the methods by tuned part.

    Args:
        backbone: a `Backbone`, after `adapt`.
        config: the settings, of a task on a text-to-image base.

    Raises:
        UserError: the base has no such part, or none of that name that can be tuned, or nothing in it that the method
            serves, with those that do.
    """
    chosen = choose_methods(config).keys()
    if missing := chosen - backbone.parts.keys():
        raise UserError(f"--tune {config.tune}: this base has no part {', '.join(sorted(missing))} to tune")
    if "text" in chosen and not backbone.tunable_text:
        encoder = type(backbone.parts["text"]).__name__
        raise UserError(f"--tune {config.tune}: the {encoder} of this base is not tuned, only CLIP is: use --tune unet")
    tuned = sorted((chosen - {"text"}) | set(backbone.tunable_text if "text" in chosen else ()))
    methods = {name: method_of(config, name) for name in tuned}
    if config.random_unet and methods["unet"].name != "full":
        raise UserError(f"--random_unet: --method {config.method} would leave its random weights as they are: use full")
    for name, part in backbone.parts.items():
        part.requires_grad_(False).eval()
        if name in methods:
            # What has no trained weights trains whole: a method would find only a part of it to train.
            new = [
                inner for inner, module in part.named_modules() if id(module) in map(id, backbone.untrained.values())
            ]
            try:
                with out_of_sight(part, new):
                    apply_method(methods[name], part.train(), config)
            except NothingToTune as error:
                raise UserError(f"{error}: this part takes {', '.join(fitting_methods(part))}") from None
    for module in backbone.untrained.values():
        module.requires_grad_(True)
    return methods
