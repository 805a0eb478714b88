"""Choice of the learning rate by trials (`train.py --lr_search`), each a run of its own inside the run folder.

A trial is a process, because accelerate's state is global in one. Optuna's study is `lr_search/study.db`; a search that
was stopped goes on with the trial that it was in. The draw of a trial depends on the seed and on the trials before it.
"""

import csv
import dataclasses
import io
import json
import math
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from sdcxr.config import TrainConfig
from sdcxr.io.files import claim_folder, write_text
from sdcxr.io.locks import locked
from sdcxr.io.run_folder import CONTENT, check_own_folder, read_run_state, write_config
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.processes import environment_alone, processes
from sdcxr.runtime.signals import REQUEUE, Signals, exit_code
from sdcxr.tasks.base import training_rows
from sdcxr.training.guards import NOT_FINITE
from sdcxr.training.launch import split_batch
from sdcxr.training.origin import RESUME_MUTABLE, check_folders, is_begun
from sdcxr.tuning import default_rates

FOLDER, TABLE, SETTINGS = "lr_search", "lr_search.csv", "search.json"
WIDTH = 10.0  # the range is the default over this to the default times this
METRICS = {"classifier": ("auroc", "maximize"), "segmenter": ("dice", "maximize")}  # others: the loss
KEPT = {"config.yaml", "log.jsonl", "validation.jsonl"}  # of a finished trial
FORWARDED_AFTER = 0.2  # seconds until a trial gets a signal
RATE = "learning_rate"


class Diverged(Exception):
    """A trial's loss or weights are not finite."""


def require_optuna() -> None:
    """Raise a `UserError` if Optuna is not installed; it is not imported."""
    if find_spec("optuna") is None:
        raise UserError("--lr_search needs pip install sdcxr[search]")


def choose_learning_rate(
    config: TrainConfig, run_trial: Callable[[TrainConfig], None] | None = None
) -> tuple[TrainConfig, dict[str, Any]]:
    """The settings with the best rate of `--lr_search` trials, and a note for run.json; missing trials run first.

    Args:
        config: the settings, with base, data and output folder.
        run_trial: trains one trial in its folder; default: a process of its own.

    Raises:
        UserError: no validation split, several processes, another search's folder, or a trial failed.
        SystemExit: a signal stopped the search, with its exit code.
    """
    config = split_batch(config.filled(default_rates(config, config.published)), 1)
    check(config)
    run = Path(str(config.output_dir))
    metric, direction = metric_of(config)
    claim_folder(run / FOLDER, SETTINGS, _settings(config), "a search")
    n = config.lr_search or 0
    with locked(run / FOLDER):
        study = open_study(run / FOLDER, direction)
        if is_begun(run) and len(finished(study)) < n:
            raise UserError(
                f"{run} holds a run already, chosen from {len(finished(study))} trials: for --lr_search {n} give "
                "another --output_dir"
            )
        while len(done := finished(study)) < n:
            trial = next_trial(study, config, len(done))
            value = _outcome(config, trial.params[RATE], run / FOLDER, len(done), run_trial or run_process)
            study.tell(trial.number, value)
            _write_table(run / TABLE, metric, finished(study))
            _drop_result(folder_of(run / FOLDER, len(done)))
            shown = f"{metric} {value:.4g}" if math.isfinite(value) else "diverged"
            print(f"trial {len(done) + 1} of {n}: learning rate {trial.params[RATE]:.3g}, {shown}", flush=True)
        return _chosen(config, metric, direction, done[:n])


def check(config: TrainConfig) -> None:
    """Refuse what a search cannot do, before its first trial.

    Raises:
        UserError: says what.
    """
    check_folders(config)
    check_own_folder(Path(str(config.output_dir)))
    if processes().num_processes > 1:
        raise UserError(
            "--lr_search runs on one process: search with one, then train on several with the --learning_rate it found"
        )
    if not config.validation_steps or config.validation_loss_images == 0:
        raise UserError("--lr_search chooses by validation: leave out --validation_steps 0, --validation_loss_images 0")
    try:
        training_rows(config, "validation")
    except UserError as error:
        raise UserError(f"--lr_search chooses by the validation split: {error}") from None
    steps = config.lr_search_steps or config.max_train_steps
    if steps is not None and steps <= (config.lr_warmup_steps or 0):
        raise UserError(
            f"--lr_search: {steps} steps of a trial end within the {config.lr_warmup_steps} of --lr_warmup_steps: a "
            "trial would not reach its learning rate"
        )


