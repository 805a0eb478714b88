"""Settings of generation, named as in diffusers where the meaning is the same."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sdcxr.config import at_least
from sdcxr.runtime.errors import UserError
from sdcxr.text.refocusing import TextMode
from sdcxr.text.templates import as_list, as_recorded, check_templates


@dataclass
class GenerateConfig:
    """Sampling settings."""

    model: str
    """Run folder (of one that is not finished its newest checkpoint), RUN/checkpoints/checkpoint-N, pipeline folder or
    hub name."""
    prompts: str
    """One prompt; a .txt (one per line); a .csv, .tsv, .json, .jsonl or .parquet (text or prompt, optionally id); or a
    split of a dataset folder."""
    output_dir: str
    """Samples folder; the same command again goes on where it stopped, with more prompts or more images per prompt it
    adds those."""
    adapter: str | None = None
    """Adapters to put into the base of --model: adapter/ folders or runs, with commas; `:0.7` behind one scales it."""
    num_images_per_prompt: int = 4
    """Images per prompt; RoentGen's evaluation uses 4."""
    num_inference_steps: int | None = None
    """Denoising steps. Default: the model family's; Stable Diffusion 75, as in RoentGen."""
    guidance_scale: float | None = None
    """Classifier-free guidance; 1 switches it off. Default: the model family's; Stable Diffusion 4, as in RoentGen."""
    negative_prompt: str | None = None
    """What guidance leads away from. Default: the empty prompt."""
    clip_skip: int | None = None
    """Layers of CLIP to leave out at the end, as diffusers counts: 1 takes the last but one (other programs say 2)."""
    scheduler: Literal["pndm", "ddim", "dpm++", "euler"] | None = None
    """Sampler. Default: the model family's; Stable Diffusion pndm, as in RoentGen. For diffusion models: any; for
    rectified flow: euler or dpm++."""
    seed: int = 0
    """With the prompt's id and the image's number it gives every image's own seed."""
    batch_size: int = 16
    """Images per step and process; the images do not depend on it."""
    resolution: int | None = None
    """Side in pixels. Default: that of the run's training, else the model's own."""
    max_prompts: int | None = None
    """Take only the first prompts."""
    text: TextMode = "raw"
    """The prompts as they are; clean: without ___ and XXXX; refocused: also without comparison, time, advice and
    communication."""
    prompt_template: list[str] | str = ""
    """Prompt with fields in braces, such as "[{demographics}. ]{text}"; of several each prompt gets one. Fields: the
    columns of a table; findings, finding, word (from labels), demographics, age, sex, race, view. Default: {text}."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Half precision is faster on a GPU and changes the images slightly."""

    def __post_init__(self) -> None:
        names = ("num_images_per_prompt", "num_inference_steps", "batch_size", "resolution", "max_prompts", "clip_skip")
        for name, minimum in (dict.fromkeys(names, 1) | {"seed": 0, "guidance_scale": 0}).items():
            at_least(self, name, minimum)
        self.prompt_template = as_recorded(self.prompt_template)
        check_templates(as_list(self.prompt_template))
        for name in ("model", "output_dir", "adapter"):
            if getattr(self, name) is not None and not getattr(self, name).strip(" ,"):
                raise UserError(f"--{name}: is empty")
        if self.guidance_scale is not None and not math.isfinite(self.guidance_scale):
            raise UserError(f"--guidance_scale {self.guidance_scale}: must be a number")
        if self.negative_prompt is not None and not self.negative_prompt.strip():
            self.negative_prompt = None
        if self.negative_prompt is not None and self.guidance_scale is not None and self.guidance_scale <= 1:
            raise UserError(
                f"--negative_prompt: has no effect without guidance (--guidance_scale {self.guidance_scale})"
            )
        self.output_dir = str(Path(self.output_dir).expanduser())

    @property
    def templates(self) -> list[str]:
        """The templates of the prompts; none: the texts themselves."""
        return as_list(self.prompt_template)
