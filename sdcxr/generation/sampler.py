"""Images from prompts. Every image has its own seed, so batches and processes do not change it."""

import hashlib
from typing import Any

import numpy as np
import torch

from sdcxr.backbones.stable_diffusion import token_ids
from sdcxr.io.pixels import to_grey
from sdcxr.runtime.errors import UserError

SCHEDULERS = ("pndm", "ddim", "dpm++")


def image_seed(seed: int, prompt_id: str, k: int) -> int:
    """The seed of a prompt's k-th image, in [0, 2^48): exact in every table, even one that reads it as a float."""
    digest = hashlib.sha256(f"{seed}/{prompt_id}/{k}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


def use_scheduler(pipeline: Any, name: str) -> None:
    """Swap the pipeline's sampler, keeping its noise schedule and prediction type.

    Raises:
        UserError: the sampler cannot follow the model's noise schedule.
    """
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler

    kinds = {"pndm": PNDMScheduler, "ddim": DDIMScheduler, "dpm++": DPMSolverMultistepScheduler}
    own = dict(pipeline.scheduler.config)
    if name == "pndm":
        if own.get("rescale_betas_zero_snr"):
            raise UserError("--scheduler pndm: this model was trained to start from pure noise; use ddim or dpm++")
        own["skip_prk_steps"] = True  # as in Stable Diffusion: the Runge-Kutta start is left out
    pipeline.scheduler = kinds[name].from_config(own)


@torch.no_grad()
def sample(
    pipeline: Any, texts: list[str], seeds: list[int], steps: int, guidance_scale: float, resolution: int
) -> np.ndarray:
    """One image per text and seed, uint8 grey, shape (n, resolution, resolution).

    The texts are embedded here: the pipeline's own tokenizer call would log the cut part of long reports.
    """
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    images = pipeline(
        prompt_embeds=embed(pipeline, texts),
        negative_prompt_embeds=embed(pipeline, [""] * len(texts)),
        generator=generators,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        height=resolution,
        width=resolution,
        output_type="pt",
    ).images
    return to_grey(images * 2 - 1).numpy()


def embed(pipeline: Any, texts: list[str]) -> torch.Tensor:
    """Text embeddings (n, tokens, width) as the pipeline's own prompt encoding gives them."""
    ids, _ = token_ids(pipeline.tokenizer, texts)
    return pipeline.text_encoder(torch.from_numpy(ids).to(pipeline.device))[0].to(pipeline.unet.dtype)
