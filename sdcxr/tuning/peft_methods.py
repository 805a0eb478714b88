"""Tuning methods from the library peft: LoRA and its relatives, IA3, Householder adaptation.

Layers of peft are put in place of those of the part, which stays a plain module of diffusers or transformers.
`peft.get_peft_model_state_dict` is not used: for a text encoder it may ask the hub for the base's configuration.
"""

import copy
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError
from sdcxr.tuning.base import TuningMethod
from sdcxr.tuning.targets import ATTENTION, target_layers

ADAPTER = "default"  # peft's name for the only adapter of a part


class PeftMethod(TuningMethod):
    """One kind of adapter of peft. Subclasses say which in `settings`."""

    serves: ClassVar[tuple[str, ...]] = ("Linear", "Conv1d", "Conv2d")
    options: ClassVar[tuple[str, ...]] = ("lora_rank", "lora_alpha", "lora_targets")
    grouped: ClassVar[bool] = False
    rank: ClassVar[int] = 4
    """Default of `--lora_rank`."""
    table: ClassVar[tuple[tuple[str, ...], ...]] = ATTENTION

    def settings(self, config: TrainConfig, rank: int, alpha: float, targets: list[str]) -> Any:
        """The configuration of peft."""
        raise NotImplementedError

    def inject(self, module: nn.Module, config: TrainConfig) -> list[str]:
        from peft import inject_adapter_in_model

        if hasattr(module, "peft_config"):  # peft would put a second adapter beside the first, and train that
            raise RuntimeError(f"this {type(module).__name__} has an adapter already")
        targets = target_layers(module, config, self, self.table)
        rank = config.lora_rank or self.rank
        with torch.random.fork_rng(devices=[]):  # the same beginning in every process and on every resume
            torch.manual_seed(config.seed)
            inject_adapter_in_model(self.settings(config, rank, config.lora_alpha or rank, targets), module)
        adapted = [name for name, _ in tuner_layers(module)]
        if sorted(adapted) != targets:
            raise RuntimeError(f"peft adapted other layers than asked for: {sorted({*adapted} ^ {*targets})[:3]}")
        return list(adapter_parameters(module))

    def state(self, module: nn.Module) -> dict[str, Tensor]:
        """As peft names them in its files: without the name of the adapter."""
        return {file_key(name): parameter for name, parameter in adapter_parameters(module).items()}

    def merge(self, module: nn.Module) -> nn.Module:
        merged: Any = copy.deepcopy(module)
        for name, layer in list(tuner_layers(merged)):
            layer.merge()
            merged.set_submodule(name, layer.get_base_layer())
        del merged.peft_config
        return merged


def tuner_layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and layer of all adapters of peft in a module."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return ((name, layer) for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer))


def adapter_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters of all adapters of peft in a module, by their names in it."""
    found: dict[str, nn.Parameter] = {}
    for prefix, layer in tuner_layers(module):
        for kind in layer.adapter_layer_names:
            held = getattr(layer, kind, None)
            if isinstance(held, nn.Module):
                found |= dict(held.named_parameters(prefix=f"{prefix}.{kind}"))
    return found


def file_key(name: str) -> str:
    """The name of an adapter's parameter in a file."""
    return name.replace(f".{ADAPTER}", "").replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


class Lora(PeftMethod):
    """Low-rank adaptation (Hu et al. 2022, arXiv 2106.09685)."""

    name: ClassVar[str] = "lora"
    serves: ClassVar[tuple[str, ...]] = ("Linear", "Conv1d", "Conv2d", "Conv3d")
    options: ClassVar[tuple[str, ...]] = (*PeftMethod.options, "lora_dropout", "lora_format")
    use_dora: ClassVar[bool] = False
    kohya: ClassVar[tuple[str, ...]] = ("UNet2DConditionModel", "CLIPTextModel")
    """Classes for whose layers `--lora_format kohya` has names."""

    def settings(self, config: TrainConfig, rank: int, alpha: float, targets: list[str]) -> Any:
        from peft import LoraConfig

        return LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=config.lora_dropout, target_modules=targets, use_dora=self.use_dora
        )

    def inject(self, module: nn.Module, config: TrainConfig) -> list[str]:
        named = "lora_format" in self.options and type(module).__name__ in self.kohya
        if config.lora_format == "kohya" and not named:
            raise UserError(
                f"--lora_format kohya: there are no such names for {self.name} of a {type(module).__name__}, only for "
                f"lora of {' and '.join(self.kohya)}"
            )
        return super().inject(module, config)


