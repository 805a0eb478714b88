"""What a run was begun on: its settings; by content weights of the base, images, captions, another run's checkpoint.

Hashes of them are in run.json and are compared on every later call. So a base or a dataset may move or be written in
another way, and one that was replaced is noticed, also after the run has finished.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdcxr.config import TrainConfig
from sdcxr.data.latents import hash_images
from sdcxr.data.stream import Examples
from sdcxr.io.files import check_same_settings, checksum, state_of
from sdcxr.io.pixels import BadImage, open_image
from sdcxr.io.run_folder import CONTENT, parent_run, read_config, read_run_state
from sdcxr.runtime.errors import UserError
from sdcxr.tasks.base import training_rows
from sdcxr.training import checkpoint
from sdcxr.tuning import choose_methods

LOOKED_AT = 1000  # images whose size is looked at
# Settings that may change between two calls of one run: they do not alter what is learnt. The batch may be split
# differently over processes and micro-steps as long as the images per optimizer step stay the same.
RESUME_MUTABLE = {
    "output_dir", "data", "class_data_dir", "latents_dir", "train_batch_size", "gradient_accumulation_steps",
    "total_train_batch_size", "gradient_checkpointing", "torch_compile", "cuda_graphs", "channels_last",
    "fused_optimizer", "deterministic", "cache_latents", "cache_in_memory", "dataloader_num_workers",
    "logging_steps", "checkpointing_steps", "checkpoints_total_limit", "validation_steps", "validation_loss_images",
    "preview_images", "report_to", "lora_format", "synthetic",
}  # fmt: skip


def check_folders(config: TrainConfig) -> None:
    """Refuse an output folder that is, or lies in, the base, the data or another source of the run.

    Raises:
        UserError: names both.
    """
    output = Path(str(config.output_dir)).resolve()
    for flag in ("base", "data", "continue_from", "text_encoder", "class_data_dir", "synthetic"):
        source = Path(str(getattr(config, flag))).expanduser()
        if getattr(config, flag) is None or not source.is_dir():
            continue
        source = source.resolve()
        inside_output = any(source.is_relative_to(output / name) for name in CONTENT)
        if output.is_relative_to(source) or inside_output:
            raise UserError(
                f"--output_dir {config.output_dir}: is the folder of --{flag} {getattr(config, flag)}, or one lies in "
                "the other: give another"
            )


def is_begun(run: Path) -> bool:
    """Whether a folder holds something of its run: a checkpoint, a result or pictures. Else any settings may begin."""
    held = checkpoint.found(run / "checkpoints") or (run / "samples").exists()
    return bool(held or read_run_state(run).get("finished_steps"))


def check_same_run(run: Path, config: TrainConfig, images_per_step: int) -> None:
    """Refuse to resume a run under settings that would have given another one.

    A longer `max_train_steps` is the same run continued, as long as neither the learning rate nor the tuning method
    depends on it. The path of a base may change where run.json has the hash of its weights.

    Raises:
        UserError: lists the settings that differ, old and new; or the run's own notes are damaged.
    """
    path = run / "config.yaml"
    if not path.is_file():
        return
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    old = defaults | read_config(path)  # settings that it did not know then
    state = read_run_state(run)
    old["images_per_step"] = state.get("images_per_step")
    new = dataclasses.asdict(config) | {"images_per_step": images_per_step}
    free = set(RESUME_MUTABLE)
    if state.get("base_sha256"):
        free |= {"base", "text_encoder"}
    if "clip" in config.parts:
        free.remove("train_batch_size")  # its loss compares the images of a micro-batch with each other
    begun = old["max_train_steps"] if isinstance(old["max_train_steps"], int) else 0
    shorter = min(begun, config.max_train_steps or 0)
    by_length = any(method.by_run_length for method in choose_methods(config).values())
    if config.lr_scheduler == "constant" and shorter >= (config.lr_warmup_steps or 0) and not by_length:
        free.add("max_train_steps")
    compared = [key for key in new if key not in free and key not in config.unused]
    check_same_settings(run, {key: old.get(key) for key in compared}, {key: new[key] for key in compared})


class Origin:
    """What a run was begun on, compared with what there is now.

    Args:
        run: its folder.
        config: the present settings.
    """

    def __init__(self, run: Path, config: TrainConfig):
        self.run, self.config = run, config
        self.recorded = read_run_state(run) if is_begun(run) else {}
        self.notes: dict[str, Any] = {}
        """For run.json."""
        self.paths: list[Path] = []
        """The images."""

    def _compare(self, name: str, what: str, found: dict[str, str], where: Path, recorded: Any) -> None:
        """A `UserError` that says what differs; runs of earlier versions recorded nothing (None)."""
        differing = [each for each in found if recorded is not None and recorded.get(each) != found[each]]
        if differing:
            raise UserError(
                f"{where} was begun on {what} than --{name} {getattr(self.config, name)} is now (changed: "
                f"{', '.join(differing)}): bring it back, or use another --output_dir"
            )

    def check_data(self) -> None:
        """Compare the images' contents and, where the task uses them, the captions; called on all processes."""
        rows = training_rows(self.config)
        self.paths = rows["path"].tolist()
        found = {"images": hash_images(self.paths)}
        if self.config.parts & {"unet", "text", "token", "clip"}:
            lines = (rows["id"] + "\0" + rows["text"]).str.cat(sep="\n")
            found["captions"] = hashlib.sha256(lines.encode()).hexdigest()
        self._compare("data", "other images or captions", found, self.run, self.recorded.get("data_sha256"))
        self.notes["data_sha256"] = found

    def check_base(self, task: Any) -> None:
        """Compare the weights of the base, which the task hashed when it loaded them."""
        self._compare("base", "another base", task.base_sha256, self.run, self.recorded.get("base_sha256"))
        self.notes |= {"base_sha256": task.base_sha256, "base_state": self._base_state()}

    def check_examples(self, examples: Examples) -> None:
        """Compare what the task made of the data: tokens or labels."""
        digest = hashlib.sha256("\n".join(examples.ids).encode())
        for _, array in sorted(examples.content().items()):
            digest.update(array.tobytes())
        found = {"tokens or labels": digest.hexdigest()}
        recorded = {"tokens or labels": self.recorded.get("examples_sha256")} if self.recorded else None
        self._compare("data", "other images, captions or labels", found, self.run, recorded)
        self.notes["examples_sha256"] = digest.hexdigest()

    def _base_state(self) -> str:
        encoder = self.config.text_encoder
        return base_state(self.config.base) + (f" {base_state(encoder)}" if encoder is not None else "")

    def check_finished(self, build_task: Callable[[], Any]) -> None:
        """Refuse to call a run finished whose base or data were replaced since; what is gone is not compared."""
        if Path(str(self.config.data)).is_dir():
            self.check_data()
        base = self.config.base
        gone = base == read_config(self.run / "config.yaml")["base"] and not Path(str(base)).expanduser().exists()
        if self.recorded.get("base_sha256") and not gone and self._base_state() != self.recorded["base_state"]:
            self.check_base(build_task())

    def parent_checkpoint(self, images_per_step: int, steps: int) -> Path:
        """The checkpoint that `--continue_from` means, for a run of so many steps; called after `check_base`.

        Raises:
            UserError: there is none, or it does not fit the settings.
        """
        config = self.config
        assert config.continue_from is not None
        flag = f"--continue_from {config.continue_from}"
        named = Path(config.continue_from).expanduser()
        parent = parent_run(named)
        if not (state := read_run_state(parent)):
            raise UserError(f"{flag}: is no run folder of train.py")
        whole = checkpoint.existing(parent / "checkpoints")
        path = named if named != parent else next(reversed(whole), parent / "checkpoints" / "checkpoint-N")
        if path not in whole:
            raise UserError(f"{flag}: has no complete {path.name}: give a run folder that has one in checkpoints/")
        if state["images_per_step"] != images_per_step:
            raise UserError(
                f"{flag}: takes {state['images_per_step']} images per step, these settings {images_per_step}: steps "
                "would no longer count the images seen; keep the batch, or begin anew with --base"
            )
        if config.use_ema and not (path / "ema.safetensors").is_file():
            raise UserError(f"{flag}: {path.name} holds no average of the weights: add --use_ema false")
        self._compare("base", "another base", self.notes["base_sha256"], parent, state.get("base_sha256"))
        alpha = read_config(parent / "config.yaml").get("lora_alpha")
        if alpha != config.lora_alpha:  # the weights would fit, and what they add would be another
            raise UserError(f"{flag}: was trained with --lora_alpha {alpha}, not {config.lora_alpha}: give the same")
        step = int(path.name[11:])
        if step >= steps:
            raise UserError(f"{flag}: is at step {step} already: give more than --max_train_steps {steps}")
        about = {"run": str(parent), "step": step, "sha256": checksum(path / "model.safetensors")}
        self.notes["continued_from"] = about
        return path


