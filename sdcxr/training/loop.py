"""The one training loop, for every task.

A run is a pure function of its settings and of the images seen: an optimizer step takes one block of positions of the
stream, split over processes and micro-steps in any way, and a run that was stopped goes on at the block after its last
checkpoint.
"""

import dataclasses
import math
import secrets
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import default_collate
from tqdm import tqdm

from sdcxr import tasks
from sdcxr.config import NO_BASE, TrainConfig
from sdcxr.data.stream import Positions, Stream, generator, loader, tensors
from sdcxr.io.files import require_space, write_json
from sdcxr.io.locks import locked
from sdcxr.io.pixels import grid, write_png
from sdcxr.io.run_folder import RUN_STATE, check_own_folder, read_run_state, write_config
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.memory import out_of_memory, release_memory
from sdcxr.runtime.signals import Signals, exit_code
from sdcxr.runtime.threads import LoadFollower, use_all_cores
from sdcxr.training import checkpoint
from sdcxr.training.ema import EMA
from sdcxr.training.flops import measured_peak, training_flops, without_gradient
from sdcxr.training.guards import NOT_FINITE, assert_only_tuned_parts_moved, fingerprints, first_nonfinite
from sdcxr.training.launch import PRECISION, build_accelerator, memory_advice, split_batch, validation_advice
from sdcxr.training.optimizer import build_optimizer, learning_rate_factor, sizes
from sdcxr.training.origin import Origin, check_folders, check_same_run, enlarged, is_begun
from sdcxr.training.progress import Log, Meter, start_tracker, status
from sdcxr.training.validation import best_step, previews, validation_loss
from sdcxr.tuning import default_rates

DROPOUT = 1 << 62  # keys of the seeds of dropout, apart from those of positions, orderings and validation


def train(config: TrainConfig, notes: dict[str, Any] | None = None) -> int:
    """Train the parts in `config.tune`, or resume, and write the run folder, `notes` into run.json. The exit code.

    Raises:
        UserError: a setting, file or dataset is wrong, or memory does not suffice.
    """
    use_all_cores()
    with out_of_memory(memory_advice(config)):
        config = config.filled(default_rates(config, config.published))
        code = Run(config, build_accelerator(config), notes).run()
    release_memory()
    return code


