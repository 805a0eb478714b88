"""The SLURM launcher without SLURM: its programs are scripts that run what they are given, or say what a test wants."""

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from ablation import slurm, slurm_job
from ablation.cells import plan_grid, task_folder
from ablation.dry_run import describe
from ablation.grid import parse_grid
from ablation.launcher import LOG, Job
from ablation.local import Local
from ablation.runner import FAILED, STOPPED, Runner, read_state
from ablation.sbatch import DEFAULTS, script, seconds, stage_options
from ablation.slurm import Entry, Slurm
from ablation.slurm_job import RECORD, SlurmCommand
from sdcxr.runtime.errors import UserError

SBATCH = """#!/bin/bash
case " $* " in *" --test-only "*) cat > /dev/null; exit 0;; esac
echo "$1" >> "$FAKE/submitted"
array=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
cp "$1" "$FAKE/script-$$"  # as SLURM does: submitit renames its file
echo "Submitted batch job 7"
for i in $(seq 0 "${array:-0}"); do
    [ -z "$array" ] || export SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$i
    SLURM_JOB_ID=$((7 + i)) bash "$FAKE/script-$$" > /dev/null 2>&1 &
done
"""
SRUN = """#!/bin/bash
while [[ "$1" == -* ]]; do [ "$1" != --output ] || shift; shift; done
exec "$@"
"""
SQUEUE = """#!/bin/bash
[ ! -e "$FAKE/down" ] || { echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1; }
cat "$FAKE/queue"
"""
STAGES = {"prepare": {"command": "stub"}, "train": {"command": "stub", "flags": {"data": "${prepare}"}}}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of SLURM's programs, with the files `submitted` and `queue`."""
    folder = tmp_path / "fake"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("squeue", SQUEUE)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "queue").touch()
    (folder / "submitted").touch()
    monkeypatch.setenv("FAKE", str(folder))
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(Slurm, "poll_s", 0.05)
    monkeypatch.setattr(Slurm, "grace_s", 20.0)
    return folder


def plan_of(**content):
    return plan_grid(parse_grid({"stages": STAGES, **content}))


def run(root: Path, plan, settings=(), **options) -> tuple[int, list[str]]:
    lines: list[str] = []
    launcher = Slurm(root, stage_options(plan.grid, settings), 100, lines.append)
    return Runner(root, plan, launcher, say=lines.append, **options).run(), lines


