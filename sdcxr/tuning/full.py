"""Full fine-tuning: all parameters of the part train."""

from typing import ClassVar

from torch import Tensor, nn

from sdcxr.config import TrainConfig
from sdcxr.tuning.base import TuningMethod


class Full(TuningMethod):
    """All parameters; the merged weights are all there is."""

    name: ClassVar[str] = "full"
    serves: ClassVar[tuple[str, ...]] = ("Module",)
    learning_rate_factor: ClassVar[float] = 1.0

    def inject(self, module: nn.Module, config: TrainConfig) -> list[str]:
        # The states of BERT's tokens do not pass its pooler.
        return [name for name, _ in module.named_parameters() if not name.startswith("pooler.")]

    def state(self, module: nn.Module) -> dict[str, Tensor]:
        return {}

    def merge(self, module: nn.Module) -> nn.Module:
        return module
