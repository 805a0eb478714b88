"""The search for a learning rate: which trials, which is best, stopping and going on, refusals."""

import csv
import json
import math
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("optuna")

from sdcxr.commands import train
from sdcxr.config import TrainConfig
from sdcxr.io.files import write_json
from sdcxr.io.run_folder import read_config, read_run_state
from sdcxr.runtime import cli
from sdcxr.runtime.errors import UserError
from sdcxr.training import lr_search
from sdcxr.training.lr_search import Diverged, choose_learning_rate, last_value, metric_of, run_process

BEST = 4e-3  # of the stub
CENTRE = 1e-3


class Stub:
    """Stands for a training: its AUROC falls with the distance of the rate from `BEST`."""

    def __init__(self, stop_at: int | None = None, diverges_above: float = math.inf, **state: Any):
        self.rates: list[float] = []
        self.configs: list[TrainConfig] = []
        self.stop_at, self.diverges_above, self.state = stop_at, diverges_above, state

    def __call__(self, config: TrainConfig) -> None:
        assert config.learning_rate is not None
        self.configs.append(config)
        self.rates.append(config.learning_rate)
        if self.stop_at == len(self.rates) - 1:
            raise SystemExit(75)
        folder = Path(str(config.output_dir))
        (folder / "checkpoints" / "checkpoint-9").mkdir(parents=True)
        (folder / "classifier").mkdir()
        write_json(folder / "run.json", {"images_per_step": 4, "finished_steps": 9} | self.state)
        value = 1 - abs(math.log10(config.learning_rate / BEST)) / 4
        if config.learning_rate > self.diverges_above:
            value = math.nan
        rows = [{"step": 3, "ema_auroc": 1.0}, {"step": 9, "ema_auroc": value}]
        (folder / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def settings(data: Path, run: Path, **changed: Any) -> TrainConfig:
    values = {"learning_rate": CENTRE, "max_train_steps": 9, "lr_warmup_steps": 2, "lr_search": 8} | changed
    return TrainConfig(tune="classifier", data=str(data), output_dir=str(run), **values)


def table(run: Path) -> list[dict[str, str]]:
    with (run / "lr_search.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_best_of_the_trials_is_taken(micro_dataset, tmp_path, capfd):
    stub = Stub()
    chosen, notes = choose_learning_rate(settings(micro_dataset, tmp_path / "run"), stub)
    assert stub.rates[0] == CENTRE and len(set(stub.rates)) == 8
    assert all(CENTRE / 10 <= rate <= CENTRE * 10 for rate in stub.rates)
    nearest = min(stub.rates, key=lambda rate: abs(math.log(rate / BEST)))
    assert (chosen.learning_rate, chosen.lr_search, chosen.output_dir) == (nearest, None, str(tmp_path / "run"))
    rows = table(tmp_path / "run")
    assert [float(row["learning_rate"]) for row in rows] == stub.rates
    assert rows[0]["ema_auroc"] == str(1 - abs(math.log10(CENTRE / BEST)) / 4)
    assert notes["lr_search"]["best_trial"] == stub.rates.index(nearest) and notes["lr_search"]["trials"] == 8
    assert f"learning rate {nearest:.3g} is the best of 8" in capfd.readouterr().out


def test_trials_are_runs_of_their_own_that_leave_no_weights(micro_dataset, tmp_path):
    stub = Stub()
    config = settings(micro_dataset, tmp_path / "run", lr_search=2, lr_search_steps=5, report_to="tensorboard")
    choose_learning_rate(config, stub)
    trial = stub.configs[1]
    assert trial.output_dir == str(tmp_path / "run" / "lr_search" / "trial-001")
    assert (trial.max_train_steps, trial.report_to, trial.lr_search) == (5, "none", None)
    left = {path.name for path in Path(trial.output_dir).iterdir()}
    assert left == {"run.json", "validation.jsonl"}


@pytest.mark.slow
def test_a_stopped_search_goes_on_with_the_same_trials(micro_dataset, tmp_path):
    whole, first, second, rest = Stub(), Stub(stop_at=0), Stub(stop_at=10), Stub()
    choose_learning_rate(settings(micro_dataset, tmp_path / "whole", lr_search=12), whole)
    config = settings(micro_dataset, tmp_path / "parts", lr_search=12)
    for stub in (first, second):  # the sampler looks back from the 11th trial on
        with pytest.raises(SystemExit):
            choose_learning_rate(config, stub)
    chosen, _ = choose_learning_rate(config, rest)
    assert second.rates[:-1] + rest.rates == whole.rates
    assert (first.configs[-1], second.configs[-1]) == (second.configs[0], rest.configs[0])  # in the same folders
    assert table(tmp_path / "parts") == table(tmp_path / "whole")
    again = Stub()
    assert choose_learning_rate(config, again)[0] == chosen and not again.rates


def test_another_seed_draws_other_trials(micro_dataset, tmp_path):
    stubs = [Stub(), Stub()]
    for seed, stub in enumerate(stubs):
        config = settings(micro_dataset, tmp_path / str(seed), lr_search=3, seed=seed)
        choose_learning_rate(config, stub)
    assert stubs[0].rates[0] == stubs[1].rates[0] and set(stubs[0].rates[1:]).isdisjoint(stubs[1].rates)


def test_trials_may_be_added_until_the_run_has_begun(micro_dataset, tmp_path):
    config, run = settings(micro_dataset, tmp_path / "run", lr_search=3), tmp_path / "run"
    three, two = Stub(), Stub()
    choose_learning_rate(config, three)
    choose_learning_rate(replace(config, lr_search=5), two)
    assert (len(three.rates), len(two.rates), len(table(run))) == (3, 2, 5)
    assert choose_learning_rate(config, Stub())[1]["lr_search"]["trials"] == 3
    (run / "samples").mkdir()
    write_json(run / "run.json", {"images_per_step": 4, "finished_steps": 0})
    with pytest.raises(UserError, match="holds a run already, chosen from 5 trials: for --lr_search 6 give another"):
        choose_learning_rate(replace(config, lr_search=6), Stub())


def test_a_diverged_trial_is_the_worst(micro_dataset, tmp_path):
    stub = Stub(diverges_above=CENTRE)
    chosen, _ = choose_learning_rate(settings(micro_dataset, tmp_path / "run"), stub)
    assert chosen.learning_rate is not None and chosen.learning_rate <= CENTRE
    states = {row["state"]: row["ema_auroc"] for row in table(tmp_path / "run")}
    assert states["diverged"] == "" and states["finished"] != ""
    with pytest.raises(UserError, match=r"all trials from 0\.0001 to 0\.01 diverged: give a lower --learning_rate"):
        choose_learning_rate(settings(micro_dataset, tmp_path / "all", lr_search=2), Stub(diverges_above=0))


def test_rates_of_all_parts_move_together():
    config = TrainConfig(tune="unet+text", learning_rate=1e-3, text_encoder_lr=5e-4, lr_search=2)
    moved = lr_search.at_rate(config, 2e-3)
    assert (moved.learning_rate, moved.text_encoder_lr) == (2e-3, 1e-3)


@pytest.mark.parametrize(
    ("changed", "metric"),
    [
        ({"tune": "classifier"}, ("ema_auroc", "maximize")),
        ({"tune": "classifier", "use_ema": False}, ("auroc", "maximize")),
        ({"tune": "segmenter"}, ("ema_dice", "maximize")),
        ({"tune": "unet+text"}, ("ema_loss", "minimize")),
        ({"tune": "vae", "use_ema": False}, ("loss", "minimize")),
    ],
)
def test_what_judges(changed, metric):
    assert metric_of(TrainConfig(**changed)) == metric


def test_a_validation_without_the_metric_is_one_line(tmp_path):
    write_json(tmp_path / "run.json", {"images_per_step": 4, "finished_steps": 9})
    (tmp_path / "validation.jsonl").write_text('{"step": 3, "auroc": 0.5}\n{"step": 9, "loss": 1.0}\n')
    with pytest.raises(UserError, match="has no auroc of step 9: the validation split needs images"):
        last_value(tmp_path, "auroc")


def test_trials_of_replaced_data_are_refused(micro_dataset, tmp_path):
    config = settings(micro_dataset, tmp_path / "run", lr_search=3)
    with pytest.raises(SystemExit):
        choose_learning_rate(config, Stub(stop_at=1, data_sha256={"images": "a"}))
    with pytest.raises(UserError, match="trial-001 was trained on other images, labels or weights than the first"):
        choose_learning_rate(config, Stub(data_sha256={"images": "b"}))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"validation_steps": 0}, "--lr_search chooses by validation"),
        ({"validation_loss_images": 0}, "--lr_search chooses by validation"),
        ({"lr_search_steps": 2}, "2 steps of a trial end within the 2 of --lr_warmup_steps"),
        ({"data": "TRAIN_ONLY"}, "--lr_search chooses by the validation split: .*validation"),
    ],
)
def test_what_a_search_cannot_do_is_refused_before_the_first_trial(micro_dataset, tmp_path, changed, message):
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "train").symlink_to(micro_dataset / "train")
    changed = {name: str(tmp_path / "alone") if value == "TRAIN_ONLY" else value for name, value in changed.items()}
    with pytest.raises(UserError, match=message):
        choose_learning_rate(replace(settings(micro_dataset, tmp_path / "run"), **changed), Stub())
    assert not (tmp_path / "run").exists()


