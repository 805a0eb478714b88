"""The parts of a Stable Diffusion pipeline: loaded from a hub name or a folder, saved as a plain pipeline."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdcxr.errors import UserError
from sdcxr.files import inside

PIPELINE = "StableDiffusionPipeline"
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


def locate(model: str) -> str:
    """The pipeline that a user means by a hub name, a pipeline folder or a run folder.

    Raises:
        UserError: a folder without a pipeline, a run that is not finished, a part or its weights missing, another
            architecture than Stable Diffusion 1.x / 2.x, or a name that is neither a folder nor `owner/name`.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if (folder / "pipeline" / "model_index.json").is_file():
            folder = folder / "pipeline"
        elif (folder / "config.yaml").is_file():
            raise UserError(f"{model} is a run without a pipeline yet: let its training finish (same command again)")
        check_pipeline_folder(folder)
        return str(folder)
    if folder.exists():
        raise UserError(f"{model} is a file: give a pipeline folder, a run folder or a hub name")
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise UserError(f"{model}: no such folder (a hub name has the form owner/name)")
    return model


def check_pipeline_folder(folder: Path) -> None:
    """Refuse a folder that is no complete Stable Diffusion pipeline in safetensors form, naming what is missing."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(f"{folder} has no model_index.json: it is not a diffusers pipeline folder")
    try:
        kind = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except ValueError:
        raise UserError(f"{index} is not valid JSON: copy the pipeline folder again") from None
    if kind != PIPELINE:
        raise UserError(f"{folder} is a {kind}: only {PIPELINE} (Stable Diffusion 1.x and 2.x) can be tuned")
    for part in FOLDERS:
        if not inside(folder, part).is_dir():
            raise UserError(f"{folder} has no part {part!r}: copy the whole pipeline (it needs: {', '.join(FOLDERS)})")
    for part in ("unet", "vae", "text_encoder"):
        if not any((folder / part).glob("*.safetensors")):
            raise UserError(
                f"{folder / part} has no .safetensors weights: pickled ones are not read, convert them first"
            )


def load(model: str, dtype: Any = None) -> Components:
    """Load the parts of a pipeline, from the hub or a local folder (see `locate`), weights from safetensors only.

    Raises:
        UserError: what, where it was looked for, and how to get it.
    """
    import diffusers
    import torch
    import transformers
    from diffusers import StableDiffusionPipeline

    # Their bars for the reading of each part would break up ours.
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    where = locate(model)
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            where,
            use_safetensors=True,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError, KeyError) as error:
        if Path(where).is_dir():
            raise UserError(f"{where} cannot be loaded: {_first_line(error)}") from None
        raise UserError(
            f"{model} is neither a folder here nor could it be had from the Hugging Face hub ({_first_line(error)}): "
            f"check the name and the network, or download it elsewhere and give its folder"
        ) from None
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.to(dtype or torch.float32)  # whatever the weights were saved in
    return Components(pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.tokenizer, pipeline.scheduler)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def save(components: Components, folder: Path) -> None:
    """Save a complete pipeline folder, whole or not at all: it is written beside its place and then renamed."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        components.pipeline().save_pretrained(temporary, safe_serialization=True)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def token_ids(tokenizer: Any, texts: list[str]) -> tuple[Any, int]:
    """Token ids padded and cut to the tokenizer's length, int64 array (n, tokens), and how many texts were cut."""
    length = tokenizer.model_max_length
    full = tokenizer(texts, truncation=False)["input_ids"] if texts else []
    ids = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="np")["input_ids"]
    return ids.astype("int64"), sum(len(row) > length for row in full)
