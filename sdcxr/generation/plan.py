"""The plan of the images to generate: file names, seeds and settings, a row of metadata.csv for each."""

import hashlib
from typing import Any

import pandas as pd

from sdcxr.generation.config import GenerateConfig
from sdcxr.io.manifest import LABELS, SAMPLE_COLUMNS
from sdcxr.text.templates import template_of

OPTIONAL = ("negative_prompt", "clip_skip")  # columns only where they are used


def plan_samples(rows: pd.DataFrame, config: GenerateConfig, model: str) -> list[dict[str, Any]]:
    """The row of metadata.csv of every image: file name, text, seed, settings, and the labels of the prompt.

    Args:
        rows: the prompts, see `prompts.read_prompts`.
        config: the settings.
        model: what the images are made with.
    """
    labels = [name for name in LABELS if name in rows]
    fixed = {
        "guidance_scale": config.guidance_scale,
        "num_inference_steps": config.num_inference_steps,
        "scheduler": config.scheduler,
        "model": model,
    }
    used = {name: getattr(config, name) for name in OPTIONAL if getattr(config, name) is not None}
    used |= {"text_mode": config.text} if config.text != "raw" else {}
    jobs = []
    for row in rows.to_dict("records"):
        templates = config.templates
        own_template = {"prompt_template": template_of(templates, row["id"], config.seed)} if templates else {}
        for k in range(config.num_images_per_prompt):
            own = {"file_name": f"{row['id']}_{k}.png", "text": row["text"], "id": row["id"]}
            own["seed"] = image_seed(config.seed, row["id"], k)
            job = own | fixed
            jobs.append(
                {name: job[name] for name in SAMPLE_COLUMNS}
                | own_template
                | used
                | {name: row[name] for name in labels}
            )
    return jobs


def image_seed(seed: int, prompt_id: str, k: int) -> int:
    """The seed of a prompt's k-th image, in [0, 2^48): exact in every table, even one that reads it as a float."""
    digest = hashlib.sha256(f"{seed}/{prompt_id}/{k}".encode()).digest()
    return int.from_bytes(digest[:6], "big")
