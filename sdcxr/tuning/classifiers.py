"""`--method` on the network of a classifier, or on the encoder of a segmenter."""

import dataclasses

from torch import nn

from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError
from sdcxr.tuning.base import NothingToTune, TuningMethod, apply_method, modules_of
from sdcxr.tuning.decoder import WithDecoder, encoder_of
from sdcxr.tuning.registry import choose_methods, find_method, methods_for
from sdcxr.tuning.targets import ATTENTION, target_layers
from sdcxr.tuning.vision import Linear, VisionMethod, WithLastLayer, kind_of

RANK = 16  # of LoRA where none is given, as in Dutt et al. (arXiv 2305.08252)
KINDS = {"cnn": "convolutional", "vit": "a vision transformer"}


def tune_classifier(network: nn.Module, config: TrainConfig) -> TuningMethod:
    """See `tune_network`."""
    return tune_network(network, config, "classifier")


def tune_network(network: nn.Module, config: TrainConfig, part: str) -> TuningMethod:
    """Let what `--method` chooses and the last layer, or the decoder, train, and return the method.

    Batch normalisations whose weights do not train are put in evaluation mode: in training mode their running
    statistics would move, whatever is frozen.

    Raises:
        UserError: there is no such method, or it does not fit the network; lists those that do.
    """
    config, method = with_rank(config), choose_methods(config)[part]
    try:
        if not fits(method, network):
            raise NothingToTune(method.name)
        apply_method(method, network, config)
    except NothingToTune:
        fitting = [name for name in sorted(methods_for(part)) if fits_unasked(name, network, part)]
        raise UserError(
            f"--method {method.name}: does not fit {type(network).__name__}, which is {KINDS[kind_of(network)]}: use "
            f"{', '.join(fitting)}"
        ) from None
    for each in network.modules():
        if isinstance(each, nn.modules.batchnorm._BatchNorm) and method.name != "full":
            each.train(each.training and each.weight is not None and each.weight.requires_grad)
    return method


def require_effect(network: nn.Module, method: TuningMethod, idle: list[str]) -> None:
    """Refuse what a method trains without an effect on the output; `full` leaves it frozen.

    Args:
        network: with what trains.
        method: that tuned it.
        idle: names of the parameters that train and do not reach the loss, such as the mask token of DINOv2. Several
            processes would wait for their gradients.

    Raises:
        UserError: names the parameter.
    """
    if method.name == "full":
        for name in idle:
            network.get_parameter(name).requires_grad_(False)
    elif idle:
        targets = " or other --lora_targets" if "lora_targets" in method.options else ""
        raise UserError(
            f"--method {method.name}: {idle[0]} has no effect in this {type(network).__name__}, which never calls this "
            f"layer, or reads its weights past it: use another method{targets}"
        )


def with_rank(config: TrainConfig) -> TrainConfig:
    """The settings with the rank of LoRA that networks for images have by default."""
    reads_rank = any("lora_rank" in method.options for method in choose_methods(config).values())
    return dataclasses.replace(config, lora_rank=RANK) if reads_rank and config.lora_rank is None else config


def fits(method: TuningMethod, network: nn.Module) -> bool:
    """Whether a method can tune a network."""
    if isinstance(method, WithDecoder):
        return isinstance(method.inner, Linear) or fits(method.inner, encoder_of(network))
    if isinstance(method, VisionMethod):
        return kind_of(network) in method.kinds and bool(method.sites(network))
    return any(modules_of(network, method.serves))


def fits_unasked(name: str, network: nn.Module, part: str) -> bool:
    """Whether a method can tune a network without `--lora_targets`."""
    method = find_method(name, part)
    inner = method.inner if isinstance(method, WithLastLayer | WithDecoder) else method
    if not fits(method, network) or "lora_targets" not in inner.options:
        return fits(method, network)
    tuned = encoder_of(network) if isinstance(method, WithDecoder) else network
    try:
        return bool(target_layers(tuned, TrainConfig(), inner, getattr(inner, "table", ATTENTION)))
    except UserError:
        return False
