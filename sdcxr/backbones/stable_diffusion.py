"""The parts of a Stable Diffusion pipeline: loaded from a hub name or a folder, saved as a plain pipeline."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdcxr.io.hub import is_hub_name
from sdcxr.runtime.errors import UserError

PIPELINE = "StableDiffusionPipeline"
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")
FOLDERS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


@dataclass
class Components:
    """UNet2DConditionModel, AutoencoderKL, text encoder, tokenizer and inference scheduler of one pipeline."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any

    @property
    def vae_factor(self) -> int:
        """Pixels per latent along a side: 8 in Stable Diffusion."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def resolution(self) -> int:
        """The side in pixels that the UNet was made for."""
        return int(self.unet.config.sample_size) * self.vae_factor

    def pipeline(self) -> Any:
        """A StableDiffusionPipeline over these very modules. No safety checker: it blanks radiographs."""
        from diffusers import StableDiffusionPipeline

        return StableDiffusionPipeline(
            unet=self.unet,
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def locate_pipeline(model: str) -> str:
    """The pipeline that a user means by a hub name, a pipeline folder or a run folder.

    Raises:
        UserError: a folder without a pipeline, a run that is not finished, a part or its weights missing, another
            architecture than Stable Diffusion 1.x / 2.x, or a name that is neither a folder nor `owner/name`.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if (folder / "pipeline" / "model_index.json").is_file():
            folder = folder / "pipeline"
        elif judge := next((name for name in ("classifier", "clip") if (folder / name).is_dir()), None):
            raise UserError(f"{model} is the run of a {judge}: it generates nothing")
        elif (folder / "config.yaml").is_file():
            raise UserError(f"{model} is a run without a pipeline yet: let its training finish (same command again)")
        check_pipeline_folder(folder)
        return str(folder)
    if folder.exists():
        raise UserError(f"{model} is a file: give a pipeline folder, a run folder or a hub name")
    if not is_hub_name(model):
        raise UserError(f"{model}: no such folder (a hub name has the form owner/name)")
    return model


def check_pipeline_folder(folder: Path) -> None:
    """Refuse a folder that is no complete Stable Diffusion pipeline in safetensors form, naming what is missing."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(f"{folder} has no model_index.json: it is not a diffusers pipeline folder")
    try:
        kind = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{index} does not name a pipeline: copy the pipeline folder again") from None
    if kind != PIPELINE:
        raise UserError(f"{folder} is a {kind}: only {PIPELINE} (Stable Diffusion 1.x and 2.x) can be tuned")
    for part in FOLDERS:
        if not (folder / part).is_dir():
            raise UserError(f"{folder} has no part {part!r}: copy the whole pipeline (it needs: {', '.join(FOLDERS)})")
    for part in ("unet", "vae", "text_encoder"):
        if not (folder / part / "config.json").is_file():
            raise UserError(f"{folder / part} has no config.json: copy the whole pipeline")
        if not any((folder / part).glob("*.safetensors")):
            raise UserError(
                f"{folder / part} has no .safetensors weights: pickled ones are not read, convert them first"
            )
    if not any((folder / "tokenizer" / name).is_file() for name in VOCABULARIES):
        raise UserError(f"{folder / 'tokenizer'} has no vocabulary ({' or '.join(VOCABULARIES)}): copy it again")


def load(model: str, dtype: Any = None) -> Components:
    """Load the parts of a pipeline from the hub or a local folder (see `locate_pipeline`), from safetensors only.

    Raises:
        UserError: what, where it was looked for, and how to get it; also where weights and architecture differ.
    """
    import torch
    import transformers
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from safetensors import SafetensorError

    without: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    where = locate_pipeline(model)
    if not Path(where).is_dir():
        try:
            with _quiet():
                where = StableDiffusionPipeline.download(where, use_safetensors=True, **without)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{model} is neither a folder here nor could it be had from the Hugging Face hub "
                f"({_first_line(error)}): check the name and the network, or download it elsewhere and give its folder"
            ) from None
        check_pipeline_folder(Path(where))
    index = json.loads((Path(where) / "model_index.json").read_text(encoding="utf-8"))
    _, text_encoder = index.get("text_encoder") or (None, None)
    text_encoder_kind = getattr(transformers, str(text_encoder), None)
    if not hasattr(text_encoder_kind, "from_pretrained"):
        raise UserError(
            f"{where}: its text encoder is a {text_encoder}, which the installed transformers does not have"
        )
    kinds = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": text_encoder_kind,
    }
    try:
        with _quiet():
            parts = {name: _load_part(kind, where, name) for name, kind in kinds.items()}
            for part in parts.values():
                part.to(dtype or torch.float32)  # whatever the weights were saved in
            pipeline = StableDiffusionPipeline.from_pretrained(where, **parts, **without)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{where} cannot be loaded: {_first_line(error)}") from None
    if "clip_sample" not in pipeline.scheduler.config:
        # Latents are not confined to [-1, 1], to which DDIM, made from a configuration that is silent, clips them.
        pipeline.scheduler.register_to_config(clip_sample=False)
    return Components(pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.tokenizer, pipeline.scheduler)


def _load_part(kind: Any, where: str, name: str) -> Any:
    """One part with exactly the weights that its file holds: the libraries would fill gaps with random ones."""
    part, info = kind.from_pretrained(where, subfolder=name, use_safetensors=True, output_loading_info=True)
    # Position ids were once saved as weights; they are 0, 1, 2 …
    unexpected = [key for key in info["unexpected_keys"] if not key.endswith("position_ids")]
    for what, keys in (("lack", info["missing_keys"]), ("hold more than its config.json asks for:", unexpected)):
        if keys:
            raise ValueError(f"the weights of {name} {what} {', '.join(sorted(keys)[:3])} ({len(keys)} in all)")
    return part


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the bars and warnings of the libraries while they read: our errors say the same in one line."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    loggers = (diffusers_logging, transformers_logging)
    before = [logger.get_verbosity() for logger in loggers]
    for logger in loggers:
        logger.set_verbosity_error()
        logger.disable_progress_bar()
    try:
        yield
    finally:
        for logger, verbosity in zip(loggers, before, strict=True):
            logger.set_verbosity(verbosity)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def save(components: Components, folder: Path) -> None:
    """Save a complete pipeline folder, whole or not at all: it is written beside its place and then renamed."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    for left_behind in folder.parent.glob(f".{folder.name}.*.tmp"):  # by a killed process
        shutil.rmtree(left_behind)
    try:
        components.pipeline().save_pretrained(temporary, safe_serialization=True)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def token_ids(tokenizer: Any, texts: list[str]) -> tuple[Any, int]:
    """Token ids padded and cut to the tokenizer's length, int64 array (n, tokens), and how many texts were cut."""
    length = tokenizer.model_max_length
    full = tokenizer(texts, truncation=False, verbose=False)["input_ids"]
    ids = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="np")["input_ids"]
    return ids.astype("int64"), sum(len(row) > length for row in full)
