"""Grids on a real SLURM: arrays, a warned job, a node that goes, several tasks, a runner that leaves."""

import json
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from ablation.cells import plan_grid
from ablation.grid import parse_grid
from ablation.runner import Runner
from ablation.sbatch import stage_options
from ablation.slurm import Slurm
from tests.slurm_cluster import HOST, ROOT, SECOND, wait_until

pytestmark = [pytest.mark.external, pytest.mark.slow, pytest.mark.timeout(900)]

STEPS = 40
PATIENCE_S = 240  # a minute where nothing else runs
# A runner that looks often, and does not look for scores: trainings have none.
QUICK = """
from ablation import command
from ablation.slurm import Slurm
Slurm.poll_s = 0.5
command.publish = lambda *_: None
command.entry()
"""


@pytest.fixture
def flags(micro_base, micro_dataset) -> dict[str, object]:
    """Of a training that takes seconds."""
    numbers = {"max_train_steps": STEPS, "train_batch_size": 4, "lr_warmup_steps": 2, "logging_steps": 5}
    rare = {"checkpointing_steps": 1000, "validation_steps": 0, "report_to": "none"}
    return {"base": str(micro_base), "data": str(micro_dataset), "tune": "unet"} | numbers | rare


def ablate(slurm, folder: Path, flags: dict[str, object], axes: dict[str, list[object]], *more: str):
    """Start the runner on a grid of trainings; its output is read when it ends."""
    grid = {"slurm": {"mem": 0, "cpus_per_task": 1}, "stages": {"train": {"flags": flags}}, "axes": axes}
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid))
    command = [sys.executable, "-c", QUICK, "--grid", str(folder / "grid.yaml"), "--output_dir", str(folder / "out")]
    return subprocess.Popen(
        [*command, "--launcher", "slurm", *more],
        cwd=ROOT, env=slurm.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def end(runner: "subprocess.Popen[str]", seconds: float = PATIENCE_S) -> tuple[int, str]:
    try:
        output, _ = runner.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        runner.kill()
        pytest.fail(f"still running: {runner.communicate()[0]}")
    return runner.returncode, output


@pytest.fixture(autouse=True)
def no_job_left(slurm, tmp_path):
    """A test that fails leaves no jobs to the next."""
    yield
    for submission in (tmp_path / "out" / ".slurm").glob("*"):
        slurm("scancel", f"--name={submission.name}")


def task(folder: Path, value: str = "") -> Path:
    """The folder of the training of a cell, by its value of the axis; without, of the only one."""
    return next((folder / "out" / "train").glob(f"*{value}*"))


def has_begun(folder: Path, value: str = "", step: int = 10) -> bool:
    """Whether a cell's training has come to a step."""
    return (folder / "out" / "train").is_dir() and step in steps(task(folder, value))


def steps(folder: Path) -> list[int]:
    log = folder / "output" / "log.jsonl"
    return [json.loads(line)["step"] for line in log.read_text().splitlines()] if log.is_file() else []


def weights(run: Path) -> dict[str, bytes]:
    folder = run / "pipeline"
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.safetensors")}


def undisturbed(train_micro, folder: Path, flags: dict[str, object], **more: object) -> dict[str, bytes]:
    """The weights of the same training in this process."""
    assert train_micro(folder, **(flags | more)) == 0
    return weights(folder)


def test_a_grid_is_an_array_which_survives_its_runner_and_a_warned_job_resumes(slurm, flags, train_micro, tmp_path):
    rates = [1e-3, 2e-3, 3e-3, 4e-3]
    runner = ablate(slurm, tmp_path, flags, {"train.learning_rate": rates})
    began = wait_until(lambda: runner.poll() is not None or has_begun(tmp_path, "rate=0.002"), PATIENCE_S)
    runner.send_signal(signal.SIGINT)
    code, output = end(runner)
    assert began and code == 130, output
    assert "array of 4 jobs" in output and "4 jobs stay with SLURM" in output
    jobs = sorted(job for job, name in slurm.jobs().items() if name in output)
    assert len(jobs) == 4 and {job.split("_")[0] for job in jobs} == {jobs[0].split("_")[0]}
    slurm("scancel", "--signal=USR1", jobs[1])  # what SLURM does before the time limit

    code, output = end(ablate(slurm, tmp_path, flags, {"train.learning_rate": rates}))
    assert code == 0 and output.count("picked up job") == 4 and "cells: 4 done" in output, output
    assert len(list((tmp_path / "out" / ".slurm").iterdir())) == 1  # nothing was submitted twice
    assert [slurm.state(job)["Restarts"] for job in jobs] == ["0", "1", "0", "0"]
    warned = task(tmp_path, "rate=0.002")
    text = (warned / "log.txt").read_text()
    assert text.count("stopped at step") == text.count("resuming at step") == text.count("finished:") == 1, text
    assert steps(warned) == list(range(5, STEPS + 1, 5))
    found = weights(warned / "output")
    assert found and found == undisturbed(train_micro, tmp_path / "alone", flags, learning_rate=rates[1])


def test_a_node_that_goes_and_comes_back_loses_nothing(slurm, flags, train_micro, tmp_path):
    flags |= {"checkpointing_steps": 10, "max_train_steps": 3 * STEPS}  # so that it runs when the node goes
    runner = ablate(slurm, tmp_path, flags, {"train.learning_rate": [1e-3]}, "--sbatch", f"nodelist={SECOND}")
    began = wait_until(lambda: runner.poll() is not None or has_begun(tmp_path, step=15), PATIENCE_S)
    assert began and runner.poll() is None, end(runner)
    job = next(job for job, name in slurm.jobs().items() if (tmp_path / "out" / ".slurm" / name).is_dir())
    slurm("scontrol", "update", f"nodename={SECOND}", "state=down", "reason=test")
    try:
        assert wait_until(lambda: slurm.state(job)["JobState"] == "PENDING", 30), slurm.state(job)
    finally:
        slurm("scontrol", "update", f"nodename={SECOND}", "state=resume")
    code, output = end(runner)
    assert code == 0 and "cells: 1 done" in output, output
    assert slurm.state(job)["Restarts"] == "1"
    text = (task(tmp_path) / "log.txt").read_text()
    resumed = re.search(r"resuming at step (\d+)", text)
    assert resumed and int(resumed[1]) >= 10, text
    assert steps(task(tmp_path)) == list(range(5, 3 * STEPS + 1, 5))
    alone = undisturbed(train_micro, tmp_path / "alone", flags, learning_rate=1e-3)
    assert weights(task(tmp_path) / "output") == alone


def test_a_cell_of_two_nodes_meets_and_a_failed_one_is_shown(slurm, flags, tmp_path):
    flags |= {"max_train_steps": 4, "logging_steps": 2}
    axes = {"train.data": [flags.pop("data"), str(tmp_path / "none")]}
    two = ["--sbatch", "nodes=2", "--sbatch", "train.ntasks-per-node=1", "--sbatch", f"nodelist={HOST},{SECOND}"]
    code, output = end(ablate(slurm, tmp_path, flags, axes, *two))
    assert code == 1 and "cells: 1 done, 1 failed" in output, output
    assert "(2 × 1 × 4)" in "".join(log.read_text() for log in (tmp_path / "out" / "train").glob("*/log.txt"))
    assert "exit code 2" in output and f"dataset folder {tmp_path / 'none'}: does not exist" in output


def test_a_preempted_job_is_requeued_and_ends(slurm, stub, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    monkeypatch.setattr(Slurm, "poll_s", 0.5)
    stages = {"train": {"command": "stub", "flags": {"sleep": 8}}}
    options = {"partition": "test", "nodelist": SECOND, "cpus_per_task": 8}  # the whole node
    plan = plan_grid(
        parse_grid({"stages": stages, "slurm": options, "seeds": {"values": [0], "flags": ["train.seed"]}})
    )
    lines: list[str] = []

    def preempt() -> None:
        if wait_until(stub.is_file, PATIENCE_S):
            slurm("srun", "--partition=urgent", f"--nodelist={SECOND}", "--cpus-per-task=8", "true")

    (other := threading.Thread(target=preempt)).start()
    launcher = Slurm(tmp_path / "out", stage_options(plan.grid), 10, lines.append)
    assert Runner(tmp_path / "out", plan, launcher, say=lines.append).run() == 0, lines
    other.join()
    text = next((tmp_path / "out").glob("train/*/log.txt")).read_text()
    assert text.count("exit code 75: requeueing") == 1 and len(stub.read_text().splitlines()) == 2, text
