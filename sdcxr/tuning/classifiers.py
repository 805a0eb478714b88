"""`--method` with `--tune classifier`: the methods for it, and their use on a network."""

import difflib

from torch import nn

from sdcxr.backbones.image_classifier import head_of, is_in
from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError
from sdcxr.tuning.base import TuningMethod, apply_method, modules_of
from sdcxr.tuning.registry import METHODS
from sdcxr.tuning.vision import BATCH_NORM, Attention, Bias, Linear, Norm, VisionMethod, kind_of
from sdcxr.tuning.vision_adapters import SSF, TSA, AdaptFormer, DeepPrompts, ShallowPrompts

# They come before methods of the same name for parts of a text-to-image model.
OF_CLASSIFIERS: dict[str, type[TuningMethod]] = {
    each.name: each for each in (Linear, Norm, Bias, Attention, SSF, TSA, AdaptFormer, ShallowPrompts, DeepPrompts)
}


def find_method(name: str) -> TuningMethod:
    """The method of that name for classifiers: one of its own, or one of those for all networks.

    Raises:
        UserError: there is none; names the nearest.
    """
    known = METHODS | OF_CLASSIFIERS
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or sorted(known)
        raise UserError(f"--method {name}: unknown (near: {', '.join(near)})")
    return known[name]()


def tune_classifier(network: nn.Module, config: TrainConfig) -> TuningMethod:
    """Let what `--method` chooses and the last layer train, and return the method.

    Batch normalisations whose weights do not train are put in evaluation mode: in training mode their running
    statistics would move, whatever is frozen.

    Raises:
        UserError: there is no such method, or it does not fit the network; lists those that do.
    """
    method = find_method(config.method)
    if not fits(method, network):
        fitting = [name for name, each in sorted((METHODS | OF_CLASSIFIERS).items()) if fits(each(), network)]
        kind = {"cnn": "convolutional", "vit": "a vision transformer"}[kind_of(network)]
        raise UserError(
            f"--method {method.name}: does not fit {type(network).__name__}, which is {kind}: use {', '.join(fitting)}"
        )
    apply_method(method, network, config)
    for name, parameter in network.named_parameters():
        if is_in(name, head_of(network)):
            parameter.requires_grad_(True)
    for each in network.modules():
        if isinstance(each, BATCH_NORM) and method.name != "full":
            each.train(each.training and each.weight is not None and each.weight.requires_grad)
    return method


def fits(method: TuningMethod, network: nn.Module) -> bool:
    """Whether a method can tune a network."""
    if isinstance(method, VisionMethod):
        return kind_of(network) in method.kinds and bool(method.sites(network))
    return any(modules_of(network, method.serves))
