"""Silence the progress bars and log messages of transformers and diffusers."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

LIBRARIES = ("transformers", "diffusers")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Inside the block, transformers and diffusers log errors only and show no progress bars, downloads included.

    A library must be imported before the block to be silenced: importing diffusers here would take 4 seconds, also
    where only a tokenizer is loaded. On exit, verbosity and progress bars are as they were.
    """
    loggers = [import_module(f"{name}.utils.logging") for name in LIBRARIES if name in sys.modules]
    before = [(logger.get_verbosity(), logger.is_progress_bar_enabled()) for logger in loggers]
    for logger in loggers:
        logger.set_verbosity_error()
        logger.disable_progress_bar()
    try:
        yield
    finally:
        for logger, (verbosity, bars) in zip(loggers, before, strict=True):
            logger.set_verbosity(verbosity)
            if bars:
                logger.enable_progress_bar()
