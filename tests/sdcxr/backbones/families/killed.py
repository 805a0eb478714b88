"""Trainings that are killed in their fifth step, as `kill -9` does, and called again: `killed.py SETTINGS.json`."""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import torch

from sdcxr import backbones
from sdcxr.config import TrainConfig
from sdcxr.training import loop


def live(settings: dict[str, Any], dies: bool) -> int:
    """One call of the command in a process of its own; its exit code, negative where a signal ended it."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    step = loop.Run.step

    def dying(run: loop.Run, number: int, batches: Any) -> torch.Tensor:
        if dies and number == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(run, number, batches)

    loop.Run.step = dying
    loop.Run.flops_and_peak = lambda *_: (0.0, 0.0)  # for the log alone
    code = 1
    try:
        code = loop.train(TrainConfig(**settings))
    finally:
        os._exit(code)


for settings in json.loads(Path(sys.argv[1]).read_text()):
    backbones.load(settings["base"])  # imports what every life needs
    assert threading.active_count() == torch.get_num_threads() == 1, "a second thread would not survive a fork"
    assert [live(settings, dies) for dies in (True, False)] == [-signal.SIGKILL, 0], settings["base"]
