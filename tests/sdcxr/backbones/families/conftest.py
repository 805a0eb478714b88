"""Every tiny family, found by its file: `family` and, with its pipeline saved, `base`."""

from importlib import import_module
from pathlib import Path

import pytest

from tests.sdcxr.backbones.families.tiny import Tiny

NAMES = sorted(path.stem.removeprefix("tiny_") for path in Path(__file__).parent.glob("tiny_*.py"))


def tiny(name: str) -> Tiny:
    found: Tiny = import_module(f"tests.sdcxr.backbones.families.tiny_{name}").TINY
    return found


def save_base(name: str, folder: Path) -> Path:
    """The pipeline folder of a tiny family, as its authors would save it."""
    import torch
    from diffusers.utils import logging

    torch.set_num_threads(1)
    torch.manual_seed(7)
    logging.disable_progress_bar()
    tiny(name).build().save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def family(name: str) -> Tiny:
    return tiny(name)


@pytest.fixture(scope="session")
def base(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(name, tmp_path_factory.mktemp("family") / name)
