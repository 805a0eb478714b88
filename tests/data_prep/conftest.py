"""A small tree of MIMIC-CXR-JPG for the tests of its preparation."""

import pytest

from tests.data_prep.mimic_tree import CHARS_7, Group, Tree, build, report_of


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Tree:
    """Thirty training studies and ten test ones, all good."""
    groups = [Group(30, "train", report_of(CHARS_7), no_finding="1.0"), Group(10, "test", folder=19, labelled=False)]
    return build(tmp_path_factory.mktemp("small"), groups)