def base_state(base: str | None) -> str:
    """What tells cheaply whether a base is still the same: sizes and times of its files, or the name on the hub."""
    folder = Path(base or "").expanduser()
    if folder.is_file():
        return repr(state_of(folder))
    if base is None or not folder.is_dir():
        return base or ""
    folder = next(
        (folder / name for name in ("pipeline", "classifier", "segmenter") if (folder / name).is_dir()), folder
    )
    states = [(str(path.relative_to(folder)), state_of(path)) for path in sorted(folder.rglob("*.safetensors"))]
    return hashlib.sha256(repr(states).encode()).hexdigest()


def enlarged(paths: list[Path], resolution: int) -> str:
    """A warning if images are smaller than the training resolution, else ""; looks at `LOOKED_AT` of them at most."""
    looked_at = paths[:: -(-len(paths) // LOOKED_AT)]
    sides = []
    for path in looked_at:
        try:
            with open_image(path) as image:
                sides.append(min(image.size))
        except BadImage:
            continue  # is reported where it is read
    small = [side for side in sides if side < resolution]
    if not small:
        return ""
    return (
        f"warning: images are enlarged {min(small)} → {resolution} px ({len(small)} of {len(sides)} looked at): they "
        f"gain no detail by it; use --resolution {min(small)}, or prepare them larger"
    )