class Dora(Lora):
    """LoRA of the direction of a weight, and a gain for its length (Liu et al. 2024, arXiv 2402.09353)."""

    name: ClassVar[str] = "dora"
    options: ClassVar[tuple[str, ...]] = (*PeftMethod.options, "lora_dropout")
    additive: ClassVar[bool] = False
    use_dora: ClassVar[bool] = True


class ProductMethod(PeftMethod):
    """Adapters whose layers peft leaves out of a step by a draw, if it is not above their dropout: also at 0."""

    grouped: ClassVar[bool] = True

    def inject(self, module: nn.Module, config: TrainConfig) -> list[str]:
        names = super().inject(module, config)
        for _, layer in tuner_layers(module):
            layer.module_dropout[ADAPTER] = -1.0  # every draw is above; several processes need all layers in all steps
        return names


class Loha(ProductMethod):
    """Hadamard product of two low-rank matrices (Hyeon-Woo et al. 2022, arXiv 2108.06098)."""

    name: ClassVar[str] = "loha"

    def settings(self, config: TrainConfig, rank: int, alpha: float, targets: list[str]) -> Any:
        from peft import LoHaConfig

        return LoHaConfig(r=rank, alpha=alpha, target_modules=targets)


class Lokr(ProductMethod):
    """Kronecker product (Yeh et al. 2024, arXiv 2309.14859)."""

    name: ClassVar[str] = "lokr"

    def settings(self, config: TrainConfig, rank: int, alpha: float, targets: list[str]) -> Any:
        from peft import LoKrConfig

        return LoKrConfig(r=rank, alpha=alpha, target_modules=targets)


class Ia3(PeftMethod):
    """Gains of keys, values and of what the feed-forward layers hold (Liu et al. 2022, arXiv 2205.05638)."""

    name: ClassVar[str] = "ia3"
    serves: ClassVar[tuple[str, ...]] = ("Linear", "Conv2d", "Conv3d")
    options: ClassVar[tuple[str, ...]] = ("lora_targets",)
    learning_rate_factor: ClassVar[float] = 100.0
    additive: ClassVar[bool] = False
    table: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("to_k", "to_v", "add_k_proj", "add_v_proj", r"ff\.net\.2", r"ff_context\.net\.2"),
        ("to_k", "to_v", r"ff\.net\.2"),
        ("to_k", "to_v", r"ff\.conv_point"),  # a feed-forward layer of convolutions (Sana)
        ("k_proj", "v_proj", "fc2"),
        ("key", "value", r"layer\.\d+\.output\.dense"),
        ("k", "v", "wo"),
        ("qkv", r"mlp\.fc2"),
    )
    feedforward: ClassVar[str] = r"(.*\.)?(ff(_context)?\.net\.2|ff\.conv_point|fc2|layer\.\d+\.output\.dense|wo)"
    """Layers whose input is scaled, and not their output."""

    def settings(self, config: TrainConfig, rank: int, alpha: float, targets: list[str]) -> Any:
        import re

        from peft import IA3Config

        feedforward = [name for name in targets if re.fullmatch(self.feedforward, name)]
        return IA3Config(target_modules=targets, feedforward_modules=feedforward)


class Hra(PeftMethod):
    """Householder reflections of the input (Yuan et al. 2024, arXiv 2405.17484)."""

    name: ClassVar[str] = "hra"
    serves: ClassVar[tuple[str, ...]] = ("Linear", "Conv2d")
    options: ClassVar[tuple[str, ...]] = ("lora_rank", "lora_targets")
    additive: ClassVar[bool] = False
    rank: ClassVar[int] = 8

    def settings(self, config: TrainConfig, rank: int, alpha: float, targets: list[str]) -> Any:
        from peft import HRAConfig

        if rank % 2:  # reflections begin in pairs that cancel; peft only warns, and begins with another model
            raise UserError(f"--lora_rank {rank}: --method hra needs an even one, such as {rank + 1}")
        return HRAConfig(r=rank, target_modules=targets)


