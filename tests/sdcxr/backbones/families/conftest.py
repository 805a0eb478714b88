"""Every tiny family, found by its file: `family` and, with its pipeline saved, `base`."""

import json
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


def change(file: Path, **values: object) -> None:
    """Change values of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


# Whole trainings: of two families, one of each process, in every run of the quick tests.
TRAININGS = {
    "test_a_run_resumes_to_the_bit_and_only_its_part_moves",
    "test_cached_batches_are_those_without_a_cache_by_sample",
    "test_gradient_checkpointing_changes_nothing",
    "test_trained_lora_is_merged_into_a_plain_pipeline",
}
IN_QUICK_TESTS = {"pixart", "sana"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    trainings = (item for item in items if isinstance(item, pytest.Function) and item.originalname in TRAININGS)
    for item in trainings:
        if item.callspec.params["name"] not in IN_QUICK_TESTS:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def family(name: str) -> Tiny:
    return tiny(name)


@pytest.fixture(scope="session")
def base(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(name, tmp_path_factory.mktemp("family") / name)
