"""Commands and trainings in two processes that work together."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
IN_TURN = ROOT / "tests" / "sdcxr" / "training" / "train_in_turn.py"


def in_two_processes(*command: object, folder: Path, **environment: str) -> str:
    """What a script, or `-m` and a module, prints. torchrun, because `accelerate launch --cpu` starts a single one."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": path} | environment
    texts = [*torchrun, *map(str, command)]
    done = subprocess.run(texts, capture_output=True, text=True, timeout=280, cwd=folder, env=own, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def train_in_two_processes(settings: list[dict[str, Any]], folder: Path) -> None:
    """Run after run in one launch, which takes longer than a run of a few steps."""
    (folder / "settings.json").write_text(json.dumps(settings))
    in_two_processes(IN_TURN, "settings.json", folder=folder)