class Adalora(PeftMethod):
    """LoRA whose ranks move to the layers that need them (Zhang et al. 2023, arXiv 2303.10512).

    Every layer begins with 1.5 times `--lora_rank` directions. After a tenth of the run the least important ones of all
    layers are switched off, more and more; over the last three tenths `--lora_rank` per layer are left on average.
    peft's own allocator cannot resume; its penalty for directions that are not orthogonal is left out, as wherever
    peft's layers are put into a model of diffusers.
    """

    name: ClassVar[str] = "adalora"
    serves: ClassVar[tuple[str, ...]] = ("Linear", "Conv2d")
    options: ClassVar[tuple[str, ...]] = (*PeftMethod.options, "lora_dropout")
    by_run_length: ClassVar[bool] = True
    smoothing: ClassVar[float] = 0.85  # of importance and of its deviation, β₁ = β₂

    def settings(self, config: TrainConfig, rank: int, alpha: float, targets: list[str]) -> Any:
        from peft import AdaLoraConfig

        return AdaLoraConfig(
            init_r=math.ceil(1.5 * rank),
            target_r=rank,
            lora_alpha=alpha,
            lora_dropout=config.lora_dropout,
            target_modules=targets,
            total_step=1,  # of its own allocator, which is not used
        )

    def inject(self, module: nn.Module, config: TrainConfig) -> list[str]:
        names = super().inject(module, config)
        for held in self._held(module):  # beside what trains: so they are kept in checkpoints
            held.register_buffer("sensitivity", torch.zeros_like(held[ADAPTER]))
            held.register_buffer("uncertainty", torch.zeros_like(held[ADAPTER]))
        for _, layer in tuner_layers(module):
            layer.lora_E.register_buffer("kept", torch.ones_like(layer.lora_E[ADAPTER], dtype=torch.bool))
        return names

    @staticmethod
    def _held(module: nn.Module) -> list[Any]:
        layers = [layer for _, layer in tuner_layers(module)]
        return [held for layer in layers for held in (layer.lora_A, layer.lora_B, layer.lora_E)]

    @torch.no_grad()
    def after_step(self, module: nn.Module, step: int, config: TrainConfig) -> None:
        layers = [layer for _, layer in tuner_layers(module)]
        steps = config.max_train_steps or 0
        first, last, every = steps // 10, steps - 3 * steps // 10, max(1, steps // 100)
        if step < last:
            self._update_importance(module)
        if step > last:
            self._switch_off(module)
        elif step == last or (step > first and step % every == 0):
            start = sum(len(layer.lora_E[ADAPTER]) for layer in layers)
            budget = rank_budget(step, first, last, start, (config.lora_rank or self.rank) * len(layers))
            masks = most_important([self._importance(layer) for layer in layers], budget)
            for layer, mask in zip(layers, masks, strict=True):
                layer.lora_E[ADAPTER].mul_(mask[:, None])
                if step == last:
                    layer.lora_E.kept.copy_(mask[:, None])

    def _update_importance(self, module: nn.Module) -> None:
        held = self._held(module)
        parameters = [each[ADAPTER] for each in held]
        # Of a step that fp16 skipped the gradients are not finite.
        products = [(p * p.grad).abs().nan_to_num(0.0, 0.0, 0.0) for p in parameters]
        sensitivity, uncertainty = [each.sensitivity for each in held], [each.uncertainty for each in held]
        torch._foreach_lerp_(sensitivity, products, 1 - self.smoothing)
        deviations = torch._foreach_abs(torch._foreach_sub(products, sensitivity))
        torch._foreach_lerp_(uncertainty, deviations, 1 - self.smoothing)

    @staticmethod
    def _importance(layer: Any) -> Tensor:
        """Of each direction, shape (directions,): equation 8 of the paper."""
        a, b, e = (held.sensitivity * held.uncertainty for held in (layer.lora_A, layer.lora_B, layer.lora_E))
        importance: Tensor = e[:, 0] + a.mean(dim=1) + b.mean(dim=0)
        return importance

    @staticmethod
    @torch.no_grad()
    def _switch_off(module: nn.Module) -> None:
        for _, layer in tuner_layers(module):
            layer.lora_E[ADAPTER].mul_(layer.lora_E.kept)

    def state(self, module: nn.Module) -> dict[str, Tensor]:
        self._switch_off(module)  # an average of the weights still has a trace of what was switched off
        return super().state(module)

    def merge(self, module: nn.Module) -> nn.Module:
        self._switch_off(module)
        return super().merge(module)


def rank_budget(step: int, first: int, last: int, start: int, target: int) -> int:
    """Directions left after a step: `start` up to step `first`, then falling as a cube to `target` at step `last`."""
    if step <= first:
        return start
    if step >= last:
        return target
    return int((start - target) * (1 - (step - first) / (last - first)) ** 3 + target)


def most_important(importance: list[Tensor], budget: int) -> list[Tensor]:
    """Masks of the `budget` largest values over all tensors; of equal ones the first."""
    order = torch.cat(importance).argsort(descending=True, stable=True)
    mask = torch.zeros(len(order), dtype=torch.bool, device=order.device)
    mask[order[:budget]] = True
    return list(mask.split([len(each) for each in importance]))


PEFT_METHODS: tuple[type[PeftMethod], ...] = (Lora, Dora, Loha, Lokr, Adalora, Ia3, Hra)
