"""What the commands that compare real and synthetic images share: their flags, and how a run reads and publishes."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from eval.extractors import find_extractor
from eval.extractors.base import Extractor
from eval.inputs.folders import ImageFolder, read_sides
from eval.scores import Result, Rows, publish
from sdcxr.io.files import existing_folder
from sdcxr.runtime.errors import UserError


def weights_folder(weights_dir: str | None) -> Path | None:
    """The folder of `--weights_dir`, where it is given.

    Raises:
        UserError: it does not exist.
    """
    return existing_folder(weights_dir, "--weights_dir") if weights_dir else None


def check_at_least(least: int, config: Any, *flags: str) -> None:
    """Check numbers of the command line.

    Raises:
        UserError: a flag is below `least`.
    """
    for flag in flags:
        if getattr(config, flag) < least:
            raise UserError(f"--{flag} {getattr(config, flag)}: must be at least {least}")


@dataclass
class Comparison:
    """What to compare, and how."""

    real: str
    """Split of a dataset folder."""
    synthetic: str
    """Samples folder."""
    _: KW_ONLY
    output: str | None = None
    """JSON file of score rows. Default: the table is printed only."""
    weights_dir: str | None = None
    """Folder with the weights of named networks, and with models of the hub."""
    seed: int = 0
    """Seed of the bootstrap and of all random draws."""

    def find_extractor(self, name: str, flag: str = "--extractor") -> Extractor:
        """The extractor of a name or folder, with weights from `--weights_dir`.

        Raises:
            UserError: there is none, or its weights are absent.
        """
        return find_extractor(name, weights_folder(self.weights_dir), flag)

    def run(self, evaluate: Callable[[ImageFolder, ImageFolder], Result], table: Callable[[Rows], str]) -> int:
        """Read both folders, evaluate them, write the rows, print the table, and return the exit code 0.

        Raises:
            UserError: a folder cannot be used.
        """
        sides = read_sides(self.real, self.synthetic)
        weights_folder(self.weights_dir)  # refused even where no network needs it
        publish(evaluate(*sides), self.output, table)
        return 0


@dataclass
class FeatureComparison(Comparison):
    """What to compare, and with which features."""

    extractor: str
    """Name of a feature extractor, or a folder with one, such as a run of `train.py --tune clip`."""

    def run_with_extractor(self, evaluate: Callable[..., Result], table: Callable[[Rows], str]) -> int:
        """`run` of a function of both folders, the extractor and `seed`."""

        def measure(real: ImageFolder, synthetic: ImageFolder) -> Result:
            return evaluate(real, synthetic, self.find_extractor(self.extractor), seed=self.seed)

        return self.run(measure, table)
