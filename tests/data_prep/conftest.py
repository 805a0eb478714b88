"""Raw data for several files of tests: a small tree of MIMIC-CXR-JPG, the images of a table."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data_prep.mimic_tree import CHARS_7, Group, Tree, build, report_of


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Tree:
    """Thirty training studies and ten test ones, all good."""
    groups = [Group(30, "train", report_of(CHARS_7), no_finding="1.0"), Group(10, "test", folder=19, labelled=False)]
    return build(tmp_path_factory.mktemp("small"), groups)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Those that `tests.data_prep.tables.ROWS` names."""
    folder = tmp_path_factory.mktemp("images")
    for n in range(6):
        pixels = np.random.default_rng(n).integers(0, 256, (24, 24), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"i{n}.png")
    return folder