def test_several_processes_are_refused(micro_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(lr_search, "processes", lambda: SimpleNamespace(num_processes=2))
    with pytest.raises(UserError, match="--lr_search runs on one process"):
        choose_learning_rate(settings(micro_dataset, tmp_path / "run"), Stub())


def test_another_search_and_a_damaged_study_are_refused(micro_dataset, tmp_path):
    config = settings(micro_dataset, tmp_path / "run", lr_search=2)
    choose_learning_rate(config, Stub())
    with pytest.raises(UserError, match=r"begun with other settings \(seed 0 → 1\)"):
        choose_learning_rate(replace(config, seed=1), Stub())
    (tmp_path / "run" / "lr_search" / "study.db").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match=r"study\.db cannot be read"):
        choose_learning_rate(config, Stub())


def command(*argv: str) -> int | None:
    with pytest.raises(SystemExit) as stopped:
        cli.run(train.main, list(argv))
    assert stopped.value.code is None or isinstance(stopped.value.code, int)
    return stopped.value.code


def test_without_optuna_it_says_what_to_install(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert command("--tune", "classifier", "--lr_search", "5", "--report_to", "none") == 2
    assert capfd.readouterr().err == "error: --lr_search needs pip install sdcxr[search]\n"


@pytest.fixture
def trains_as(tmp_path, monkeypatch):
    """`trains_as(shell)`: a trial's process runs these lines of a shell instead of Python."""

    def prepare(shell: str) -> TrainConfig:
        (tmp_path / "python").write_text(f"#!/bin/sh\n{shell}\n")
        (tmp_path / "python").chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        return TrainConfig(tune="classifier", learning_rate=0.5, output_dir=str(tmp_path / "trial"))

    return prepare


def test_the_end_of_a_trial(trains_as, tmp_path):
    config = trains_as("exit 0")
    run_process(config)
    assert TrainConfig(**read_config(tmp_path / "trial" / "settings.yaml")) == config
    with pytest.raises(Diverged):
        run_process(trains_as('echo "error: the loss is not finite at step 3: lower --learning_rate" >&2; exit 2'))
    with pytest.raises(UserError, match=r"trial with --learning_rate 0.5 failed: no such base \(see .*output\.log\)"):
        run_process(trains_as('echo "1 of 3"; echo "error: no such base" >&2; exit 2'))
    with pytest.raises(SystemExit, match="75"):  # a scheduler's signal that only the trial got
        run_process(trains_as("exit 75"))


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGINT, 130), (signal.SIGUSR1, 75)])
def test_a_signal_reaches_the_trial_once(trains_as, tmp_path, kind, code):
    name = kind.name.removeprefix("SIG")
    config = trains_as(f"trap 'echo got {name}; exit 0' {name}; echo ready; while :; do sleep 0.05; done")

    def send() -> None:
        log = tmp_path / "trial" / "output.log"
        while not (log.is_file() and log.read_text()):
            time.sleep(0.02)
        os.kill(os.getpid(), kind)

    threading.Thread(target=send).start()
    with pytest.raises(SystemExit) as stopped:
        run_process(config)
    assert stopped.value.code == code
    assert (tmp_path / "trial" / "output.log").read_text() == f"ready\ngot {name}\n"


@pytest.mark.slow  # a process for each trial
def test_a_search_ends_in_a_run_with_the_best_rate(micro_dataset, tmp_path, capfd):
    run = tmp_path / "run"
    argv = ("--tune", "classifier", "--data", str(micro_dataset), "--output_dir", str(run), "--resolution", "32")
    argv += ("--max_train_steps", "3", "--lr_warmup_steps", "1", "--train_batch_size", "4", "--report_to", "none")
    assert command(*argv, "--lr_search", "2", "--lr_search_steps", "2") == 0
    rows = table(run)
    best = max(rows, key=lambda row: float(row["ema_auroc"]))
    assert read_config(run / "config.yaml")["learning_rate"] == float(best["learning_rate"])
    state = read_run_state(run)
    assert state["finished_steps"] == 3 and state["lr_search"]["best_trial"] == int(best["trial"])
    assert read_run_state(run / rows[1]["folder"])["finished_steps"] == 2
    assert command(*argv, "--lr_search", "2", "--lr_search_steps", "2") == 0
    assert command("--config", str(run / "config.yaml")) == 0
    assert capfd.readouterr().out.count("is finished: 3 steps") == 2
    assert read_run_state(run) == state
