"""Sampling: images from prompts by a plain diffusers pipeline. An image depends on its seed, not on its batch."""

import inspect
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
        scheduler: name of the sampler (see `NoiseProcess.sampler`). Default: the family's.
        num_inference_steps: denoising steps. Default: the family's.
        guidance_scale: of classifier-free guidance; 1 switches it off. Default: the family's.
        resolution: side in pixels. Default: the model's own.
        negative_prompt: what classifier-free guidance leads away from. Default: the model's unconditional input.
        clip_skip: layers of CLIP to leave out at the end, for the prompts and as in diffusers not for the negative one.

    Raises:
        UserError: the sampler does not fit the model or the number of steps, or the resolution is no multiple of what
            the model needs.
    """

    def __init__(
        self,
        backbone: Any,
        scheduler: str | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        resolution: int | None = None,
        negative_prompt: str | None = None,
        clip_skip: int | None = None,
    ):
        defaults = backbone.defaults
        self.backbone, self.scheduler = backbone, scheduler or defaults.scheduler
        self.num_inference_steps = num_inference_steps or defaults.num_inference_steps
        self.guidance_scale = defaults.guidance_scale if guidance_scale is None else guidance_scale
        self.negative_prompt, self.clip_skip = negative_prompt, clip_skip
        if clip_skip and "clip_skip" not in inspect.signature(backbone.encode_text).parameters:
            raise UserError("--clip_skip: this model does not take the last layer of a CLIP: leave it out")
        self.resolution = resolution or backbone.resolution
        if self.resolution % backbone.multiple:
            raise UserError(f"--resolution {self.resolution}: this model needs a multiple of {backbone.multiple}")
        self.pipeline = backbone.pipeline()
        process = backbone.inference_process()
        self.pipeline.scheduler = process.sampler(self.pipeline.scheduler, self.scheduler, self.num_inference_steps)
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

        Raises:
            UserError: an image is not finite, which would be black.
        """
        conditioning = self._encode(prompts, **({"clip_skip": self.clip_skip} if self.clip_skip else {}))
        negative, n = self.negative_prompt, len(prompts)
        null = self._encode([negative] * n) if negative else self.backbone.unconditional(1).rows([0] * n)
        more: dict[str, Any] = {}
        if on_step is not None:
            more["callback_on_step_end"] = lambda _pipe, step, _t, values: (on_step(step), values)[1]
        with self.backbone.shared_guidance(self.guidance_scale > 1):
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
        if not images.isfinite().all():
            raise UserError(
                "the model gives pixels that are not finite (NaN): with --mixed_precision fp16 numbers overflow, use "
                "bf16 or no; otherwise its weights are damaged or its training diverged"
            )
        return to_grey(images * 2 - 1).numpy()

    def _encode(self, texts: Sequence[str], **settings: Any) -> Any:
        distinct = list(dict.fromkeys(texts))
        tokens, _ = self.backbone.tokenize(distinct)
        on_device = {name: torch.from_numpy(ids).to(self.pipeline.device) for name, ids in tokens.items()}
        return self.backbone.encode_text(on_device, **settings).rows([distinct.index(text) for text in texts])
