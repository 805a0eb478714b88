"""What `--model` names: a pipeline, the result of a run, or one of its checkpoints."""

import dataclasses
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sdcxr import backbones
from sdcxr.backbones.pipeline_files import hash_parts
from sdcxr.config import NO_BASE, TrainConfig
from sdcxr.io.checkpoint_folder import existing, found, is_whole, step_of
from sdcxr.io.files import checksum, read_json
from sdcxr.io.run_folder import RUN_STATE, read_config, read_run_state
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.quiet import LIBRARIES, quiet_libraries
from sdcxr.tuning import tune
from sdcxr.tuning.adapter_folder import apply_adapters, hash_adapter, locate_adapter, read_adapter
from sdcxr.tuning.base import TuningMethod, trained_tensors


@dataclass(frozen=True)
class Model:
    """A model to sample from."""

    name: str
    """What metadata.csv calls it: a hub name or folder, of a run without a result the checkpoint's."""
    pipeline: str
    """Pipeline folder or hub name; of a checkpoint, that of its base."""
    checkpoint: Path | None = None
    """Weights to put into it."""
    checkpoint_sha256: bytes = b""
    """Of the checkpoint's files."""
    about: str = ""
    """A line about the step that it is of, for a run."""
    adapters: tuple[tuple[Path, float], ...] = ()
    """Adapter folders to put into it, with their scales."""
    prompt_template: list[str] | str = ""
    """With which its run wrote the captions, where it did."""
    resolution: int | None = None
    """Side of the images that its run was trained on, where it named one."""

    def load(self, dtype: torch.dtype) -> Any:
        """The backbone, all weights in `dtype`.

        Raises:
            UserError: see `backbones.load`, `apply_checkpoint` and `apply_adapters`.
        """
        if self.checkpoint is None and not self.adapters:
            return backbones.load(self.pipeline, dtype)
        if self.checkpoint is not None:
            tensors = read_checkpoint(self.checkpoint)  # first: a training that goes on removes it at some time
            backbone = apply_checkpoint(backbones.load(self.pipeline), self.checkpoint, tensors)
        else:
            adapters = [read_adapter(folder, scale) for folder, scale in self.adapters]
            backbone = backbones.load(self.pipeline)
            apply_adapters(backbone, adapters)
        backbones.refuse_half(backbone, dtype)
        if dtype != torch.float32:  # else as loaded: encoders that never train keep the type that they are stored in
            with quiet_libraries(*LIBRARIES):
                for part in backbone.parts.values():
                    part.to(dtype)
        return backbone

    def weights_sha256(self) -> str | None:
        """Hash of the weights' files and of adapters; None for a hub name without adapters."""
        if not Path(self.pipeline).is_dir() and not self.adapters:
            return None
        digest = hashlib.sha256(b"" if Path(self.pipeline).is_dir() else self.pipeline.encode())
        for file in sorted(Path(self.pipeline).glob("*/*.safetensors")):
            digest.update(bytes.fromhex(checksum(file)))
        if self.checkpoint is not None:
            digest.update(self.checkpoint_sha256)
        for folder, scale in self.adapters:
            digest.update(hash_adapter(folder, scale))
        return digest.hexdigest()[:16]

    def settings_sha256(self) -> str | None:
        """Hash of what images depend on beside weights: schedule and tokenizers; None for a hub name."""
        schedules, tokenizers = (
            sorted(Path(self.pipeline).glob(f"{part}*/*.json")) for part in ("scheduler", "tokenizer")
        )
        digest = hashlib.sha256(b"".join(bytes.fromhex(checksum(file)) for file in tokenizers))
        for file in schedules:  # without the version that wrote it
            digest.update(repr(sorted((k, v) for k, v in dict(read_json(file)).items() if k[0] != "_")).encode())
        return digest.hexdigest()[:16] if schedules else None


def locate_model(model: str) -> Model:
    """What a `--model` names: a hub name, a pipeline folder, a run folder or a checkpoint in one.

    Raises:
        UserError: there is nothing to sample from; says why.
    """
    folder = Path(model).expanduser()
    if folder.parent.name == "checkpoints" and folder.is_dir() and (folder.parents[1] / "config.yaml").is_file():
        if folder not in found(folder.parent) or not is_whole(folder):
            raise UserError(f"{model} is no complete checkpoint: a file is missing or cut short")
        return _of_checkpoint(folder, str(folder))
    if folder.name == "checkpoints" and (folder.parent / "config.yaml").is_file():
        folder = folder.parent
    elif (folder / "pipeline" / "model_index.json").is_file() or not (folder / "config.yaml").is_file():
        run = folder.parent if folder.name == "pipeline" else folder
        return Model(model, backbones.locate_pipeline(model), about=_about_result(folder), **_trained_with(run))
    elif NO_BASE & TrainConfig(**_settings(folder)).parts:
        backbones.locate_pipeline(model)  # says what it is
    complete = existing(folder / "checkpoints")
    if not complete:
        raise UserError(
            f"{model} is a run without a pipeline and without a complete checkpoint yet: let its training go on (same "
            "command again; --checkpointing_steps says when the first one is written)"
        )
    return _of_checkpoint(complete[-1], model)


