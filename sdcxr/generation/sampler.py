"""Sampling: images from prompts by a plain diffusers pipeline. An image depends on its seed, not on its batch."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch

from sdcxr import backbones
from sdcxr.io.pixels import to_grey
from sdcxr.runtime.errors import UserError


class Sampler:
    """The one way from prompts to images: previews, `generate.py` and everything else.

    Args:
        backbone: see `backbones.base.Backbone`.
        scheduler: name of the sampler (see `NoiseProcess.sampler`).
        num_inference_steps: denoising steps.
        guidance_scale: of classifier-free guidance; 1 switches it off.
        resolution: side in pixels. Default: the model's own.

    Raises:
        UserError: the sampler does not fit the model, or the resolution is no multiple of the codec's factor.
    """

    def __init__(
        self,
        backbone: Any,
        scheduler: str = "pndm",
        num_inference_steps: int = 75,
        guidance_scale: float = 4.0,
        resolution: int | None = None,
    ):
        self.backbone, self.num_inference_steps, self.guidance_scale = backbone, num_inference_steps, guidance_scale
        self.resolution = resolution or backbone.resolution
        if self.resolution % backbone.codec.factor:
            raise UserError(f"--resolution {self.resolution}: must be a multiple of {backbone.codec.factor}")
        self.pipeline = backbone.pipeline()
        self.pipeline.scheduler = backbone.inference_process().sampler(self.pipeline.scheduler, scheduler)
        self.pipeline.set_progress_bar_config(disable=True)

    @classmethod
    def load(cls, model: str, dtype: torch.dtype | None = None, **settings: Any) -> Self:
        """A sampler of a run folder, pipeline folder or hub name (see `backbones.load`)."""
        return cls(backbones.load(model, dtype), **settings)

    def to(self, device: torch.device) -> Self:
        """Move the model to a device."""
        self.pipeline.to(device)
        return self

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[str], seeds: Sequence[int], on_step: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """One image per prompt and seed, uint8 grey, shape (n, resolution, resolution).

        The prompts are embedded here: the pipeline's own tokenizer call would log the cut part of long reports.

        Args:
            prompts: the texts.
            seeds: of `torch.Generator("cpu")`, one for each.
            on_step: called with the number of each denoising step, from 0.
        """
        tokens, _ = self.backbone.tokenize(list(prompts))
        on_device = {name: torch.from_numpy(ids).to(self.pipeline.device) for name, ids in tokens.items()}
        conditioning = self.backbone.encode_text(on_device)
        null = self.backbone.unconditional(len(prompts))
        more: dict[str, Any] = {}
        if on_step is not None:
            more["callback_on_step_end"] = lambda _pipe, step, _t, values: (on_step(step), values)[1]
        images = self.pipeline(
            **self.backbone.call_arguments(conditioning, null),
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            height=self.resolution,
            width=self.resolution,
            output_type="pt",
            **more,
        ).images
        return to_grey(images * 2 - 1).numpy()
