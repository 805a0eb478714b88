"""The samples folder: generation sharded over processes, resumable; metadata.csv with the seed of every image."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from sdcxr.config import GenerateConfig
from sdcxr.generation.plan import plan_samples, read_prompts
from sdcxr.io.files import claim_folder
from sdcxr.io.manifest import LABELS, write_metadata

SAMPLES_RECORD = "generate.json"


def generate(config: GenerateConfig) -> int:
    """Generate the missing images, then write metadata.csv. Returns the exit code.

    Raises:
        UserError: prompts, model or output folder cannot be used; says why.
    """
    prompts = read_prompts(config.prompts)
    rows = prompts[: config.max_prompts]
    jobs = plan_samples(rows, config)

    import torch

    from sdcxr import backbones
    from sdcxr.generation.sampler import Sampler
    from sdcxr.io.pixels import write_png
    from sdcxr.runtime.processes import processes
    from sdcxr.runtime.threads import use_all_cores

    use_all_cores()
    output, state = Path(config.output_dir), processes()
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.mixed_precision]
    where = backbones.locate_pipeline(config.model)
    sampler = Sampler(
        backbones.load(where, dtype),
        config.scheduler,
        config.num_inference_steps,
        config.guidance_scale,
        config.resolution,
    )
    settings = settings_of(config, prompts, where, sampler.resolution)
    if state.is_main_process:
        claim_folder(output, SAMPLES_RECORD, settings, "a samples folder")
    state.wait_for_everyone()
    missing = [job for job in jobs if not (output / job["file_name"]).is_file()]
    state.wait_for_everyone()
    if not missing and (output / "metadata.csv").is_file():
        if state.is_main_process:
            print(f"{output} is finished: {len(jobs)} images")
        return 0
    sampler.to(state.device)
    mine = missing[state.process_index :: state.num_processes]
    with tqdm(total=len(mine), desc="generating", unit="image", disable=not (mine and state.is_main_process)) as bar:
        for start in range(0, len(mine), config.batch_size):
            batch = mine[start : start + config.batch_size]
            images = sampler.sample([job["text"] for job in batch], [job["seed"] for job in batch])
            for job, image in zip(batch, images, strict=True):
                write_png(output / job["file_name"], image)
            bar.update(len(batch))
    state.wait_for_everyone()
    if state.is_main_process:
        write_metadata(output, pd.DataFrame(jobs))
        print(f"finished: {output} ({len(jobs)} images of {len(rows)} prompts)")
    return 0


def settings_of(config: GenerateConfig, prompts: pd.DataFrame, where: str, resolution: int) -> dict[str, Any]:
    """The settings that the folder depends on; prompts and weights of a local model as hashes."""
    names = ("num_inference_steps", "guidance_scale", "scheduler", "seed", "mixed_precision", "num_images_per_prompt")
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name in names}
    settings |= {"model": config.model, "resolution": resolution}
    columns = ["id", "text", *(name for name in LABELS if name in prompts)]
    settings["prompts_sha256"] = hashlib.sha256(prompts[columns].to_csv(index=False).encode()).hexdigest()[:16]
    if Path(where).is_dir():
        digest = hashlib.sha256()
        for file in sorted(Path(where).glob("*/*.safetensors")):
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        settings["weights_sha256"] = digest.hexdigest()[:16]
        del settings["model"]  # the folder may be called differently
    return settings
