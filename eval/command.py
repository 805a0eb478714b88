"""The command of a module that compares two folders by the features of one extractor."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eval.inputs.folders import read_sides
from eval.scores import publish
from sdcxr.io.files import existing_folder


@dataclass
class Comparison:
    """What to compare, and with which features."""

    real: str
    """Split of a dataset folder."""
    synthetic: str
    """Samples folder."""
    extractor: str
    """Name of a feature extractor, or a folder with one, such as a run of `train.py --tune clip`."""
    output: str | None = None
    """JSON file of score rows. Default: the table is printed only."""
    weights_dir: str | None = None
    """Where the weights of named extractors lie."""
    seed: int = 0
    """Of the bootstrap and of all draws."""


def compare(
    config: Comparison, evaluate: Callable[..., list[dict[str, Any]]], table: Callable[[list[dict[str, Any]]], str]
) -> int:
    """Read both folders, evaluate them, write the rows and print the table.

    Args:
        config: the command's flags.
        evaluate: (real, synthetic, extractor, weights_dir=, seed=) to score rows.
        table: the rows as text.

    Raises:
        UserError: a folder or the extractor is not what it should be.
    """
    sides = read_sides(config.real, config.synthetic)
    weights_dir = existing_folder(config.weights_dir, "--weights_dir") if config.weights_dir else None
    publish(evaluate(*sides, config.extractor, weights_dir=weights_dir, seed=config.seed), config.output, table)
    return 0
