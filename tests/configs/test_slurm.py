"""train.sbatch under a real SLURM."""

from pathlib import Path

import pytest
import yaml

from tests.slurm_cluster import HOST, Cluster, wait_until

pytestmark = pytest.mark.external

SCRIPT = "configs/slurm/train.sbatch"
STEPS = 120


def submit(cluster: Cluster, run: Path, settings: dict[str, object]) -> str:
    """Submit a run of two processes; its job id."""
    config = run.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(settings | {"output_dir": str(run)}))
    small = ["--ntasks-per-node=2", "--cpus-per-task=1", "--gpus-per-node=0", "--mem-per-cpu=0", f"--nodelist={HOST}"]
    output = f"--output={run.with_suffix('.txt')}"
    return cluster("sbatch", "--parsable", *small, output, SCRIPT, "--config", str(config))


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


def test_a_warned_job_is_requeued_and_ends_with_the_weights_of_an_undisturbed_one(slurm, settings, tmp_path):
    runs = {name: tmp_path / name for name in ("warned", "undisturbed")}
    jobs = {}
    for name, run in runs.items():  # side by side
        jobs[name] = submit(slurm, run, settings | {"latents_dir": str(tmp_path / f"latents-{name}")})
    log, output = runs["warned"] / "log.jsonl", runs["warned"].with_suffix(".txt")
    began = wait_until(lambda: log.is_file() and len(log.read_text().splitlines()) >= 3, 120)
    assert began, output.read_text()
    slurm("scancel", "--signal=USR1", jobs["warned"])  # what #SBATCH --signal does before the time limit
    assert wait_until(lambda: all(slurm.has_ended(job) for job in jobs.values()), 120)
    for name, restarts in (("warned", "1"), ("undisturbed", "0")):
        state, text = slurm.state(jobs[name]), runs[name].with_suffix(".txt").read_text()
        assert (state["JobState"], state["ExitCode"], state["Restarts"]) == ("COMPLETED", "0:0", restarts), text
    text = output.read_text()
    assert text.count("stopped at step") == text.count("resuming at step") == text.count("finished:") == 1
    assert "(2 × 1 × 4)" in text  # two processes that know of each other
    warned, undisturbed = (result(run) for run in runs.values())
    assert len(warned) == 6 and warned == undisturbed


def test_a_user_mistake_ends_the_job_with_its_exit_code(slurm, settings, tmp_path):
    job = submit(slurm, tmp_path / "run", settings | {"tune": "everything"})
    assert wait_until(lambda: slurm.has_ended(job), 60)
    state = slurm.state(job)
    assert (state["JobState"], state["ExitCode"], state["Restarts"]) == ("FAILED", "2:0", "0")
    assert "everything" in (tmp_path / "run.txt").read_text()
