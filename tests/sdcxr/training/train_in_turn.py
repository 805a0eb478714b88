"""Train several runs one after the other, in as many processes as torchrun starts: `train_in_turn.py SETTINGS.json`.

The file holds a list of settings. One launch for all of them: it takes longer than a run of a few steps.
"""

import json
import sys
from pathlib import Path

from accelerate.state import AcceleratorState

from sdcxr.config import TrainConfig
from sdcxr.runtime.processes import close_gloo
from sdcxr.training.loop import train

for settings in json.loads(Path(sys.argv[1]).read_text()):
    if code := train(TrainConfig(**settings)):
        sys.exit(code)
    AcceleratorState._reset_state()
close_gloo()
