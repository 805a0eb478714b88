"""What the tasks of one network have in common: a classifier and a segmenter, tuned by a method."""

import copy
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import nn

from sdcxr.backbones.image_classifier import Description, logits_of
from sdcxr.config import TrainConfig
from sdcxr.io.image_files import BadImage
from sdcxr.io.pixels import is_coloured, open_image
from sdcxr.tasks.base import validation_rows
from sdcxr.tuning.base import TuningMethod
from sdcxr.tuning.classifiers import require_effect

LOOKED_AT = 1000  # images whose colour is looked at
TOLERANCE = 1e-3  # of logits, of a saved network and the one that was trained
ALL = 1 << 62  # images


class NetworkTask(nn.Module):
    """Members of `base.Task`; what a subclass sets in `__init__` is annotated."""

    part: ClassVar[str]
    """Name of the network among what methods tune."""
    config: TrainConfig
    tuning: TrainConfig
    """The settings with the rank that is used."""
    network: nn.Module
    method: TuningMethod

    def groups(self) -> list[dict[str, Any]]:
        return parameter_groups(self.part, self.network, self.method.name, self.config.learning_rate)

    def check_gradients(self, idle: list[str]) -> None:
        require_effect(self.network, self.method, [name.removeprefix("network.") for name in idle])

    def after_step(self, step: int) -> None:
        self.method.after_step(self.network, step, self.tuning)

    def validation_rows(self) -> pd.DataFrame | None:
        """Rows of the held-out images, all unless `--validation_loss_images` says how many."""
        limit = self.config.validation_loss_images
        return validation_rows(self.config, ALL if limit is None else limit)


@torch.no_grad()
def check_saved(folder: Path, saved: nn.Module, trained: nn.Module, about: Description, method: str) -> None:
    """Compare a saved network with the one that was trained.

    Raises:
        RuntimeError: they differ: something could not be folded into plain layers.
    """
    draws = torch.Generator().manual_seed(0)
    space = (about.resolution,) * (3 if about.of_volumes else 2)
    pixels = torch.rand(2, 3 if about.colour else 1, *space, generator=draws) * 2 - 1
    trained = copy.deepcopy(trained).cpu().eval()
    wanted, found = (logits_of(each, about.inputs(pixels)).float() for each in (trained, saved))
    if (found - wanted).abs().max() > TOLERANCE * (1 + wanted.abs().max()):
        raise RuntimeError(f"{folder} is not what was trained: --method {method} does not fold into it")


def parameter_groups(part: str, network: nn.Module, method: str, rate: float | None) -> list[dict[str, Any]]:
    """`Task.groups` of a network that a method tunes: vectors have no weight decay, but with full tuning."""
    trained = [p for p in network.parameters() if p.requires_grad]
    if method == "full":
        return [{"name": part, "params": trained, "lr": rate}]
    # Decay would pull scales to 0, which begin at 1.
    vectors = [p for p in trained if p.ndim < 2]
    groups = [
        {"name": part, "params": [p for p in trained if p.ndim >= 2], "lr": rate},
        {"name": "its vectors", "params": vectors, "lr": rate, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def has_colour(paths: list[Path]) -> bool:
    """Whether images are saved in colour; looks at `LOOKED_AT` of them at most."""
    for path in paths[:: -(-len(paths) // LOOKED_AT)]:
        try:
            with open_image(path) as image:
                if is_coloured(image):
                    return True
        except BadImage:
            continue  # is reported where it is read
    return False