def with_adapters(model: Model, adapters: str | None) -> Model:
    """The model with the adapters of `--adapter` (`DIR[:scale],…`) put into it.

    Raises:
        UserError: there is no such adapter, or the model is a checkpoint.
    """
    named = [name.strip() for name in (adapters or "").split(",") if name.strip()]
    if not named:
        return model
    if model.checkpoint is not None:
        raise UserError(f"--adapter: is for the base that it was trained on, and {model.name} is a checkpoint of a run")
    name, located = " + ".join([model.name, *named]), tuple(map(locate_adapter, named))
    trained = {key: value for key, value in _trained_with(located[0][0].parent).items() if value}
    return dataclasses.replace(model, name=name, about="", adapters=located, **trained)


def _of_checkpoint(checkpoint: Path, named: str) -> Model:
    run = checkpoint.parents[1]
    config = TrainConfig(**_settings(run))
    if NO_BASE & config.parts:
        raise UserError(f"{named} is of the run of a {config.tune}: it generates nothing")
    try:
        pipeline = backbones.locate_pipeline(str(config.base))
    except UserError as error:
        raise UserError(f"{named}: a checkpoint holds what was trained, the rest is in its base: {error}") from None
    averaged = "averaged weights" if (checkpoint / "ema.safetensors").is_file() else "weights"
    about = f"{run}: {averaged} of step {step_of(checkpoint)} of {config.max_train_steps}"
    with _gone_meanwhile(checkpoint):
        digest = b"".join(bytes.fromhex(checksum(file)) for file in _weight_files(checkpoint))
    return Model(str(checkpoint), pipeline, checkpoint, digest, about, **_trained_with(run))


def _about_result(run: Path) -> str:
    """A line about the step of a run's pipeline; empty for a folder that is no run."""
    steps = read_run_state(run).get("finished_steps") if (run / "config.yaml").is_file() else None
    if not steps:
        return ""
    newer = [path for path in existing(run / "checkpoints") if step_of(path) > steps]
    more = f" (its training went on: --model {newer[-1]} is of step {step_of(newer[-1])})" if newer else ""
    return f"{run}: pipeline of step {steps}{more}"


def _trained_with(run: Path) -> dict[str, Any]:
    """What samples share with the training of a run folder; of a folder that is no run, nothing.

    A VAE may be trained on smaller images than its UNet makes.
    """
    is_run = (run / "config.yaml").is_file() and (run / RUN_STATE).is_file()
    settings = _settings(run) if is_run else {}
    side = None if settings.get("tune") == "vae" else settings.get("resolution")
    return {"prompt_template": settings.get("prompt_template") or "", "resolution": side}


def _settings(run: Path) -> dict[str, Any]:
    """The settings of a run that this version knows."""
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    return {name: value for name, value in read_config(run / "config.yaml").items() if name in names}


def _weight_files(checkpoint: Path) -> list[Path]:
    return [path for name in ("model", "ema") if (path := checkpoint / f"{name}.safetensors").is_file()]


@contextmanager
def _gone_meanwhile(checkpoint: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(
            f"{checkpoint} is gone, its training goes on and keeps the newest: run the same command again, or let it "
            "keep more (--checkpoints_total_limit)"
        ) from None


def read_checkpoint(checkpoint: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, averaged ones where it holds them.

    Raises:
        UserError: it is damaged or gone.
    """
    tensors: dict[str, Tensor] = {}
    with _gone_meanwhile(checkpoint):
        try:
            for file in _weight_files(checkpoint):  # the average last
                tensors |= load_file(file)
        except SafetensorError as error:
            raise UserError(f"{checkpoint} is damaged ({error})") from None
        if not tensors:
            raise FileNotFoundError
    return tensors


def apply_checkpoint(backbone: Any, checkpoint: Path, tensors: dict[str, Tensor]) -> Any:
    """The base of a run with the weights of a checkpoint put in and merged.

    Raises:
        UserError: the base is another one than the run was begun on, or the checkpoint does not fit it.
    """
    run = checkpoint.parents[1]
    config = TrainConfig(**_settings(run))
    backbone.adapt(config)
    if recorded := read_run_state(run).get("base_sha256"):
        now = hash_parts(backbone)
        if differing := [name for name in now if now[name] != recorded.get(name)]:
            raise UserError(f"{config.base} is not the base that {run} was begun on ({', '.join(differing)} differs)")
    vae_alone = config.parts == {"vae"}
    methods: dict[str, TuningMethod] = {}
    if not vae_alone:
        backbone.noise_process(config)  # the prediction type and the schedule that it was trained with
        methods = tune(backbone, config)
    for name in ["vae"] if vae_alone else [name for name in backbone.parts if name != "vae"]:
        part, prefix = backbone.parts[name], f"{'vae' if vae_alone else backbone.components[name]}."
        own = trained_tensors(part)
        saved = {key: tensors[prefix + key] for key in own if prefix + key in tensors}
        if (not saved and own) or (not vae_alone and saved.keys() != own.keys()):
            raise UserError(f"{checkpoint} does not hold the weights of {name} that its settings name")
        with torch.no_grad():
            for key, value in saved.items():
                if value.shape != own[key].shape:
                    raise UserError(f"{checkpoint} is of another base than {config.base} ({prefix}{key})")
                own[key].copy_(value)
    backbone.parts |= {name: method.merge(backbone.parts[name]) for name, method in methods.items()}
    for part in backbone.parts.values():
        part.requires_grad_(False).eval()
    return backbone