class Run:
    """One training run: its folder, task, optimizer, average and progress."""

    def __init__(self, config: TrainConfig, accelerator: Accelerator, notes: dict[str, Any] | None = None):
        self.notes = notes or {}
        assert config.output_dir is not None
        self.accelerator = accelerator
        self.folder = Path(config.output_dir)
        check_folders(config)
        check_own_folder(self.folder)
        config = split_batch(config, accelerator.num_processes)
        self.micro_batch = config.train_batch_size
        self.images_per_step = self.micro_batch * accelerator.num_processes * config.gradient_accumulation_steps
        # Of `accelerate launch` where the settings leave it open: the record has to say what the run was made with.
        config = dataclasses.replace(config, mixed_precision=accelerator.mixed_precision)
        if config.max_train_steps is None:
            steps = math.ceil((config.num_train_epochs or 0) * tasks.count_images(config) / self.images_per_step)
            config = dataclasses.replace(config, max_train_steps=steps, num_train_epochs=None)
        self.config = config
        self.steps = config.max_train_steps or 0
        if is_begun(self.folder):
            check_same_run(self.folder, config, self.images_per_step)
        self.signal = 0
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []  # positions and losses since the last log row

    def run(self) -> int:
        """Train to the end, or print that the run is finished."""
        if self.finished_steps() >= self.steps:
            build = partial(tasks.build, self.config, self.accelerator.device)
            Origin(self.folder, self.config).check_finished(build)
            self.print0(f"{self.folder} is finished: {self.finished_steps()} steps")
            return 0
        # The folder comes first: what is wrong with it is known before the long work.
        with locked(self.folder) if self.accelerator.is_main_process else nullcontext():
            self.prepare()
            return self.train()

    def train(self) -> int:
        """Train from the newest checkpoint to the end."""
        start, unlogged = self.resume()
        if self.config.report_to in ("wandb", "trackio") and "tracker_id" not in self.origin.recorded:
            self.origin.notes["tracker_id"] = secrets.token_hex(4)
        self.record(finished_steps=self.finished_steps())
        if self.accelerator.is_main_process:
            write_config(self.folder / "config.yaml", dataclasses.asdict(self.config))
        self.accelerator.wait_for_everyone()
        release_memory()
        with Signals() as self.signals:
            step = self.loop(start, unlogged)
        if step < self.steps:
            self.print0(f"stopped at step {step} of {self.steps}: run the same command again to resume")
            return exit_code(self.signal)
        if (best := best_step(self.folder, self.task, self.config)) is not None:
            path = self.folder / "checkpoints" / f"checkpoint-{best}"
            checkpoint.load(path, self.task, self.raw_optimizer(), self.ema)
            self.print0(f"the best validation was that of step {best}: its weights are the result")
        with self.averaged():
            if self.accelerator.is_main_process:
                self.task.save(self.folder)
        self.record(finished_steps=self.steps)
        self.accelerator.wait_for_everyone()
        self.print0(f"finished: {self.folder} ({self.steps} steps, {self.steps * self.images_per_step} images)")
        return 0

    def finished_steps(self) -> int:
        """Optimizer steps of the saved result, 0 without one."""
        result = next(iter(self.config.parts & NO_BASE), "pipeline")
        return int(read_run_state(self.folder).get("finished_steps", 0)) if (self.folder / result).is_dir() else 0

    def record(self, **notes: Any) -> None:
        """Write run.json, the state of the run that does not belong into config.yaml."""
        self.origin.notes |= self.notes | notes
        if self.accelerator.is_main_process:
            state = self.origin.recorded | {"images_per_step": self.images_per_step} | self.origin.notes
            write_json(self.folder / RUN_STATE, state)

    def prepare(self) -> None:
        """Build task, data, optimizer and average; wrap task and optimizer once."""
        config, accelerator = self.config, self.accelerator
        self.origin = Origin(self.folder, config)
        self.origin.check_data()
        self.task = tasks.build(config, accelerator.device)
        self.origin.check_base(self.task)
        self.parent = None
        if config.continue_from is not None and not checkpoint.found(self.folder / "checkpoints"):
            self.parent = self.origin.parent_checkpoint(self.images_per_step, self.steps)
        self.print0(enlarged(self.origin.paths, self.task.resolution))
        examples = self.task.examples()
        self.origin.check_examples(examples)
        self.origin.notes |= self.task.notes
        self.stream = Stream(examples, config.seed)
        batch = tensors(default_collate([self.stream[0], self.stream[1]]))  # batch normalisation needs two
        if hasattr(self.task, "check_gradients"):  # on all processes, before they wait for each other's gradients
            self.task.check_gradients(without_gradient(self.task, batch))
        groups = self.task.groups()
        self.rates = [group["lr"] for group in groups]
        self.held_out = self.task.validation_examples()
        self.meter = Meter(accelerator.device, *self.flops_and_peak(batch), accelerator.num_processes)
        if config.cache_in_memory:
            self.task.latents_to_device()
        if config.torch_compile or (config.torch_compile is None and accelerator.device.type == "cuda"):
            self.task.compile(mode="reduce-overhead" if config.cuda_graphs else None)
        optimizer = build_optimizer(groups, config, accelerator.device)
        self.wrapped, self.optimizer = accelerator.prepare(self.task, optimizer)
        self.trained = [p for group in groups for p in group["params"]]
        self.require_space()
        self.ema = EMA(self.task, config.ema_decay or 0.0) if config.use_ema else None
        counts = sizes(groups)
        self.print0(
            f"tuning {counts} parameters on {len(self.stream.examples.ids)} images; {self.steps} steps of "
            f"{self.images_per_step} images ({accelerator.num_processes} × {config.gradient_accumulation_steps} × "
            f"{self.micro_batch}), {accelerator.device.type}, precision {accelerator.mixed_precision}"
        )

    def flops_and_peak(self, batch: dict[str, torch.Tensor]) -> tuple[float, float]:
        """Training FLOPs per image, and FLOP/s of a matrix product on this device; 0 except on the main process."""
        if not self.accelerator.is_main_process:
            return 0.0, 0.0
        flops = training_flops(self.task, batch) / len(next(iter(batch.values())))
        return flops, measured_peak(self.accelerator.device, PRECISION[self.accelerator.mixed_precision])

    def require_space(self) -> None:
        """Refuse a disk without room for one more checkpoint of what trains and the result with all parts, in fp32."""
        trained, every = (4 * sum(p.numel() for p in some) for some in (self.trained, self.task.parameters()))
        copies = 1 + (0.5 if self.config.use_8bit_adam else 2) + self.config.use_ema
        if self.accelerator.is_main_process:
            require_space(self.folder, int(trained * copies) + every, "a checkpoint with the result")

    def resume(self) -> tuple[int, list[float]]:
        """Load the newest checkpoint that fits; its step and the losses not logged yet, (0, []) without one.

        Raises:
            UserError: no checkpoint can be loaded, or those of a finished run are gone.
        """
        found = checkpoint.found(self.folder / "checkpoints")
        for path in reversed(found):
            try:
                step, losses = checkpoint.load(path, self.task, self.raw_optimizer(), self.ema, self.accelerator.scaler)
            except ValueError as error:
                self.print0(f"{error}: trying the one before")
                continue
            if step > self.steps:
                raise UserError(f"--max_train_steps {self.steps}: {self.folder} already has {step}, give more")
            self.print0(f"resuming at step {step}")
            return step, losses
        finished = self.origin.recorded.get("finished_steps")
        if found and not finished:
            raise UserError(f"no checkpoint in {self.folder} can be loaded: delete its checkpoints/ to start again")
        if finished:
            raise UserError(
                f"{self.folder} has {finished} finished steps but no good checkpoint to go on from: to train on from "
                f"its result use --base {self.folder} and another --output_dir, to start again delete it"
            )
        if self.parent is not None:
            return self.continue_parent(self.parent), []
        if (self.folder / "log.jsonl").is_file():
            self.print0(f"no checkpoint in {self.folder}: starting again at step 0")
        return 0, []

    def continue_parent(self, path: Path) -> int:
        """Load the checkpoint of `--continue_from`; its step. Steps and images go on counting from there."""
        try:
            step, _ = checkpoint.load(path, self.task, self.raw_optimizer(), self.ema, self.accelerator.scaler)
        except ValueError as error:
            raise UserError(f"--continue_from {self.config.continue_from}: {error}") from None
        self.print0(f"continuing {path} at step {step}")
        return step

    def raw_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer inside accelerate's wrapper."""
        optimizer: torch.optim.Optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        return optimizer

    def loop(self, start: int, unlogged: list[float]) -> int:
        """Run optimizer steps from `start` on; return the last step done (fewer than all after a stop signal)."""
        config, main = self.config, self.accelerator.is_main_process
        run_id = read_run_state(self.folder).get("tracker_id", "")
        tracker = start_tracker(config.report_to, self.folder, start, run_id) if main else None
        self.log = Log(self.folder / "log.jsonl", start, tracker) if main else None
        self.validation_log = Log(self.folder / "validation.jsonl", start, tracker, "validation_") if main else None
        batches = self.batches(start)
        before: dict[str, torch.Tensor] | None = fingerprints(self.task)
        step = start
        losses = list(torch.tensor(unlogged, device=self.accelerator.device).unbind())
        self.measured = start
        self.meter.restart()
        with (
            LoadFollower(fixed=config.deterministic or self.accelerator.device.type != "cpu") as load,
            tqdm(total=self.steps, initial=start, desc="training", unit="step", disable=not main) as bar,
        ):
            while step < self.steps and not self.stopping(step):
                losses.append(self.step(step, batches))
                step += 1
                self.print0(load.follow())
                bar.update()
                if before is not None and not self.accelerator.optimizer_step_was_skipped:  # fp16 skips some at first
                    assert_only_tuned_parts_moved(self.task, before)
                    before = None
                if step % config.logging_steps == 0 or step == self.steps:
                    bar.set_postfix_str(self.log_interval(step, losses))
                    losses.clear()
                with self.meter.paused():
                    # Before the checkpoint: a run that is killed in between would not come back to this validation.
                    if config.validation_steps and (step % config.validation_steps == 0 or step == self.steps):
                        with out_of_memory(validation_advice(config)):
                            self.validate(step)
                    if step % config.checkpointing_steps == 0 or step == self.steps:
                        self.checkpoint(step, losses)
        if start < step < self.steps and step % config.checkpointing_steps:
            self.checkpoint(step, losses)
        if tracker is not None:
            tracker.finish()
        return step

    def batches(self, start: int) -> Any:
        """An iterator over this process's micro-batches from optimizer step `start` on."""
        block, accelerator = self.images_per_step, self.accelerator
        positions = Positions(
            start * block, self.steps * block, self.micro_batch, accelerator.process_index, accelerator.num_processes
        )
        cuda = accelerator.device.type == "cuda"
        workers = self.config.dataloader_num_workers
        return iter(loader(self.stream, positions, (4 if cuda else 0) if workers is None else workers, pin_memory=cuda))

    def step(self, step: int, batches: Any) -> torch.Tensor:
        """One optimizer step over its block of positions; returns the mean loss on this process, on the device."""
        micro_steps = self.config.gradient_accumulation_steps
        for group, rate in zip(self.raw_optimizer().param_groups, self.rates, strict=True):
            group["lr"] = rate * learning_rate_factor(step, self.config)
        # Dropout inside a base's networks is all that draws from torch's own generator.
        mine = DROPOUT + step * self.accelerator.num_processes + self.accelerator.process_index
        torch.manual_seed(int(generator(self.config.seed, mine).integers(1 << 63)))
        total = torch.zeros((), device=self.accelerator.device)
        for micro in range(micro_steps):
            with self.meter.waiting():
                values = next(batches)
            positions = values["position"]
            batch = {
                name: value.to(self.accelerator.device, non_blocking=True) for name, value in tensors(values).items()
            }
            last = micro == micro_steps - 1
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                losses = self.wrapped(batch)
                loss = losses.mean() / micro_steps
                self.accelerator.backward(loss)
            total += loss.detach()
            self.seen.append((positions, losses.detach().clone()))  # a replayed graph would overwrite them
        self.accelerator.clip_grad_norm_(self.trained, self.config.max_grad_norm)
        self.optimizer.step()
        if hasattr(self.task, "after_step"):
            self.task.after_step(step + 1)
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(step + 1)
        return total

    def log_interval(self, step: int, losses: list[torch.Tensor]) -> str:
        """Log an interval and return it as text; the one place where host and device synchronise.

        Raises:
            UserError: the loss is not finite; the last checkpoint is still good.
        """
        images = (step - self.measured) * self.images_per_step
        self.measured = step
        loss = self.accelerator.reduce(torch.stack(losses).mean(), reduction="mean").item()
        self.require_finite(step, "loss", math.isfinite(loss))
        self.seen.clear()
        row: dict[str, Any] = {"step": step, "images": step * self.images_per_step, "loss": round(loss, 6)}
        row |= {"lr": self.raw_optimizer().param_groups[0]["lr"]} | self.meter.read(images)
        if self.log is not None:
            self.log.write(row)
        return status(row)

    def require_finite(self, step: int, what: str, finite: bool) -> None:
        """Stop a diverged run before it overwrites a good checkpoint or pipeline; name the images at fault."""
        if finite:
            return
        names = first_nonfinite(self.seen, self.stream, self.images_per_step, self.accelerator.num_processes)
        good = checkpoint.existing(self.folder / "checkpoints")
        half = " or use --mixed_precision bf16" if self.accelerator.mixed_precision == "fp16" else ""
        way = (
            f"{good[-1].name} is good: go on from it by --continue_from {self.folder} in another --output_dir"
            if good
            else f"{self.folder} has no checkpoint yet: begin again in it"
        )
        raise UserError(f"the {what} {NOT_FINITE} {step}{names}: lower --learning_rate{half}; {way}")

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
            folder, scaler = self.folder / "checkpoints", self.accelerator.scaler
            best = best_step(self.folder, self.task, self.config)
            checkpoint.save(folder, step, self.task, self.raw_optimizer(), self.ema, keep, unlogged, scaler, best)
        self.accelerator.wait_for_everyone()

    def validate(self, step: int) -> None:
        """Validation loss into validation.jsonl and pictures into samples/, with the weights and with their average."""
        row: dict[str, float] = {"step": step, "images": step * self.images_per_step}
        for name in ("", "ema_") if self.ema is not None else ("",):
            with self.averaged() if name else nullcontext():
                if self.held_out is not None:
                    seed, batch = self.config.seed, self.micro_batch
                    losses = validation_loss(self.task, self.held_out, seed, batch, self.accelerator)
                    row |= {name + key: value for key, value in losses.items()}
                tiles = previews(self.task, self.accelerator)
            if tiles:
                (self.folder / "samples").mkdir(exist_ok=True)
                picture = self.folder / "samples" / f"step-{step:06d}{'-ema' if name else ''}.png"
                write_png(picture, grid(tiles, columns=min(4, len(tiles))))
        if self.validation_log is not None and len(row) > 2:
            self.validation_log.write(row)
        self.accelerator.wait_for_everyone()

    def stopping(self, step: int) -> bool:
        """Whether any process received a stop signal; several processes exchange this once per logging interval."""
        if self.accelerator.num_processes == 1:
            self.signal = self.signals.received
            return self.signal != 0
        if step % self.config.logging_steps:
            return False
        flag = torch.tensor([self.signals.received], device=self.accelerator.device)
        self.signal = int(self.accelerator.gather(flag).max())
        return self.signal != 0

    def print0(self, message: str) -> None:
        """Print one line, on the main process only."""
        if message and self.accelerator.is_main_process:
            tqdm.write(message)
