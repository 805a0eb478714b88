"""What the commands of this room share: `--weights_dir`, and comparing two folders by the features of one extractor."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from eval.extractors import find_extractor
from eval.inputs.folders import read_sides
from eval.scores import Result, Rows, publish
from sdcxr.io.files import existing_folder


def weights_folder(weights_dir: str | None) -> Path | None:
    """The folder of `--weights_dir`, where it is given.

    Raises:
        UserError: it does not exist.
    """
    return existing_folder(weights_dir, "--weights_dir") if weights_dir else None


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
    """Folder with the weights of named extractors."""
    seed: int = 0
    """Seed of the bootstrap and of all random draws."""


def run_comparison(config: Comparison, evaluate: Callable[..., Result], table: Callable[[Rows], str]) -> int:
    """Read both folders, evaluate them, write the rows and print the table.

    Args:
        config: the command's flags.
        evaluate: (real, synthetic, extractor, seed=) to a result.
        table: the rows as text.

    Raises:
        UserError: a folder or the extractor cannot be used.
    """
    sides = read_sides(config.real, config.synthetic)
    extractor = find_extractor(config.extractor, weights_folder(config.weights_dir))
    publish(evaluate(*sides, extractor, seed=config.seed), config.output, table)
    return 0
