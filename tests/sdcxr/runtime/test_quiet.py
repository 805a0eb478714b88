"""Libraries are silent inside the block, and as they were before after it."""

import subprocess
import sys

import pytest
from diffusers.utils import logging as diffusers_logging
from huggingface_hub.utils import are_progress_bars_disabled
from transformers.utils import logging as transformers_logging

from sdcxr.runtime.quiet import quiet_libraries

LOGGERS = [transformers_logging, diffusers_logging]


@pytest.fixture(params=LOGGERS, ids=["transformers", "diffusers"])
def logger(request):
    """A library's logging module, in its state before the test again afterwards."""
    module = request.param
    verbosity, bars = module.get_verbosity(), module.is_progress_bar_enabled()
    yield module
    module.set_verbosity(verbosity)
    (module.enable_progress_bar if bars else module.disable_progress_bar)()


@pytest.mark.parametrize("bars", [True, False])
def test_former_state_is_restored_also_after_an_error(logger, bars):
    logger.set_verbosity_info()
    (logger.enable_progress_bar if bars else logger.disable_progress_bar)()
    with pytest.raises(KeyError), quiet_libraries():
        assert logger.get_verbosity() == logger.ERROR
        assert not logger.is_progress_bar_enabled()
        raise KeyError
    assert logger.get_verbosity() == logger.INFO
    assert logger.is_progress_bar_enabled() == bars


def test_downloads_from_the_hub_show_no_bars():
    transformers_logging.enable_progress_bar()
    with quiet_libraries():
        assert are_progress_bars_disabled()
    assert not are_progress_bars_disabled()


def test_no_library_is_imported():
    code = "import sys; from sdcxr.runtime.quiet import *\nwith quiet_libraries(): print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"transformers", "diffusers", "torch"} & set(modules)
