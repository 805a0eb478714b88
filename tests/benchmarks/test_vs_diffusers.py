"""What the comparison with diffusers' script reads, computes and refuses; stand-ins run in place of both trainers."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sdcxr.config import TrainConfig
from sdcxr.runtime.cli import parse
from sdcxr.runtime.errors import UserError

ROOT = Path(__file__).parents[2]


def load() -> ModuleType:
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("vs_diffusers", ROOT / "benchmarks" / "vs_diffusers.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["vs_diffusers"] = module
    spec.loader.exec_module(module)
    return module


vs = load()


@pytest.fixture
def checkout(tmp_path: Path) -> Callable[[str], Path]:
    """`checkout(code)` is a folder like a clone of diffusers, in which the script is this code."""

    def write(code: str) -> Path:
        script = tmp_path / "diffusers" / vs.SCRIPT
        script.parent.mkdir(parents=True)
        script.write_text(code)
        return tmp_path / "diffusers"

    return write


def test_times_of_all_steps_come_from_the_event_file(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path))
    for step in range(1, 10_101):  # more than TensorBoard keeps by default
        writer.add_scalar("train_loss", 0.5, step, walltime=1000.0 + 0.25 * step)
    writer.add_scalar("other", 0.5, 99_999)
    writer.close()
    times = vs.event_times(tmp_path, "train_loss")
    assert len(times) == 10_100
    assert times[1] == pytest.approx(1000.25) and times[10_100] == pytest.approx(3525.0)


def test_a_speed_is_taken_over_five_steps_without_the_first_five_and_an_unfinished_window() -> None:
    slow_start = {step: 10.0 * step for step in range(1, 6)}
    times = slow_start | {step: 50.0 + 2.0 * (step - 5) for step in range(6, 11)}
    times |= {step: 60.0 + 4.0 * (step - 10) for step in range(11, 19)}
    assert vs.speeds_between(times, images_per_step=16) == pytest.approx([8.0, 4.0])


def test_the_log_gives_its_speeds_without_the_first_five_steps(tmp_path: Path) -> None:
    rows = [{"step": 5, "images_per_s": 1.0}, {"step": 10, "images_per_s": 8.0}, {"step": 15, "images_per_s": 9.0}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert vs.logged_speeds(tmp_path / "log.jsonl") == [8.0, 9.0]


def test_the_median_is_of_each_quantity_by_itself() -> None:
    rounds = [vs.Measured(1, 300, 0, 7), vs.Measured(5, 100, 0, 9), vs.Measured(2, 200, 0, 8)]
    assert vs.median(rounds) == vs.Measured(2, 200, 0, 8)


MEDIANS = {
    ("ours", "bf16"): vs.Measured(60, 900, 0, 30),
    ("theirs", "bf16"): vs.Measured(40, 1000, 0, 20),
    ("ours", "no"): vs.Measured(75, 1000, 0, 40),
    ("theirs", "no"): vs.Measured(25, 2000, 0, 10),
}


def test_ratios_are_ours_over_theirs_as_chosen_at_the_fastest_and_at_each_precision() -> None:
    rows = vs.compare({key: [measured] for key, measured in MEDIANS.items()}, "bf16", "no")
    assert [(row["comparison"], row["ours"], row["theirs"], row["images_per_s"], row["peak_mb"]) for row in rows] == [
        ("as chosen", "bf16", "no", 2.4, 0.45),
        ("fastest of each", "no", "bf16", 1.875, 1.0),
        ("both bf16", "bf16", "bf16", 1.5, 0.9),
        ("both fp32", "no", "no", 3.0, 0.5),
    ]
    assert all("gpu_mb" not in row for row in rows)
    assert vs.sentence(rows[0]) == (
        "as chosen (ours bf16, theirs no): 2.40 × the images/s (2.40), 0.45 × the peak memory"
    )


def test_ratios_are_taken_within_a_round() -> None:
    """The machine halves its speed after the first round."""
    rounds = {("ours", "no"): [40.0, 20.0, 22.0], ("theirs", "no"): [20.0, 10.0, 10.0]}
    row = vs.compare({key: [vs.Measured(v, 1, 0, 1) for v in each] for key, each in rounds.items()}, "no", "no")[0]
    assert row["images_per_s"] == 2.0 and row["images_per_s_of_rounds"] == [2.0, 2.0, 2.2]


def test_memory_of_a_gpu_is_compared_where_there_is_one() -> None:
    rounds = {("ours", "no"): [vs.Measured(1, 1, 50, 1)], ("theirs", "no"): [vs.Measured(1, 1, 100, 1)]}
    row = vs.compare(rounds, "no", "no")[0]
    assert row["gpu_mb"] == 0.5 and vs.sentence(row).endswith(", 0.50 × the GPU memory")


def test_the_table_has_a_line_per_side_and_precision_with_every_round() -> None:
    lines = vs.table(MEDIANS, {key: [measured, measured] for key, measured in MEDIANS.items()}).splitlines()
    assert len(lines) == 5
    assert lines[1].split() == ["ours", "bf16", "60.0", "900", "0", "30", "60.0", "60.0"]
    assert lines[4].split() == ["theirs", "no", "25.0", "2,000", "0", "10", "25.0", "25.0"]


def test_memory_of_all_gpus_is_summed_and_absent_ones_are_zero(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert vs.gpu_used_mb() == 0 and vs.nvidia_smi("name") == []
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 1000\necho 24\necho '[N/A]'\n")
    program.chmod(0o755)
    assert vs.gpu_used_mb() == pytest.approx(1024 * 2**20 / 1e6)


def test_this_trainer_understands_its_flags_and_both_sides_get_the_same_values(tmp_path: Path) -> None:
    config = vs.VsDiffusersConfig(tmp_path, steps=20, batch_size=3, ema=True)
    subject = vs.Subject(Path("base"), Path("data"), 64)
    mine, other = (vs.arguments(side, "bf16", config, subject, Path("work")) for side in ("ours", "theirs"))

    def main(config: TrainConfig) -> None: ...

    main.__annotations__ = {"config": TrainConfig}
    settings = parse(main, mine)
    for name in ("resolution", "train_batch_size", "max_train_steps", "learning_rate", "mixed_precision", "seed"):
        assert other[other.index(f"--{name}") + 1] == str(getattr(settings, name))
    assert (settings.tune, settings.use_ema, settings.logging_steps) == ("unet", True, vs.WINDOW)
    assert "--use_ema" in other and other[other.index("--train_data_dir") + 1] == "data/train"
    plain = vs.arguments("theirs", "no", vs.VsDiffusersConfig(tmp_path), subject, Path("work"))
    assert "--use_ema" not in plain


def test_a_process_is_measured_with_the_threads_asked_for(tmp_path: Path, checkout: Callable[[str], Path]) -> None:
    repo = checkout(
        "import os, sys, time\n"
        "assert os.environ['OMP_NUM_THREADS'] == os.environ['MKL_NUM_THREADS'] == '3'\n"
        "assert os.environ['HF_HUB_OFFLINE'] == '1' and sys.argv[1] == '--flag'\n"
        "held = bytes(range(256)) * 4_000_000\ntime.sleep(0.2)\n"
    )
    config = vs.VsDiffusersConfig(repo, threads=3)
    wall_s, peak_mb, gpu_mb = vs.execute("theirs", ["--flag"], config, tmp_path / "work")
    assert 0.2 <= wall_s < 60 and 1024 < peak_mb < 1500 and gpu_mb >= 0


def test_a_failure_of_theirs_is_one_line_that_names_a_log_that_stays(
    tmp_path: Path, checkout: Callable[[str], Path], monkeypatch: Any
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    config = vs.VsDiffusersConfig(checkout("import sys\nprint('the reason')\nsys.exit(7)\n"))
    with pytest.raises(UserError, match=r"^diffusers ended with exit code 7 .*: see .*log\.txt$") as caught:
        vs.execute("theirs", [], config, tmp_path / "work")
    assert Path(str(caught.value).rsplit("see ", 1)[1]).read_text() == "the reason\n"


def test_a_failure_of_ours_that_explains_itself_is_passed_on(tmp_path: Path) -> None:
    config = vs.VsDiffusersConfig(tmp_path)
    with pytest.raises(UserError, match=r"^unknown flag or key: nonsense"):
        vs.execute("ours", ["--nonsense", "1"], config, tmp_path / "work")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"steps": 12}, "--steps 12: must be a multiple of 5"),
        ({"steps": 5}, "--steps 5: .* at least 10"),
        ({"rounds": 0}, "--rounds 0: must be at least 1"),
        ({"threads": 0}, "--threads 0: must be at least 1"),
    ],
)
def test_settings_that_cannot_be_measured_are_refused(settings: dict[str, int], line: str) -> None:
    with pytest.raises(UserError, match=line):
        vs.VsDiffusersConfig(Path(), **settings)


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--diffusers_repo .* has no examples/text_to_image/train_text_to_image\.py"):
        vs.main(vs.VsDiffusersConfig(tmp_path))
    with pytest.raises(UserError, match=r"--diffusers_repo .*absent: does not exist"):
        vs.main(vs.VsDiffusersConfig(tmp_path / "absent"))


def test_the_base_is_what_one_step_saved_and_a_dataset_too_small_for_the_batch_is_refused(
    tmp_path: Path, micro_base: Path, micro_dataset: Path, monkeypatch: Any
) -> None:
    def step(side: str, command: list[str], config: Any, work: Path) -> None:
        (work / "run").mkdir(parents=True)
        (work / "run" / "pipeline").symlink_to(micro_base)
        (work / "run" / "config.yaml").write_text(f"data: {micro_dataset}\n")

    monkeypatch.setattr(vs, "execute", step)
    subject = vs.prepare(vs.VsDiffusersConfig(tmp_path, batch_size=1), tmp_path / "one")  # of 11 training images
    assert subject == vs.Subject(tmp_path / "one" / "run" / "pipeline", micro_dataset, 32)
    with pytest.raises(UserError, match="has 11 training images; --batch_size 2 needs 20"):
        vs.prepare(vs.VsDiffusersConfig(tmp_path, batch_size=2), tmp_path / "two")


def test_sides_run_in_turn_and_the_record_has_every_round_and_no_path(
    tmp_path: Path, checkout: Callable[[str], Path], monkeypatch: Any
) -> None:
    order = []

    def measure(side: str, command: list[str], config: Any, work: Path) -> Any:
        work.mkdir()  # fails where the run before left its caches
        order.append((side, command[command.index("--mixed_precision") + 1]))
        return vs.Measured(float(len(order)), 100.0, 0.0, 1.0)

    monkeypatch.setattr(vs, "prepare", lambda config, folder: vs.Subject(tmp_path / "base", tmp_path / "data", 64))
    monkeypatch.setattr(vs, "measure", measure)
    output = tmp_path / "results" / "vs.json"
    assert vs.main(vs.VsDiffusersConfig(checkout(""), rounds=2, output=output)) == 0
    assert order == 2 * [("ours", "bf16"), ("theirs", "bf16"), ("ours", "no"), ("theirs", "no")]
    record = json.loads(output.read_text())
    assert [run["median"]["images_per_s"] for run in record["runs"]] == [3, 4, 5, 6]
    assert [len(run["rounds"]) for run in record["runs"]] == [2, 2, 2, 2]
    assert record["comparisons"][0]["images_per_s_of_rounds"] == [1 / 4, 5 / 8]
    assert set(record["versions"]) >= {"torch", "diffusers"} and record["diffusers_commit"] is None
    assert str(tmp_path) not in output.read_text() and str(ROOT) not in output.read_text()
