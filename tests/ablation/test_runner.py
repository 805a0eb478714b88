"""Running grids with a command that takes no time: once each, several at a time, after failures, kills and Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ablation.cells import plan_grid, task_folder, task_output
from ablation.dry_run import describe
from ablation.grid import parse_grid
from ablation.launcher import last_lines
from ablation.local import Local
from ablation.runner import DONE, FAILED, Progress, Runner, read_state
from sdcxr.runtime.errors import UserError

STAGES = {
    "prepare": {"command": "stub"},
    "train": {"command": "stub", "flags": {"data": "${prepare}"}},
    "evaluate": {"command": "stub", "flags": {"data": "${train}"}},
}


def plan_of(**content):
    return plan_grid(parse_grid({"stages": STAGES, **content}))


def run(root: Path, plan, slots=4, **options) -> tuple[int, list[str]]:
    lines: list[str] = []
    return Runner(root, plan, Local(slots), say=lines.append, **options).run(), lines


def calls(stub: Path) -> list[dict]:
    return [json.loads(line) for line in stub.read_text().splitlines()] if stub.is_file() else []


def test_each_task_runs_once_and_gets_the_folders_of_others(stub, tmp_path):
    plan = plan_of(axes={"train.value": [1, 2]})
    assert run(tmp_path / "out", plan)[0] == 0
    assert len(calls(stub)) == len(plan.tasks) == 5
    for call in calls(stub)[1:]:
        assert (Path(call["data"]) / "value.json").is_file()


def test_a_second_call_does_only_what_is_missing(stub, tmp_path):
    run(tmp_path / "out", plan_of(axes={"train.value": [1, 2]}))
    before = len(calls(stub))
    assert run(tmp_path / "out", plan_of(axes={"train.value": [1, 2]}))[0] == 0
    assert len(calls(stub)) == before
    run(tmp_path / "out", plan_of(axes={"train.value": [1, 2, 3]}))
    assert [call.get("value") for call in calls(stub)[before:]] == [3.0, None]


def test_a_failed_cell_is_shown_and_the_others_go_on(stub, tmp_path):
    plan = plan_of(axes={"x": {"good": {}, "bad": {"train.fail": True}}})
    code, lines = run(tmp_path / "out", plan)
    assert code == 1 and "cells: 1 done, 1 failed" in "\n".join(lines)
    assert "exit code 1" in lines[-1] and "error: it broke" in lines[-1] and "--retry_failed" in lines[-1]
    before = len(calls(stub))
    assert run(tmp_path / "out", plan)[0] == 1
    assert len(calls(stub)) == before
    Path(f"{stub}.mended").touch()
    assert run(tmp_path / "out", plan, retry_failed=True)[0] == 0
    assert len(calls(stub)) == before + 2


def test_an_output_that_is_gone_is_made_again(stub, tmp_path):
    plan = plan_of(axes={"train.value": [1]})
    run(tmp_path / "out", plan)
    task = list(plan.tasks.values())[-1]
    (task_output(tmp_path / "out", task) / "value.json").unlink()
    task_output(tmp_path / "out", task).rmdir()
    before = len(calls(stub))
    assert run(tmp_path / "out", plan)[0] == 0 and len(calls(stub)) == before + 1


def test_so_many_at_a_time(stub, tmp_path):
    plan = plan_of(axes={"train.value": [1, 2, 3, 4]}, flags={"train.sleep": 0.5})
    started = time.perf_counter()
    run(tmp_path / "a", plan, slots=4)
    assert time.perf_counter() - started < 4 * 0.5 + 5
    assert len(calls(stub)) == 9


def test_one_task_fills_a_cache_before_the_others_begin(stub, tmp_path):
    stages = {**STAGES, "train": {**STAGES["train"], "warm_up": {"file": "value.json", "same": "data"}}}
    plan = plan_grid(parse_grid({"stages": stages, "axes": {"train.value": [1, 2, 3]}}))
    root, lines = tmp_path / "out", []
    Runner(root, plan, Local(4), say=lines.append).run()
    events = [line.split(" after")[0] for line in lines if line.startswith("train")]
    assert events[:2] == ["train value=1: started", "train value=1: done"]
    assert sorted(events[2:4]) == ["train value=2: started", "train value=3: started"]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_is_forwarded_and_everything_resumes(stub, tmp_path, kind, code):
    plan = plan_of(axes={"train.value": [1, 2]}, flags={"train.sleep": 1.5})
    threading.Timer(1.2, lambda: os.kill(os.getpid(), kind)).start()
    got, lines = run(tmp_path / "out", plan)
    assert got == code and lines[-1] == "stopped: run the same command again to resume"
    states = [read_state(tmp_path / "out", task).get("state") for task in plan.tasks.values()]
    assert FAILED not in states and "running" not in states
    assert run(tmp_path / "out", plan)[0] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
def test_commands_end_with_a_killed_runner(stub, tmp_path):
    """The command gets SIGTERM, and the next runner waits for its lock."""
    script = tmp_path / "kill_me.py"
    script.write_text(
        "import os, signal, sys, time\nfrom pathlib import Path\n"
        "from ablation.launcher import Job\nfrom ablation.local import Local\n"
        "(folder := Path(sys.argv[1])).mkdir()\n(folder / 'f').write_text('output_dir: x\\nsleep: 60\\n')\n"
        "local = Local(1)\nlocal.start(Job('k', ['-m', 'stub_command', '--config', str(folder / 'f')], folder))\n"
        "while not Path(os.environ['STUB_LOG']).is_file(): time.sleep(0.05)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ["PYTHONPATH"]])
    subprocess.run(
        [sys.executable, str(script), str(tmp_path / "t")], env=os.environ | {"PYTHONPATH": path}, check=False
    )
    from ablation.launcher import Job

    job, deadline = Job("k", ["-c", "pass"], tmp_path / "t"), time.monotonic() + 10
    local = Local(1)
    while not local.start(job):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    local.kill()


def test_a_folder_in_use_is_waited_for(stub, tmp_path):
    plan = plan_of(axes={"train.value": [1]})
    first = next(iter(plan.tasks.values()))
    folder = task_folder(tmp_path / "out", first)
    folder.mkdir(parents=True)
    holder = subprocess.Popen(["flock", str(folder / ".lock"), "sleep", "1"])
    time.sleep(0.2)
    assert run(tmp_path / "out", plan)[0] == 0
    assert holder.wait() == 0


def test_dry_run_runs_nothing(stub, tmp_path):
    text = describe(tmp_path / "out", plan_of(axes={"train.value": [1, 2]}))
    assert text.startswith("2 cells, 5 commands, 0 of them done")
    assert f"--data {tmp_path}/out/prepare/" in text and "--value 2.0" in text
    assert not calls(stub) and not (tmp_path / "out").exists()


def test_images_are_estimated(tmp_path):
    stages = {
        "train": {"flags": {"data": "d", "max_train_steps": 100, "total_train_batch_size": 8}},
        "generate": {"flags": {"model": "${train}", "prompts": "p", "max_prompts": 10, "num_images_per_prompt": 2}},
    }
    text = describe(tmp_path, plan_grid(parse_grid({"stages": stages, "seeds": [0, 1, 2]})))
    assert "train: 2,400 images to train on" in text and "generate: 60 images to generate" in text


def test_time_left_is_that_of_the_means(stub):
    plan = plan_of(axes={"train.value": [1, 2]})
    progress = Progress(plan, slots=2)
    assert progress.left() is None
    keys = list(plan.tasks)
    progress.states = dict.fromkeys(keys[:3], DONE)
    progress.seconds = {"prepare": [5], "train": [10, 20], "evaluate": [4.0]}
    assert progress.left() == 15  # one evaluation and one training after each other at the least
    assert progress.line() == "cells: 1 done, 1 queued; commands: 3 of 5 done, about 15 s left"


def test_last_lines_are_without_progress_bars(tmp_path):
    (tmp_path / "log").write_text("a\nb\n\rcaching:  10%|█| 1/10\rcaching: 100%|█| 10/10\nerror: c\n")
    assert last_lines(tmp_path / "log", 2) == "b\nerror: c"
    assert last_lines(tmp_path / "none") == ""


def test_more_gpus_than_there_are():
    from ablation.command import local_launcher
    from ablation.config import AblateConfig

    with pytest.raises(UserError, match="--gpus_per_job 64"):
        local_launcher(AblateConfig("g", "o", gpus_per_job=64))


def test_each_job_has_gpus_of_its_own():
    local = Local(8, ["0", "1", "2", "3", "4"], gpus_per_job=2)
    assert local.slots == 2 and local.groups == [("0", "1"), ("2", "3")]
