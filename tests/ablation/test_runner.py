"""Running grids with a command that takes no time: once each, several at a time, after failures, kills and Ctrl-C."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ablation import runner
from ablation.cells import plan_grid, task_folder, task_output
from ablation.grid import parse_grid
from ablation.launcher import LOG, STARTED, last_lines
from ablation.local import Local
from ablation.progress import DONE, FAILED, Progress
from ablation.runner import STATE, Caches, Runner, read_state
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


@pytest.mark.slow
def test_an_axis_that_gets_a_second_value_leaves_what_is_done(stub, tmp_path):
    """The names of new folders have it, those of the old ones stay."""
    run(tmp_path / "out", plan_of(axes={"train.value": [1]}, seeds={"values": [0], "flags": ["train.seed"]}))
    before = len(calls(stub))
    plan = plan_of(axes={"train.value": [1, 2]}, seeds={"values": [0, 5], "flags": ["train.seed"]})
    assert run(tmp_path / "out", plan)[0] == 0
    assert len(calls(stub)) == before + 2 * 3
    names = sorted(path.name.rpartition("-")[0] for path in (tmp_path / "out" / "train").iterdir())
    assert names == ["", "value=1,seed=5", "value=2,seed=0", "value=2,seed=5"]


@pytest.mark.slow
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


@pytest.mark.parametrize(
    "content", ["{", "[]", "null", '{"state": "done"}', '{"state": "done", "key": "other", "seconds": 1}']
)
def test_a_damaged_state_is_no_state(stub, tmp_path, content):
    plan = plan_of(axes={"train.value": [1]})
    run(tmp_path / "out", plan)
    task = list(plan.tasks.values())[-1]
    (task_folder(tmp_path / "out", task) / STATE).write_text(content)
    assert read_state(tmp_path / "out", task) == {}
    before = len(calls(stub))
    assert run(tmp_path / "out", plan)[0] == 0 and len(calls(stub)) == before + 1


def test_an_empty_output_is_none(stub, tmp_path):
    plan = plan_of(axes={"train.value": [1]})
    run(tmp_path / "out", plan)
    task = list(plan.tasks.values())[-1]
    (task_output(tmp_path / "out", task) / "value.json").unlink()
    assert read_state(tmp_path / "out", task) == {}


def test_outputs_between_are_made_again_only_where_something_needs_them(stub, tmp_path):
    """Trained weights may be deleted when all is measured; a new cell that builds on them trains again."""
    root = tmp_path / "out"
    run(root, plan_of(axes={"evaluate.value": [1]}))
    shutil.rmtree(root / "train")
    before = len(calls(stub))
    code, lines = run(root, plan_of(axes={"evaluate.value": [1]}))
    assert code == 0 and len(calls(stub)) == before
    assert lines[1].startswith("the output of 1 commands is gone") and "cells: 1 done; commands: 3 of 3" in lines[-1]
    assert run(root, plan_of(axes={"evaluate.value": [1, 2]}))[0] == 0
    assert len(calls(stub)) == before + 2


@pytest.mark.parametrize(("kind", "again"), [("SIGKILL", True), ("SIGTERM", True), ("SIGSEGV", False)])
def test_a_command_that_was_killed_is_resumed_by_the_next_call(stub, tmp_path, kind, again):
    """One that crashed by itself waits for --retry_failed."""
    plan = plan_of(axes={"x": {"good": {}, "bad": {"train.word": kind}}})
    code, lines = run(tmp_path / "out", plan)
    assert code == 1 and f"killed by {kind}" in lines[-1] and ("--retry_failed" in lines[-1]) is not again
    Path(f"{stub}.mended").touch()
    assert run(tmp_path / "out", plan)[0] == (0 if again else 1)


@pytest.mark.slow
def test_of_many_failures_a_few_are_shown(stub, tmp_path):
    plan = plan_of(axes={"train.value": list(range(12))}, flags={"train.fail": True})
    code, lines = run(tmp_path / "out", plan, slots=12)
    assert code == 1 and sum("ends with" in line for line in lines) == 10
    assert lines[-1].startswith("2 more commands failed; their logs: ")


def test_a_log_has_each_attempt_and_the_failure_shows_the_last(stub, tmp_path):
    plan = plan_of(axes={"train.word": ["SIGKILL"]})
    run(tmp_path / "out", plan)
    _, lines = run(tmp_path / "out", plan)
    log = next((tmp_path / "out" / "train").iterdir()) / LOG
    assert log.read_text().count(STARTED) == 2 and STARTED not in lines[-1]
    assert "-m stub_command --data " in lines[-1]


def test_a_full_disk_stops_the_runner_and_lets_commands_save(stub, tmp_path, monkeypatch):
    plan = plan_of(axes={"train.value": [1, 2]}, flags={"train.sleep": 30})
    real = runner.write_json

    def full(path, value):
        if value["stage"] == "train" and read_state(tmp_path / "out", trains[0]):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, value)

    trains = [task for task in plan.tasks.values() if task.stage == "train"]
    monkeypatch.setattr(runner, "write_json", full)
    started = time.perf_counter()
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path / "out", plan)
    assert time.perf_counter() - started < 20
    assert read_state(tmp_path / "out", trains[0])["state"] == "running"


def test_ten_thousand_tasks_that_share_a_cache_are_looked_at_once(stub, tmp_path):
    stages = {**STAGES, "train": {**STAGES["train"], "warm_up": {"file": "value.json", "same": "data"}}}
    plan = plan_grid(parse_grid({"stages": stages, "axes": {"train.value": list(range(3000))}}))
    progress = Progress(plan, 4)
    caches, tasks = Caches(tmp_path, plan, progress), [t for t in plan.tasks.values() if t.stage == "train"]
    caches.started(tasks[0])
    progress.started[tasks[0].key] = 0.0
    started = time.perf_counter()
    assert all(caches.park(task, i) for i, task in enumerate(tasks[1:]))
    assert caches.unpark() == []
    del progress.started[tasks[0].key]
    assert len(caches.unpark()) == 2999 and caches.unpark() == []
    assert time.perf_counter() - started < 2


@pytest.mark.slow
def test_so_many_at_a_time(stub, tmp_path):
    plan = plan_of(axes={"train.value": [1, 2, 3, 4]}, flags={"train.sleep": 0.5})
    for slots in (4, 2):
        root, going, most = tmp_path / str(slots), 0, 0
        for line in run(root, plan, slots)[1]:
            going += line.endswith(": started") - (": done after" in line)
            most = max(most, going)
        assert most == slots
    assert len(calls(stub)) == 2 * 9


@pytest.mark.slow
def test_one_task_fills_a_cache_before_the_others_begin(stub, tmp_path):
    stages = {**STAGES, "train": {**STAGES["train"], "warm_up": {"file": "value.json", "same": "data"}}}
    plan = plan_grid(parse_grid({"stages": stages, "axes": {"train.value": [1, 2, 3]}}))
    root, begun = tmp_path / "out", {}

    def say(line: str) -> None:
        if line.startswith("train") and line.endswith("started"):
            begun[line.split(":")[0]] = any((root / "train").glob("*/output/value.json"))

    Runner(root, plan, Local(4), say=say).run()
    assert begun == {"train value=1": False, "train value=2": True, "train value=3": True}


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
    code, lines = run(tmp_path / "out", plan)
    assert code == 0 and any("waits for a process of an earlier call" in line for line in lines)
    assert holder.wait() == 0


def test_time_left_is_that_of_the_means(stub):
    plan = plan_of(axes={"train.value": [1, 2]})
    progress = Progress(plan, slots=2)
    assert progress.left() is None
    keys = list(plan.tasks)
    progress.states = dict.fromkeys(keys[:3], DONE)
    progress.measured = {"prepare": [(5, 1)], "train": [(10, 1), (20, 1)], "evaluate": [(4.0, 1)]}
    assert progress.left() == 15  # one evaluation and one training after each other at the least
    assert progress.line() == "cells: 1 done, 1 queued; commands: 3 of 5 done, about 15 s left"


def test_time_left_is_in_proportion_to_the_images():
    """Trainings of 1,000 and of 12,500 steps do not take the same time."""
    stages = {"train": {"flags": {"data": "d", "train_batch_size": 1}}}
    plan = plan_grid(parse_grid({"stages": stages, "axes": {"train.max_train_steps": [100, 400]}}))
    short = next(iter(plan.tasks.values()))
    progress = Progress(plan, slots=1, states={short.key: DONE})
    progress.add_seconds(short, 10)
    assert progress.left() == 40


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


def test_jobs_of_several_gpus_that_start_together_have_ports_of_their_own(stub, tmp_path, monkeypatch):
    """accelerate's default is one port for all, which two that start in the same moment both find free."""
    from ablation import local
    from ablation.launcher import Job

    started = []
    monkeypatch.setattr(local.subprocess, "Popen", lambda command, **_: started.append(command))
    launcher = Local(2, ["0", "1", "2", "3"], gpus_per_job=2)
    for name in "ab":
        (tmp_path / name).mkdir()
        launcher.start(Job(name, ["-m", "stub_command"], tmp_path / name, distributed=True))
    assert all(command[command.index("--main_process_port") + 1] == "0" for command in started) and len(started) == 2


def test_a_gpu_that_does_not_answer_is_one_line(monkeypatch):
    from ablation import local

    def hang(command, **_):
        raise subprocess.TimeoutExpired(command, 30)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(local.shutil, "which", lambda _: "nvidia-smi")
    monkeypatch.setattr(local.subprocess, "run", hang)
    with pytest.raises(UserError, match="nvidia-smi does not answer"):
        local.visible_gpus()