def submissions(fake: Path) -> int:
    return len((fake / "submitted").read_text().splitlines())


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job whose folder is there."""
    (tmp_path / "task").mkdir()
    return Job("key", ["-c", "pass"], tmp_path / "task", stage="train")


def launcher_of(tmp_path: Path, lines: list[str] | None = None) -> Slurm:
    say = print if lines is None else lines.append
    return Slurm(tmp_path / "out", {"train": dict(DEFAULTS)}, 100, say)


def recorded(job: Job, submission: str = "train-1", index: int = 2) -> tuple[str, int]:
    """Leave the record of an earlier call."""
    (job.folder / RECORD).write_text(json.dumps({"submission": submission, "index": index}))
    return submission, index


def exit_file(tmp_path: Path, code: int) -> None:
    folder = tmp_path / "out" / slurm.SUBMISSIONS / "train-1"
    folder.mkdir(parents=True)
    (folder / "2.exit").write_text(f"{code}\n")


def test_a_grid_runs_as_arrays_with_its_output_in_the_logs_of_its_tasks(stub, fake, tmp_path):
    plan = plan_of(axes={"x": {"good": {}, "other": {"train.value": 1}, "bad": {"train.fail": True}}})
    root = tmp_path / "with space"
    code, lines = run(root, plan)
    text = "\n".join(lines)
    assert code == 1 and "cells: 2 done, 1 failed" in text
    assert submissions(fake) == 2 and "array of 3 jobs 7" in text
    assert "exit code 1" in lines[-1] and "error: it broke" in lines[-1]
    assert not list(root.rglob(RECORD))  # nothing is out
    assert all("Loading pickle" in (task_folder(root, task) / LOG).read_text() for task in plan.tasks.values())
    Path(f"{stub}.mended").touch()
    assert run(root, plan, retry_failed=True)[0] == 0 and submissions(fake) == 3


def test_a_command_that_asks_to_be_run_again_is_stopped_after_so_many_restarts(fake, job, tmp_path, monkeypatch):
    own = launcher_of(tmp_path)
    own.options["train"]["restarts"] = 0
    (tmp_path / "ask_again.py").write_text("raise SystemExit(75)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    own.start(Job(job.key, ["-m", "ask_again"], job.folder, stage="train"))
    own.submit()
    while not (ended := own.finished()):
        pass
    assert ended == {"key": 75}


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "COMPLETING", "REQUEUED", "COMPLETED", "OUT_OF_MEMORY"])
def test_a_job_of_an_earlier_call_is_picked_up(fake, job, tmp_path, state):
    (fake / "queue").write_text(f"other|N/A|RUNNING|5|None\ntrain-1|2|{state}|9_2|None|of two\n")
    recorded(job)
    own = launcher_of(tmp_path)
    assert own.start(job) == "picked up job 9_2 of an earlier call"
    own.submit()
    assert submissions(fake) == 0
    assert own.waiting == ({"key"} if state in ("PENDING", "REQUEUED") else set())


@pytest.mark.parametrize(("code", "found"), [(0, 0), (1, 1), (137, 137)])
def test_a_job_that_ended_in_the_meantime_is_not_submitted_again(fake, job, tmp_path, code, found):
    recorded(job)
    exit_file(tmp_path, code)
    own = launcher_of(tmp_path)
    assert own.start(job).startswith("picked up")
    own.looked = 0
    assert own.finished() == {"key": found} and not (job.folder / RECORD).exists()


@pytest.mark.parametrize("state", ["", "CANCELLED", "NODE_FAIL", "PREEMPTED"])
def test_a_job_that_is_gone_is_submitted_again(fake, job, tmp_path, state):
    """Also one that a killed runner has recorded and not submitted."""
    recorded(job)
    if state:
        (fake / "queue").write_text(f"train-1|2|{state}|9_2|None\n")
    assert launcher_of(tmp_path).start(job) == "submitted"


def test_a_job_that_gave_up_after_its_restarts_is_submitted_again(fake, job, tmp_path):
    recorded(job)
    exit_file(tmp_path, 75)
    assert launcher_of(tmp_path).start(job) == "submitted"


@pytest.mark.parametrize(
    ("state", "code"),
    [("COMPLETED", 0), ("FAILED", 1), ("TIMEOUT", 1), ("OUT_OF_MEMORY", 1), ("CANCELLED", 75), (None, 75)],
)
def test_a_job_that_left_no_exit_code_ends_after_a_while_as_its_state_says(fake, job, tmp_path, state, code):
    place = recorded(job)
    own = launcher_of(tmp_path)
    own.queue = {place: Entry("RUNNING", "9_2", "None")}
    own.start(job)
    (fake / "queue").write_text(f"train-1|2|{state}|9_2|None\n" if state else "")
    own.looked = 0
    assert own.finished() == {}  # the file may come late
    own.grace_s, own.looked = 0.0, 0
    assert own.finished() == {"key": code}
    assert (state or "not known any more") in (job.folder / LOG).read_text()


def test_a_controller_that_does_not_answer_is_waited_for(fake, job, tmp_path):
    (fake / "queue").write_text("train-1|2|RUNNING|9_2|None\n")
    recorded(job)
    lines: list[str] = []
    own = launcher_of(tmp_path, lines)
    own.start(job)
    own.grace_s = 0.0
    (fake / "down").touch()
    for _ in range(3):
        own.looked = 0
        assert own.finished() == {}
    assert len(lines) == 1 and "Unable to contact slurm controller" in lines[0]


def test_a_held_job_is_said_once(fake, job, tmp_path):
    (fake / "queue").write_text("train-1|2|PENDING|9_2|launch failed requeued held\n")
    recorded(job)
    lines: list[str] = []
    own = launcher_of(tmp_path, lines)
    own.start(job)
    for _ in range(2):
        own.looked = 0
        own.finished()
    assert lines == ["SLURM holds job 9_2 (launch failed requeued held): scontrol release 9_2"]


def test_a_signal_leaves_the_jobs_and_the_next_call_picks_them_up(stub, fake, tmp_path, monkeypatch):
    plan = plan_of(axes={"train.value": [1, 2]}, flags={"prepare.sleep": 2})
    monkeypatch.setattr(slurm.Slurm, "submit", _submit_and_interrupt(slurm.Slurm.submit))
    code, lines = run(tmp_path / "out", plan)
    assert code == 130 and "1 jobs stay with SLURM" in "\n".join(lines) and "again to kill" not in "\n".join(lines)
    monkeypatch.undo()
    states = {read_state(tmp_path / "out", task).get("state") for task in plan.tasks.values()}
    assert not states & {FAILED, STOPPED}


def _submit_and_interrupt(submit):
    def both(self):
        if self.collected:
            submit(self)
            os.kill(os.getpid(), signal.SIGINT)

    return both


def test_the_time_in_the_queue_is_not_that_of_the_command(stub, fake, tmp_path):
    plan = plan_of(axes={"train.value": [1]})
    runner = Runner(tmp_path / "out", plan, launcher_of(tmp_path))
    key = next(iter(plan.tasks))
    runner.progress.started[key] = -1000.0
    runner.launcher.collected = [Job(key, [], tmp_path)]
    runner._follow_queue()
    assert runner.progress.started[key] > 0 and runner.progress.line().startswith("cells: 1 queued")


def test_a_task_that_was_submitted_again_does_not_run_twice(job, capsys):
    recorded(job, "train-2")
    command = SlurmCommand(("-m", "nothing"), str(job.folder), "train-1", "done")
    command()
    (job.folder / RECORD).unlink()
    command()
    assert capsys.readouterr().out == "this task is run by train-2\nthis task is run by nobody\n"


@pytest.mark.parametrize(("text", "succeeds"), [("", True), ("exit()", True), ("exit(0)", True), ("exit(75)", False)])
def test_only_a_command_that_succeeds_says_so(tmp_path, monkeypatch, text, succeeds):
    (tmp_path / "some_command.py").write_text(f"import sys\nassert sys.argv[1:] == ['--flag']\n{text}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("sys.argv", ["before"])
    with contextlib.nullcontext() if succeeds else pytest.raises(SystemExit):
        slurm_job.main(str(tmp_path / "done"), "some_command", "--flag")
    assert (tmp_path / "done").exists() == succeeds


@pytest.mark.slow
def test_the_end_of_a_step_is_not_the_success_of_its_command(fake, job, tmp_path):
    """srun returns 0 when SLURM gives a node up; the job runs again."""
    (fake / "srun").write_text("#!/bin/bash\nexit 0\n")
    own = launcher_of(tmp_path)
    own.grace_s = 1.0
    own.start(job)
    own.submit()
    (fake / "queue").write_text("")
    while not (ended := own.finished()):
        pass
    assert ended == {"key": 75} and not list((tmp_path / "out").rglob("*.exit"))


def test_an_exit_code_counts_when_the_job_is_over(fake, job, tmp_path):
    """The script of a job that SLURM requeues may end with anything."""
    (fake / "queue").write_text("train-1|2|PENDING|9_2|BeginTime\n")
    recorded(job)
    exit_file(tmp_path, 1)
    own = launcher_of(tmp_path)
    assert own.start(job).startswith("picked up")
    own.looked = 0
    assert own.finished() == {}
    (fake / "queue").write_text("train-1|2|FAILED|9_2|None\n")
    own.looked = 0
    assert own.finished() == {"key": 1}


def test_a_task_of_a_killed_local_runner_is_waited_for(fake, job, tmp_path):
    with subprocess.Popen(["flock", str(job.folder / ".lock"), "sleep", "30"]) as holder:
        own = launcher_of(tmp_path)
        while subprocess.run(["flock", "--nonblock", str(job.folder / ".lock"), "true"]).returncode == 0:
            pass
        assert own.start(job) == "" and own.waiting == set()
        holder.kill()


def test_this_machine_does_not_run_what_slurm_has(job):
    recorded(job)
    with pytest.raises(UserError, match="go on with --launcher slurm"):
        Local(1).start(job)


GRID = {"slurm": {"partition": "gpu", "gpus-per-node": 1}}


def options_of(settings=(), stage=None, **content):
    stages = {"train": {"flags": {"data": "d"}, "slurm": stage}, "evaluate": {"command": "eval.fid"}}
    flags = {"evaluate.real": "d", "evaluate.synthetic": "${train}"}
    return stage_options(parse_grid({"stages": stages, "flags": flags, **GRID, **content}), settings)


def test_options_of_a_stage_are_over_those_of_the_grid_and_settings_over_both():
    found = options_of(["partition=big", "train.nodes=2", "exclusive"], {"gpus_per_node": 8, "time": "2-00:00:00"})
    assert found["train"] == DEFAULTS | {
        "partition": "big", "gpus_per_node": 8, "time": "2-00:00:00", "nodes": "2", "exclusive": True,
    }  # fmt: skip
    assert found["evaluate"] == DEFAULTS | {"partition": "big", "gpus_per_node": 1, "exclusive": True}


@pytest.mark.parametrize(
    ("settings", "stage", "message"),
    [
        (["output=x"], {}, "output is set by the runner"),
        (["tain.nodes=2"], {}, "no stage tain"),
        (["nodes=2"], {}, "nodes=2 for evaluate: eval.fid is one process"),
        ([], {"time": 86400}, "put it in quotes"),
        ([], {"gpus": {"a": 1}}, "gpus: expected a text or a number"),
        (["time=soon"], {}, "time=soon for train: expected minutes"),
        (["time=5"], {}, "time=5 for train: the warning, signal=USR1@300"),
        (["signal=B:USR1@60"], {}, "expected USR1@SECONDS"),
        (["restarts=often"], {}, "restarts=often"),
    ],
)
def test_options_that_cannot_be(settings, stage, message):
    with pytest.raises(UserError, match=message):
        options_of(settings, stage)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("90", 5400), ("1:30", 90), ("2:00:00", 7200), ("1-12", 129600), ("1-12:30", 131400), ("1-0:0:1", 86401),
        ("UNLIMITED", float("inf")), ("1:2:3:4", None), ("1h", None), ("", None),
    ],
)  # fmt: skip
def test_time_limits_as_sbatch_reads_them(limit, expected):
    assert seconds(limit) == expected


def test_the_script_is_one_for_bash_and_has_the_options(tmp_path):
    text = script(DEFAULTS | {"partition": "gpu", "setup": ["module load cuda"]}, "train-1", tmp_path / "a b", 4)
    for line in ("--array=0-3%4", "--partition=gpu", "--signal=USR1@300", "--requeue", "--job-name=train-1"):
        assert f"#SBATCH {line}" in text.splitlines()
    assert "module load cuda" in text and "wckey" not in text and "restarts=" not in text
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


def test_dry_run_shows_a_script_for_each_stage(stub, tmp_path):
    plan = plan_of(axes={"train.value": [1, 2]})
    text = describe(tmp_path / "out", plan, slurm=stage_options(plan.grid))
    assert "# sbatch script of train" in text and "--array=0-1%2" in text and not (tmp_path / "out").exists()


def test_a_refusal_of_slurm_is_one_line(fake, tmp_path):
    (fake / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: invalid partition specified: nope' >&2\nexit 1\n")
    with pytest.raises(UserError, match="SLURM refuses the options of train: error: invalid partition") as error:
        launcher_of(tmp_path)
    assert "\n" not in str(error.value)


def test_without_slurm_or_submitit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no squeue here"):
        launcher_of(tmp_path)
    monkeypatch.setattr("ablation.sbatch.find_spec", lambda _: None)
    with pytest.raises(UserError, match="pip install"):
        launcher_of(tmp_path)


def test_flags_of_the_other_launcher():
    from ablation.config import AblateConfig

    with pytest.raises(UserError, match="--sbatch needs --launcher slurm"):
        AblateConfig("g", "o", sbatch="partition=gpu")
    with pytest.raises(UserError, match="--gpus_per_job"):
        AblateConfig("g", "o", launcher="slurm", gpus_per_job=2)
