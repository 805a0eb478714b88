"""Kill a training run again and again, and let it go on each time: `die_and_resume.py random|everywhere SETTINGS.json`.

Every life of the run is a fork of this process, which has imported what a run needs and has no second thread. So a life
begins in milliseconds. A report, one object a life, goes to the file REPORT beside the settings.

random: one kill in each of the `MOMENTS`, at a time drawn by the seed, from outside, as `kill -9` does.
everywhere: the run kills itself before each kind of file operation once: "rename of a checkpoint", for example.
"""

import json
import os
import random
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from sdcxr import backbones
from sdcxr.config import TrainConfig
from sdcxr.training import checkpoint, loop

REPORT = "lives.json"
OUTPUT = "lives.txt"
ROW, CHECKPOINT, RESULT = "open run/log.jsonl", "mkdir run/checkpoints/.checkpoint-N.N.tmp", "mkdir run/.pipeline.N.tmp"

# What is waited for, how many times (least, most), and the most seconds to wait then.
MOMENTS: dict[str, tuple[str, int, int, float]] = {
    "start": (ROW, 0, 0, 0.5),
    "training": (ROW, 3, 8, 0.1),
    "checkpoint": (CHECKPOINT, 1, 2, 0.01),
    "result": (RESULT, 1, 1, 0.02),
}
KILLS = {"start": 4, "training": 10, "checkpoint": 5}  # in any order, and then one "result"
WRITING = os.O_WRONLY | os.O_RDWR


def file_operation(event: str, args: tuple[Any, ...], root: Path) -> str | None:
    """A name for what an audit event is about to change below `root`, with N for numbers; None for all else."""
    if event not in {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}:
        return None
    if event == "open" and not (isinstance(args[2], int) and args[2] & WRITING):
        return None
    if not isinstance(args[0], str | Path):
        return None
    path = Path(args[0])
    if event in {"os.remove", "os.rmdir"} and args[1] >= 0:  # shutil.rmtree names files relative to an open folder
        path = Path(f"/proc/self/fd/{args[1]}").readlink() / path
    if not path.is_relative_to(root):
        return None
    name = re.sub(r"\d+", "N", str(path.relative_to(root)))
    name = re.sub(r"(\.pipeline\.N\.tmp)/.*", r"\1/…", name)  # one file of it stands for all
    return f"{event.removeprefix('os.')} {name}"


def born(settings: dict[str, Any], root: Path, meet: Callable[[str], None]) -> int:
    """Start a life that tells `meet` of each file operation before it happens; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        output = os.open(root / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)

        def watch(event: str, args: tuple[Any, ...]) -> None:
            if name := file_operation(event, args, root):
                meet(name)

        real = checkpoint.save_file

        def save_file(tensors: Any, path: Path) -> None:  # writes without an audit event
            meet(f"write {path.name}")
            real(tensors, path)

        checkpoint.save_file = save_file
        sys.addaudithook(watch)
        code = loop.train(TrainConfig(**settings))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def met(reader: int) -> Iterator[str]:
    """What a life meets, as it happens, until it has ended."""
    with os.fdopen(reader) as lines:
        for line in lines:
            yield line.rstrip("\n")


def ended(pid: int) -> int:
    """The exit code of a life; negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def life(settings: dict[str, Any], root: Path, known: set[str] | None = None) -> tuple[int, Iterator[str]]:
    """Start a life; its process id and what it meets. With `known` it dies at the first thing that is not in there."""
    reader, writer = os.pipe()

    def meet(name: str) -> None:
        os.write(writer, f"{name}\n".encode())
        if known is not None and name not in known:
            os.kill(os.getpid(), signal.SIGKILL)

    pid = born(settings, root, meet)
    os.close(writer)
    return pid, met(reader)


def kill_at_random(settings: dict[str, Any], root: Path, seed: int) -> Iterator[dict[str, Any]]:
    draws = random.Random(seed)
    moments = [name for name, n in KILLS.items() for _ in range(n)]
    draws.shuffle(moments)
    for moment in [*moments, "result"]:
        what, least, most, delay = MOMENTS[moment]
        times = draws.randint(least, most)
        delay = draws.uniform(0, delay)
        pid, meetings = life(settings, root)
        seen = []
        while seen.count(what) < times and (name := next(meetings, None)):
            seen.append(name)
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        code = ended(pid)
        seen += meetings
        torn = len(list(root.glob("run/checkpoints/.checkpoint-*.tmp")))
        yield {"moment": moment, "code": code, "rows": seen.count(ROW), "step": last_step(root), "torn": torn}
    pid, meetings = life(settings, root)
    list(meetings)
    yield {"moment": "end", "code": ended(pid)}


def last_step(root: Path) -> int:
    log = root / "run" / "log.jsonl"
    return len(log.read_text().splitlines()) if log.is_file() else 0


def kill_everywhere(settings: dict[str, Any], root: Path) -> Iterator[dict[str, Any]]:
    known: set[str] = set()
    while True:
        pid, meetings = life(settings, root, known)
        seen = list(meetings)
        code = ended(pid)
        yield {"moment": seen[-1] if code else "end", "code": code}
        if code != -signal.SIGKILL:
            return
        known.add(seen[-1])


if __name__ == "__main__":
    mode, file = sys.argv[1], Path(sys.argv[2])
    plan = json.loads(file.read_text())
    backbones.load(plan["base"])  # imports the rest
    loop.training_flops = lambda *_: 0  # for the log alone, and most of the time that a life takes to begin
    assert threading.active_count() == torch.get_num_threads() == 1, "a second thread would not survive a fork"
    lives = kill_at_random(plan, file.parent, seed=0) if mode == "random" else kill_everywhere(plan, file.parent)
    (file.parent / REPORT).write_text(json.dumps(list(lives), indent=0))
