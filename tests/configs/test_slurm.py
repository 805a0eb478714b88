"""train.sbatch under a real SLURM of one node, started here by the present user."""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.external

ROOT = Path(__file__).parents[2]
SCRIPT = "configs/slurm/train.sbatch"
DAEMONS = "/usr/sbin"  # where Debian puts them, which is not in everybody's PATH
STEPS = 120

# Without munge, which wants its own daemon: within one machine nobody has to be authenticated.
SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5  # so long a requeued job waits, too
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=1,bf_interval=1
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
JobRequeue=1
KillOnBadExit=1
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=4
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE
"""


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


def free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]


class Cluster:
    """SLURM's commands with the environment that they need."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.host = socket.gethostname().split(".")[0]
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "ACCELERATE_USE_CPU": "true"}
        # The script calls `python`: that of these tests, as if their environment were active.
        self.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        for name in [name for name in self.environment if name.startswith(("SBATCH_", "SLURM_JOB"))]:
            del self.environment[name]

    def __call__(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def start(self) -> list[subprocess.Popen[bytes]]:
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        conf = SLURM_CONF.format(
            host=self.host, ports=free_ports(2), user=pwd.getpwuid(os.getuid()).pw_name, folder=self.folder
        )
        (self.folder / "slurm.conf").write_text(conf)
        started = []
        for daemon in ("slurmctld", "slurmd"):
            path = shutil.which(daemon) or f"{DAEMONS}/{daemon}"
            with (self.folder / f"{daemon}.out").open("wb") as out:
                started.append(subprocess.Popen([path, "-D"], env=self.environment, stdout=out, stderr=out))
        return started

    def is_ready(self) -> bool:
        command = ["sinfo", "--noheader", "--format=%T"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        return done.stdout.strip() == "idle"

    def state(self, job: str) -> dict[str, str]:
        return dict(word.split("=", 1) for word in self("scontrol", "show", "job", job).split() if "=" in word)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A running SLURM, or the reason why there is none."""
    for name in ("sbatch", "srun", "scontrol", "slurmctld", "slurmd"):
        if not (shutil.which(name) or Path(DAEMONS, name).is_file()):
            pytest.skip(f"SLURM's {name} is not installed")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short, for the names of its sockets
    own = Cluster(folder)
    daemons = own.start()
    try:
        if (
            not wait_until(lambda: own.is_ready() or any(d.poll() is not None for d in daemons), 20)
            or not own.is_ready()
        ):
            last = [(folder / f"{name}.out").read_text()[-500:] for name in ("slurmctld", "slurmd")]
            pytest.skip(f"SLURM does not start here: {last}")
        yield own
        for job in own("squeue", "--noheader", "--format=%A").split():
            own("scancel", job)
        wait_until(lambda: not own("squeue", "--noheader"), 40)
    finally:
        for daemon in daemons:
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def submit(cluster: Cluster, run: Path, settings: dict[str, object]) -> str:
    """Submit a run of two processes; its job id."""
    config = run.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(settings | {"output_dir": str(run)}))
    small = ["--ntasks-per-node=2", "--cpus-per-task=1", "--gpus-per-node=0", "--mem-per-cpu=0"]
    output = f"--output={run.with_suffix('.txt')}"
    return cluster("sbatch", "--parsable", *small, output, SCRIPT, "--config", str(config))


def has_ended(cluster: Cluster, job: str) -> bool:
    return cluster.state(job)["JobState"] in {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}


def result(run: Path) -> dict[str, bytes]:
    files = [
        *(run / "pipeline").rglob("*.safetensors"),
        *(run / f"checkpoints/checkpoint-{STEPS}").rglob("*.safetensors"),
    ]
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def settings(micro_base, micro_dataset) -> dict[str, object]:
    numbers = {"max_train_steps": STEPS, "train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 5}
    rare = {"checkpointing_steps": 1000, "validation_steps": 0, "report_to": "none"}
    return {"base": str(micro_base), "data": str(micro_dataset), "tune": "unet+text"} | numbers | rare


def test_a_warned_job_is_requeued_and_ends_with_the_weights_of_an_undisturbed_one(cluster, settings, tmp_path):
    runs = {name: tmp_path / name for name in ("warned", "undisturbed")}
    jobs = {}
    for name, run in runs.items():  # side by side
        jobs[name] = submit(cluster, run, settings | {"latents_dir": str(tmp_path / f"latents-{name}")})
    log, output = runs["warned"] / "log.jsonl", runs["warned"].with_suffix(".txt")
    began = wait_until(lambda: log.is_file() and len(log.read_text().splitlines()) >= 3, 120)
    assert began, output.read_text()
    cluster("scancel", "--signal=USR1", jobs["warned"])  # what #SBATCH --signal does before the time limit
    assert wait_until(lambda: all(has_ended(cluster, job) for job in jobs.values()), 120)
    for name, restarts in (("warned", "1"), ("undisturbed", "0")):
        state, text = cluster.state(jobs[name]), runs[name].with_suffix(".txt").read_text()
        assert (state["JobState"], state["ExitCode"], state["Restarts"]) == ("COMPLETED", "0:0", restarts), text
    text = output.read_text()
    assert text.count("stopped at step") == text.count("resuming at step") == text.count("finished:") == 1
    assert "(2 × 1 × 4)" in text  # two processes that know of each other
    warned, undisturbed = (result(run) for run in runs.values())
    assert len(warned) == 6 and warned == undisturbed


def test_a_user_mistake_ends_the_job_with_its_exit_code(cluster, settings, tmp_path):
    job = submit(cluster, tmp_path / "run", settings | {"tune": "everything"})
    assert wait_until(lambda: has_ended(cluster, job), 60)
    state = cluster.state(job)
    assert (state["JobState"], state["ExitCode"], state["Restarts"]) == ("FAILED", "2:0", "0")
    assert "everything" in (tmp_path / "run.txt").read_text()
