"""A feature extractor of one's own, registered from outside: copy this file to begin one."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval import extractors, fid
from eval.extractors.base import Extractor, Request
from eval.scores import read_scores
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError
from tests.eval.pictures import radiograph


class Histograms:
    """A family: any object, or a module, with NAMES, `matches` and `build`.

    This one has the extractors `histogram-8`, `histogram-16`, …; their features are a grey-level histogram.
    """

    def __init__(self) -> None:
        # For python -m eval.features --list, and for the nearest names in the message about an unknown one.
        self.NAMES = {"histogram-…": "grey-level histogram with N bins; no weights"}

    def matches(self, name: str) -> bool:
        """Asked for every name that the user gives, without its @variant. Must be cheap."""
        return name.startswith("histogram-")

    def build(self, request: Request) -> Extractor:
        """Everything but the network; wrong names and absent weights are a UserError of one line."""
        bins = request.name.removeprefix("histogram-")
        if not bins.isdigit():
            raise UserError(f"--extractor {request.name}: give the number of bins, such as histogram-16")
        variant = request.choose(("all", "centre"))  # the first is the default
        return Extractor(
            name=f"{request.name}@{variant}",
            preprocessing="central 48 px → 0…255" if variant == "centre" else "0…255",
            prepare=partial(prepare, centre=variant == "centre"),
            load=partial(load, int(bins)),
            dimension=int(bins),
            weights=(),  # paths of the files: their checksums are part of the cache key
        )


def prepare(image: Image.Image, centre: bool) -> np.ndarray:
    """A grey image to one input, in worker processes: a function of a module can be sent there, a lambda cannot."""
    if centre:
        image = image.crop((8, 8, 56, 56))
    return np.asarray(image, dtype=np.float32)[None]


def load(bins: int, device: Any) -> Any:
    """The network on a torch device; import torch here, not at the top of the module."""
    import torch

    def features(batch: Any) -> Any:  # (n, 1, height, width) to (n, bins)
        return torch.stack([torch.histc(image, bins, 0, 256) / image.numel() for image in batch])

    return features


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    """In a script of one's own, `eval.extractors.register(Histograms())` before `run(fid.main)` is all."""
    monkeypatch.setattr(extractors, "FAMILIES", list(extractors.FAMILIES))
    extractors.register(Histograms())


@pytest.fixture
def sides(tmp_path: Path) -> list[str]:
    words = []
    for flag, first in (("real", 0), ("synthetic", 100)):
        (tmp_path / flag).mkdir()
        for i in range(20):
            radiograph(64, 64, seed=first + i).save(tmp_path / flag / f"{i:02}.png")
        words += [f"--{flag}", str(tmp_path / flag)]
    return words


def test_a_command_takes_it_by_its_name(sides, tmp_path):
    output = tmp_path / "scores.json"
    with pytest.raises(SystemExit) as exit:
        run(fid.main, [*sides, "--extractor", "histogram-8@centre", "--interval_draws", "0", "--output", str(output)])
    assert exit.value.code == 0
    rows = {row["metric"]: row for row in read_scores(output)}
    assert rows["fd"]["extractor"] == "histogram-8@centre" and rows["fd"]["dimension"] == 8
    assert np.isfinite(rows["kid"]["value"])


def test_it_is_listed_and_mistakes_are_one_line(sides, tmp_path, capsys):
    assert "histogram-…" in extractors.names()
    for name, message in (
        ("histogram-x", "number of bins"),
        ("histogram-8@left", "no such variant"),
        ("histo", "mean"),
    ):
        with pytest.raises(SystemExit) as exit:
            run(fid.main, [*sides, "--extractor", name, "--output", str(tmp_path / "o.json")])
        assert exit.value.code == 2 and message in capsys.readouterr().err


def test_it_is_asked_before_the_others():
    class Mine(Histograms):
        def matches(self, name: str) -> bool:
            return name == "pixels-32"

        def build(self, request: Request) -> Extractor:
            return super().build(Request("histogram-4", None, None))

    extractors.register(Mine())
    assert extractors.find_extractor("pixels-32").dimension == 4