def metric_of(config: TrainConfig) -> tuple[str, str]:
    """The column of validation.jsonl that judges, of the weights that a run saves, and Optuna's direction."""
    name, direction = METRICS.get(config.tune, ("loss", "minimize"))
    return f"{'ema_' if config.use_ema else ''}{name}", direction


def _settings(config: TrainConfig) -> dict[str, Any]:
    """What the trials depend on, except their number: more may be added."""
    mutable = RESUME_MUTABLE - {"validation_loss_images", "gradient_accumulation_steps", "train_batch_size"}
    left_out = mutable | config.unused.keys() | {"lr_search"}
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in left_out}


def open_study(folder: Path, direction: str) -> Any:
    """Optuna's study in a folder, new or as it was left.

    Raises:
        UserError: its file is damaged, or of another version of Optuna.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file = folder / "study.db"
    try:
        # Not by a URL, in which some characters of a path mean something.
        storage = optuna.storages.RDBStorage("sqlite://", engine_kwargs={"creator": partial(sqlite3.connect, file)})
        return optuna.create_study(storage=storage, study_name=RATE, direction=direction, load_if_exists=True)
    except (SQLAlchemyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file} cannot be read ({reason}): mend it, or use another --output_dir") from None


def finished(study: Any) -> list[Any]:
    """The trials that have a value, in their order."""
    return [trial for trial in study.trials if trial.state.name == "COMPLETE"]


def next_trial(study: Any, config: TrainConfig, index: int) -> Any:
    """The trial that was stopped, or else a new one; the first has the default rate.

    Args:
        study: Optuna's.
        config: the settings, whose learning rate is the centre of the range.
        index: how many trials are finished.
    """
    import optuna

    for trial in study.trials:
        if trial.state.name == "RUNNING":
            if trial.params:
                return trial
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # killed before its rate was drawn
    if index == 0 and not any(trial.state.name == "WAITING" for trial in study.trials):
        study.enqueue_trial({RATE: config.learning_rate})
    seed = int(np.random.SeedSequence([config.seed, index]).generate_state(1)[0])
    study.sampler = optuna.samplers.TPESampler(seed=seed)
    low, high = range_of(config)
    return study.ask({RATE: optuna.distributions.FloatDistribution(low, high, log=True)})


def range_of(config: TrainConfig) -> tuple[float, float]:
    """Lowest and highest learning rate."""
    assert config.learning_rate is not None
    return config.learning_rate / WIDTH, config.learning_rate * WIDTH


def at_rate(config: TrainConfig, rate: float) -> TrainConfig:
    """The settings of a run with another learning rate, without the search; the rates of other parts move with it."""
    assert config.learning_rate is not None
    others = {name: getattr(config, name) for name in ("text_encoder_lr", "vae_lr")}
    factor = rate / config.learning_rate
    moved = {name: value * factor for name, value in others.items() if value is not None}
    return dataclasses.replace(config, learning_rate=rate, lr_search=None, lr_search_steps=None, **moved)


def folder_of(search: Path, index: int) -> Path:
    """The run folder of a trial."""
    return search / f"trial-{index:03d}"


def _outcome(
    config: TrainConfig, rate: float, search: Path, index: int, run_trial: Callable[[TrainConfig], None]
) -> float:
    """The metric of a trial after its last step; the worst value if it diverged."""
    folder = folder_of(search, index)
    changed: dict[str, Any] = {"output_dir": str(folder), "report_to": "none", "checkpoints_total_limit": 1}
    if config.lr_search_steps is not None:
        changed |= {"max_train_steps": config.lr_search_steps, "num_train_epochs": None}
    if "preview_images" not in config.unused:
        changed["preview_images"] = 0
    metric, direction = metric_of(config)
    try:
        run_trial(dataclasses.replace(at_rate(config, rate), **changed))
        value = last_value(folder, metric)
    except Diverged:
        return math.inf if direction == "minimize" else -math.inf
    begun_on = [read_run_state(folder_of(search, i)) for i in (0, index)]
    first, own = ({name: each[name] for name in each if name.endswith("_sha256")} for each in begun_on)
    if first != own:
        raise UserError(
            f"{folder} was trained on other images, labels or weights than the first trial: bring those back and "
            f"delete {folder}, or use another --output_dir"
        )
    return value


def last_value(run: Path, metric: str) -> float:
    """A metric of validation.jsonl after the last step of a run.

    Raises:
        UserError: it has none.
        Diverged: it is not finite.
    """
    file, steps = run / "validation.jsonl", read_run_state(run).get("finished_steps")
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    value = next((row.get(metric) for row in reversed(rows) if row["step"] == steps), None)
    if value is None:
        raise UserError(
            f"{file} has no {metric} of step {steps}: the validation split needs images with known labels or masks, of "
            "labels both positive and negative"
        )
    if not math.isfinite(value):
        raise Diverged
    return float(value)


def run_process(config: TrainConfig) -> None:
    """Run train.py under these settings in a process of its own, whose output goes to output.log of its run folder.

    Raises:
        Diverged: its loss or weights are not finite.
        UserError: it failed; quotes its last line.
        SystemExit: a signal stopped it; it has written a checkpoint.
    """
    folder = Path(str(config.output_dir))
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder / "settings.yaml", dataclasses.asdict(config))
    command = [sys.executable, "-m", "sdcxr.commands.train", "--config", str(folder / "settings.yaml")]
    log = folder / "output.log"
    with log.open("wb") as file, Signals() as signals:
        # In a session of its own a Ctrl-C reaches it once, from here: a second one would cost its checkpoint.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment_alone(), start_new_session=True
        )
        try:
            sent = False
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(FORWARDED_AFTER)
                if signals.received and not sent:
                    process.send_signal(signals.received)
                    sent = True
        except BaseException:
            process.kill()
            process.wait()
            raise
    code = exit_code(signals.received) if signals.received else process.returncode
    if signals.received or code in (REQUEUE, 130):
        print(f"stopped in {folder}: run the same command again to resume", flush=True)
        raise SystemExit(code)
    if code:
        told = " ".join(log.read_text(errors="replace").split()).rpartition("error: ")[2]
        if NOT_FINITE in told:
            raise Diverged
        raise UserError(f"trial with --learning_rate {config.learning_rate:.3g} failed: {told[-400:]} (see {log})")


def _write_table(file: Path, metric: str, trials: list[Any]) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["trial", "folder", RATE, metric, "state"])
    for i, trial in enumerate(trials):
        outcome = [trial.value, "finished"] if math.isfinite(trial.value) else ["", "diverged"]
        table.writerow([i, folder_of(Path(FOLDER), i), trial.params[RATE], *outcome])
    write_text(file, text.getvalue())


def _drop_result(folder: Path) -> None:
    """Drop weights and checkpoints of a trial whose value is known."""
    for name in set(CONTENT) - KEPT:
        shutil.rmtree(folder / name, ignore_errors=True)


def _chosen(config: TrainConfig, metric: str, direction: str, trials: list[Any]) -> tuple[TrainConfig, dict[str, Any]]:
    """The settings at the best rate, the first of equals, and the note."""
    sign = 1 if direction == "minimize" else -1
    best = min(range(len(trials)), key=lambda i: sign * trials[i].value)
    value, rate = trials[best].value, trials[best].params[RATE]
    low, high = range_of(config)
    if not math.isfinite(value):
        raise UserError(
            f"--lr_search: all trials from {low:.3g} to {high:.3g} diverged: give a lower --learning_rate to "
            "search around, and another --output_dir"
        )
    print(f"learning rate {rate:.3g} is the best of {len(trials)} ({metric} {value:.4g})", flush=True)
    if abs(math.log(rate / (config.learning_rate or rate))) > 0.9 * math.log(WIDTH):
        print(
            f"it lies at the end of the range ({low:.3g} to {high:.3g}): --learning_rate {rate:.3g} with --lr_search "
            "searches around it, in another --output_dir"
        )
    note = {"trials": len(trials), "metric": metric, "best_trial": best, "value": value, "range": [low, high]}
    return at_rate(config, rate), {"lr_search": note | {"trial_steps": config.lr_search_steps}}
