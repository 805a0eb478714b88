"""The comparison with diffusers' script: both sides get the same settings, and every round is recorded."""

import json
import sys
from pathlib import Path
from typing import Any

from sdcxr.config import TrainConfig
from sdcxr.runtime.cli import parse

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import vs_diffusers as vs  # noqa: E402


def test_both_sides_are_given_the_same_values(tmp_path):
    config = vs.VsDiffusersConfig(tmp_path, steps=20, batch_size=3, ema=True)
    subject = vs.Subject(Path("base"), Path("data"), 64)
    ours, theirs = (vs.arguments(side, "bf16", config, subject, Path("work")) for side in ("ours", "theirs"))

    def main(config: TrainConfig) -> None: ...

    settings = parse(main, ours)
    for name in ("resolution", "train_batch_size", "max_train_steps", "learning_rate", "mixed_precision", "seed"):
        assert theirs[theirs.index(f"--{name}") + 1] == str(getattr(settings, name))
    assert (settings.tune, settings.use_ema, settings.logging_steps) == ("unet", True, vs.WINDOW)
    assert "--use_ema" in theirs


def test_sides_run_in_turn_and_the_record_has_every_round_and_no_path(tmp_path, monkeypatch):
    order = []

    def measure(side: str, command: list[str], config: Any, work: Path) -> Any:
        work.mkdir()  # fails where the run before left its caches
        order.append((side, command[command.index("--mixed_precision") + 1]))
        return vs.Measured(float(len(order)), 100.0, 0.0, 1.0)

    (tmp_path / vs.SCRIPT).parent.mkdir(parents=True)
    (tmp_path / vs.SCRIPT).touch()
    monkeypatch.setattr(vs, "prepare", lambda config, folder: vs.Subject(tmp_path / "base", tmp_path / "data", 64))
    monkeypatch.setattr(vs, "measure", measure)
    output = tmp_path / "results" / "vs.json"
    assert vs.main(vs.VsDiffusersConfig(tmp_path, rounds=2, output=output)) == 0
    assert order == 2 * [("ours", "bf16"), ("theirs", "bf16"), ("ours", "no"), ("theirs", "no")]
    record = json.loads(output.read_text())
    assert [run["median"]["images_per_s"] for run in record["runs"]] == [3, 4, 5, 6]
    assert [len(run["rounds"]) for run in record["runs"]] == [2, 2, 2, 2]
    assert record["comparisons"][0]["images_per_s_of_rounds"] == [1 / 4, 5 / 8]
    assert str(tmp_path) not in output.read_text() and str(ROOT) not in output.read_text()
