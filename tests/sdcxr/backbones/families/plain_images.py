"""Images of saved pipelines by diffusers alone: `plain_images.py PLAN.json`, without sdcxr."""

import json
import sys
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

for job in json.loads(Path(sys.argv[1]).read_text()):
    folder = Path(job["folder"])
    pipe = DiffusionPipeline.from_pretrained(folder / "run" / "pipeline", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    for k, seed in enumerate(job["seeds"]):
        image = pipe(**job["call"], generator=torch.Generator("cpu").manual_seed(seed)).images[0]
        image.convert("RGB").save(folder / f"plain_{k}.png")
assert "sdcxr" not in sys.modules
