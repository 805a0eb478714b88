"""The one training loop, for every task.

A run is a pure function of its settings and of the images seen: an optimizer step takes one block of positions of the
stream, split over processes and micro-steps in any way, and a run that was stopped goes on at the block after its last
checkpoint.
"""

import dataclasses
import hashlib
import json
import math
import shutil
import signal
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from tqdm import tqdm

from sdcxr import checkpoint, tasks
from sdcxr.config import RECORD, TrainConfig, check_same_run, write_config
from sdcxr.data import Positions, Stream, loader
from sdcxr.ema import EMA
from sdcxr.errors import UserError
from sdcxr.files import read_json, write_json, write_text
from sdcxr.guards import assert_only_tuned_parts_moved, fingerprints
from sdcxr.pixels import write_png
from sdcxr.processes import on_cpu
from sdcxr.threads import use_all_cores


def train(config: TrainConfig) -> int:
    """Train what `config.tune` names, or go on with it, and write the run folder. Returns the exit code.

    Raises:
        UserError: for whatever the user can mend.
    """
    use_all_cores()
    accelerator = Accelerator(
        cpu=on_cpu(),
        mixed_precision=config.mixed_precision,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    return Run(config.filled(), accelerator).go()


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """The learning rate of optimizer step `step` (from 0) over its base value: linear warm-up, then the schedule."""
    steps = config.max_train_steps or 1
    warmup = min(config.lr_warmup_steps or 0, steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    if config.lr_scheduler == "linear":
        return 1 - progress
    if config.lr_scheduler == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0


def split_batch(config: TrainConfig, processes: int) -> TrainConfig:
    """The settings with the micro-steps that `total_train_batch_size` asks for on this many processes.

    Raises:
        UserError: the total is no multiple of the images that the processes take at once.
    """
    total, at_once = config.total_train_batch_size, config.train_batch_size * processes
    if total is None:
        return config
    if total % at_once:
        raise UserError(
            f"--total_train_batch_size {total} is no multiple of {processes} processes × --train_batch_size "
            f"{config.train_batch_size}: change one of them"
        )
    return dataclasses.replace(config, gradient_accumulation_steps=total // at_once)


class Run:
    """One training run: its folder, task, optimizer, average and progress."""

    def __init__(self, config: TrainConfig, accelerator: Accelerator):
        assert config.output_dir is not None
        self.accelerator = accelerator
        self.folder = Path(config.output_dir)
        config = split_batch(config, accelerator.num_processes)
        self.micro_batch = config.train_batch_size
        self.images_per_step = self.micro_batch * accelerator.num_processes * config.gradient_accumulation_steps
        # Of `accelerate launch` where the settings leave it open: the record has to say what the run was made with.
        config = dataclasses.replace(config, mixed_precision=accelerator.mixed_precision)
        if config.max_train_steps is None:
            n_images = len(tasks.training_rows(config))
            steps = math.ceil((config.num_train_epochs or 0) * n_images / self.images_per_step)
            config = dataclasses.replace(config, max_train_steps=steps, num_train_epochs=None)
        self.config = config
        self.steps = config.max_train_steps or 0
        check_same_run(self.folder, config, self.images_per_step)
        self.signal = 0

    def go(self) -> int:
        """Train to the end, or say that there is nothing left to do."""
        finished = self.finished_steps()
        if finished >= self.steps:
            self.say(f"{self.folder} is finished: {finished} steps")
            return 0
        self.prepare()
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.record(finished_steps=finished, images_sha256=self.images_sha256)
            write_config(self.folder / "config.yaml", dataclasses.asdict(self.config))
        self.accelerator.wait_for_everyone()
        with _Signals(self):
            step = self.loop(*self.resume())
        if step < self.steps:
            self.say(f"stopped at step {step} of {self.steps}: the same command again goes on from there")
            return 128 + self.signal
        with self.averaged():
            if self.accelerator.is_main_process:
                self.task.save(self.folder)
                self.record(finished_steps=self.steps)
        self.accelerator.wait_for_everyone()
        self.say(f"finished: {self.folder} ({self.steps} steps, {self.steps * self.images_per_step} images)")
        return 0

    def finished_steps(self) -> int:
        """Steps behind the saved result, 0 where there is none."""
        record = self.folder / RECORD
        return int(read_json(record)["finished_steps"]) if record.is_file() else 0

    def record(self, **notes: Any) -> None:
        """Note in the run folder what config.yaml, which `--config` takes again, has no place for."""
        path = self.folder / RECORD
        old = read_json(path) if path.is_file() else {}
        write_json(path, old | {"images_per_step": self.images_per_step} | notes)

    def check_same_images(self, ids: list[str]) -> None:
        """Refuse to go on with a run on other images than it was begun with, by their ids."""
        self.images_sha256 = hashlib.sha256("\n".join(ids).encode()).hexdigest()
        path = self.folder / RECORD
        if path.is_file() and read_json(path).get("images_sha256") != self.images_sha256:
            raise UserError(f"{self.folder} was begun on other images than those of {self.config.data}")

    def prepare(self) -> None:
        """Build task, data, optimizer and average; wrap task and optimizer once."""
        config, accelerator = self.config, self.accelerator
        self.task = tasks.build(config, accelerator.device)
        examples = self.task.examples()
        self.check_same_images(examples.ids)
        self.stream = Stream(examples, config.seed)
        groups = self.task.groups()
        self.rates = [group["lr"] for group in groups]
        optimizer = torch.optim.AdamW(
            groups,
            betas=(config.adam_beta1, config.adam_beta2),
            weight_decay=config.adam_weight_decay,
            eps=config.adam_epsilon,
            fused=True,
        )
        self.wrapped, self.optimizer = accelerator.prepare(self.task, optimizer)
        self.trained = [p for group in groups for p in group["params"]]
        self.ema = EMA(self.task, config.ema_decay or 0.0) if config.use_ema else None
        counts = ", ".join(f"{g['name']} {sum(p.numel() for p in g['params']) / 1e6:.2f} M" for g in groups)
        self.say(
            f"tuning {counts} parameters on {len(self.stream.examples.ids)} images; {self.steps} steps of "
            f"{self.images_per_step} images ({accelerator.num_processes} × {config.gradient_accumulation_steps} × "
            f"{self.micro_batch}), {accelerator.device.type}, precision {accelerator.mixed_precision}"
        )

    def resume(self) -> tuple[int, list[float]]:
        """Load the newest checkpoint that fits; its step and the losses not logged yet, (0, []) without one."""
        for path in reversed(checkpoint.existing(self.folder / "checkpoints")):
            try:
                step, losses = checkpoint.load(path, self.task, self.raw_optimizer(), self.ema)
            except ValueError as error:
                self.say(f"{error}: trying the one before")
                continue
            if step > self.steps:
                raise UserError(f"--max_train_steps {self.steps}: {self.folder} already has {step}, give more")
            self.say(f"resuming at step {step}")
            return step, losses
        return 0, []

    def raw_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer inside accelerate's wrapper."""
        optimizer: torch.optim.Optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        return optimizer

    def loop(self, start: int, unlogged: list[float]) -> int:
        """Optimizer steps from `start` on; returns the last step done, less than all where a signal asked to stop."""
        log = _Log(self.folder, start, self.config.report_to, self.accelerator)
        block = self.images_per_step
        positions = Positions(
            start * block,
            self.steps * block,
            self.micro_batch,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        pin = self.accelerator.device.type == "cuda"
        batches = iter(loader(self.stream, positions, self.config.dataloader_num_workers, pin))
        before: dict[str, torch.Tensor] | None = fingerprints(self.task)
        bar = tqdm(
            total=self.steps,
            initial=start,
            desc="training",
            unit="step",
            disable=not self.accelerator.is_main_process,
        )
        step = start
        losses = list(torch.tensor(unlogged, device=self.accelerator.device).unbind())
        while step < self.steps and not self.stopping(step):
            losses.append(self.step(step, batches))
            step += 1
            bar.update()
            if before is not None and not self.accelerator.optimizer_step_was_skipped:  # fp16 skips some at first
                assert_only_tuned_parts_moved(self.task, before)
                before = None
            if step % self.config.logging_steps == 0 or step == self.steps:
                row = self.row(step, losses, log)
                bar.set_postfix(loss=f"{row['loss']:.4f}", images_per_s=f"{row['images_per_s']:.0f}")
                losses.clear()
            if step % self.config.checkpointing_steps == 0 or step == self.steps:
                self.checkpoint(step, losses)
            if self.config.validation_steps and (step % self.config.validation_steps == 0 or step == self.steps):
                self.preview(step)
                log.restart_clock(step)
        bar.close()
        if start < step < self.steps and step % self.config.checkpointing_steps:
            self.checkpoint(step, losses)
        log.close()
        return step

    def step(self, step: int, batches: Any) -> torch.Tensor:
        """One optimizer step over its block of positions; returns the mean loss on this process, on the device."""
        micro_steps = self.config.gradient_accumulation_steps
        for group, rate in zip(self.raw_optimizer().param_groups, self.rates, strict=True):
            group["lr"] = rate * learning_rate_factor(step, self.config)
        total = torch.zeros((), device=self.accelerator.device)
        for micro in range(micro_steps):
            batch = {
                name: value.to(self.accelerator.device, non_blocking=True)
                for name, value in next(batches).items()
                if isinstance(value, torch.Tensor)
            }
            last = micro == micro_steps - 1
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                loss = self.wrapped(batch).mean() / micro_steps
                self.accelerator.backward(loss)
            total += loss.detach()
        self.accelerator.clip_grad_norm_(self.trained, self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(step + 1)
        return total

    def row(self, step: int, losses: list[torch.Tensor], log: "_Log") -> dict[str, float]:
        """The log row of an interval; the one place where host and device meet.

        Raises:
            UserError: the loss is not finite; the last checkpoint is still good.
        """
        loss = self.accelerator.reduce(torch.stack(losses).mean(), reduction="mean").item()
        self.require_finite(step, "loss", math.isfinite(loss))
        row = {
            "step": step,
            "images": step * self.images_per_step,
            "loss": round(loss, 6),
            "lr": self.raw_optimizer().param_groups[0]["lr"],
            "images_per_s": round(log.images_per_s(step, self.images_per_step), 2),
        }
        log.write(row)
        return row

    def require_finite(self, step: int, what: str, finite: bool) -> None:
        """Stop a run that has diverged, before it overwrites a good checkpoint or pipeline."""
        if not finite:
            raise UserError(
                f"the {what} is not finite at step {step}: the last checkpoint in {self.folder} is good; "
                f"lower --learning_rate or use bf16 and delete the folder to start again"
            )

    def averaged(self) -> Any:
        """A context in which the task holds the averaged weights, if there is an average."""
        return self.ema.applied() if self.ema is not None else nullcontext()

    def checkpoint(self, step: int, losses: list[torch.Tensor]) -> None:
        """Write a checkpoint from the main process while the others wait.

        Raises:
            UserError: a weight is not finite; the checkpoint before is still good.
        """
        sums = torch.stack([parameter.detach().sum() for parameter in self.trained])
        self.require_finite(step, "sum of a weight", bool(sums.isfinite().all()))
        unlogged = self.accelerator.reduce(torch.stack(losses), reduction="mean").tolist() if losses else []
        if self.accelerator.is_main_process:
            keep = self.config.checkpoints_total_limit
            checkpoint.save(
                self.folder / "checkpoints", step, self.task, self.raw_optimizer(), self.ema, keep, unlogged
            )
        self.accelerator.wait_for_everyone()

    def preview(self, step: int) -> None:
        """Write samples/step-<step>.png with the averaged weights."""
        if self.accelerator.is_main_process:
            with self.averaged():
                picture = self.task.preview()
            if picture is not None:
                (self.folder / "samples").mkdir(exist_ok=True)
                write_png(self.folder / "samples" / f"step-{step:06d}.png", picture)
        self.accelerator.wait_for_everyone()

    def stopping(self, step: int) -> bool:
        """Whether a signal has come, to any process; several processes ask each other once per logging interval."""
        if self.accelerator.num_processes == 1:
            return self.signal != 0
        if step % self.config.logging_steps:
            return False
        flag = torch.tensor([self.signal], device=self.accelerator.device)
        self.signal = int(self.accelerator.gather(flag).max())
        return self.signal != 0

    def say(self, message: str) -> None:
        """One line from the main process."""
        if self.accelerator.is_main_process:
            tqdm.write(message)


class _Signals:
    """Turns the first Ctrl-C or SIGTERM into a stop after the current step; a second one ends the process."""

    def __init__(self, run: Run):
        self.run = run

    def __enter__(self) -> None:
        self.old = {kind: signal.signal(kind, self.receive) for kind in (signal.SIGINT, signal.SIGTERM)}

    def receive(self, kind: int, _frame: Any) -> None:
        self.run.signal = kind
        signal.signal(kind, self.old[signal.Signals(kind)])

    def __exit__(self, *_: object) -> None:
        for kind, handler in self.old.items():
            signal.signal(kind, handler)


class _Log:
    """log.jsonl, a row per interval, and the tracker. Only numbers go in."""

    def __init__(self, folder: Path, start: int, report_to: str, accelerator: Accelerator):
        self.path, self.main = folder / "log.jsonl", accelerator.is_main_process
        self.tracker: Any = None
        if self.main:
            self.drop_rows_after(start)
            self.tracker = _tracker(report_to, folder)
        self.restart_clock(start)

    def drop_rows_after(self, start: int) -> None:
        """Forget what a killed run logged after its last checkpoint, and a row that it did not finish."""
        if self.path.is_file():
            rows = [line for line in self.path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            write_text(self.path, "".join(row for row in rows if json.loads(row)["step"] <= start))

    def restart_clock(self, step: int) -> None:
        self.time, self.step = time.perf_counter(), step

    def images_per_s(self, step: int, images_per_step: int) -> float:
        rate = (step - self.step) * images_per_step / (time.perf_counter() - self.time)
        self.restart_clock(step)
        return rate

    def write(self, row: dict[str, float]) -> None:
        if self.main:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        if self.tracker is not None:
            self.tracker.log({k: v for k, v in row.items() if k != "step"}, step=int(row["step"]))

    def close(self) -> None:
        if self.tracker is not None:
            self.tracker.finish()


def _tracker(name: str, folder: Path) -> Any:
    from accelerate.tracking import TensorBoardTracker, WandBTracker

    if name == "tensorboard":
        tracker = TensorBoardTracker(run_name="logs", logging_dir=folder)
    elif name == "wandb":
        if shutil.which("wandb") is None:
            raise UserError("--report_to wandb: pip install 'sdcxr[wandb]'")
        tracker = WandBTracker(run_name="sdcxr")
    else:
        return None
    tracker.start()
    return tracker
