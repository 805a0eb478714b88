"""Plain diffusers, in a process of its own with none of our code, makes the recorded images again; older versions, too.

    pip install --no-deps --target DIR transformers==4.57.1 diffusers==0.35.2 tokenizers==0.22.1 huggingface_hub==0.36.0
    SDCXR_OLDER_LIBRARIES=DIR python -m pytest -m external tests/sdcxr/generation/test_plain_diffusers.py

Several folders are separated by colons; with diffusers 0.31.0 go transformers 4.46.3, tokenizers 0.20.3 and
huggingface_hub 0.26.5.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sdcxr import backbones
from sdcxr.embedded.base import tiny
from sdcxr.generation.config import GenerateConfig
from sdcxr.generation.samples_folder import generate

OLDER = [folder for folder in os.environ.get("SDCXR_OLDER_LIBRARIES", "").split(":") if folder]

PLAIN = """
import csv, json, sys
import numpy as np, torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler, StableDiffusionPipeline
from PIL import Image

kinds = {"pndm": PNDMScheduler, "ddim": DDIMScheduler, "dpm++": DPMSolverMultistepScheduler}
pipeline = StableDiffusionPipeline.from_pretrained(sys.argv[1])
pipeline.set_progress_bar_config(disable=True)
apart = {}
for folder in sys.argv[2:]:
    for row in csv.DictReader(open(folder + "/metadata.csv", encoding="utf-8")):
        pipeline.scheduler = kinds[row["scheduler"]].from_config(pipeline.scheduler.config)
        image = pipeline(
            row["text"],
            num_inference_steps=int(row["num_inference_steps"]),
            guidance_scale=float(row["guidance_scale"]),
            negative_prompt=row.get("negative_prompt"),
            clip_skip=int(row["clip_skip"]) if row.get("clip_skip") else None,
            generator=torch.Generator("cpu").manual_seed(int(row["seed"])),
        ).images[0]
        grey = np.asarray(image).astype(float).mean(axis=2).round()
        own = np.asarray(Image.open(folder + "/" + row["file_name"])).astype(float)
        apart[folder + "/" + row["file_name"]] = [float(np.abs(grey - own).max()), float(own.std())]
assert not any(name.split(".")[0] in ("sdcxr", "eval", "data_prep") for name in sys.modules)
tokens = pipeline.tokenizer("Left <cxr-style> effusion, 3.5 cm.", padding="max_length").input_ids
print(json.dumps({"apart": apart, "tokens": tokens}))
"""


def make(model: Path, output: Path, **settings: Any) -> Path:
    table = output.parent / "prompts.csv"
    table.write_text("id,text\na,Large left pneumothorax.\nb,No acute <cxr-style> process.\n")
    fixed = {"num_images_per_prompt": 2, "num_inference_steps": 5, "guidance_scale": 9.0}
    assert generate(GenerateConfig(str(model), str(table), str(output), **(fixed | settings))) == 0
    return output


def made_again(pipeline: Path, *samples: Path, libraries: str = "") -> list[int]:
    """Compare images with those of plain diffusers; returns token ids by its tokenizer."""
    command = [sys.executable, "-W", "ignore", "-c", PLAIN, str(pipeline), *map(str, samples)]
    own = os.environ | {"PYTHONPATH": libraries}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=samples[0].parent, env=own)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["apart"]) == sum(len(list(folder.glob("*.png"))) for folder in samples) > 0
    for name, (difference, spread) in found["apart"].items():
        assert difference <= 1 and spread > 0, name
    return list(found["tokens"])


@pytest.mark.slow
def test_plain_diffusers_makes_the_recorded_images_again(train_micro, tmp_path):
    assert train_micro(tmp_path / "run", tune="unet+text") == 0
    folders = [make(tmp_path / "run", tmp_path / name, scheduler=name) for name in ("pndm", "ddim", "dpm++")]
    folders.append(make(tmp_path / "run", tmp_path / "negative", negative_prompt="Right effusion."))
    made_again(tmp_path / "run" / "pipeline", *folders)


@pytest.mark.external
@pytest.mark.skipif(not OLDER, reason="SDCXR_OLDER_LIBRARIES names no folder")
@pytest.mark.parametrize("libraries", OLDER)
def test_older_libraries_make_the_recorded_images_again(train_micro, tmp_path, libraries):
    """A trained base of the hub's layout, and the embedded one with an added word, which was made in this process."""
    assert train_micro(tmp_path / "run", tune="unet+text") == 0
    embedded = tiny()
    embedded.tokenizer.add_tokens(["<cxr-style>"])
    embedded.parts["text"].resize_token_embeddings(49409)
    backbones.save(embedded, tmp_path / "embedded")
    for model, pipeline in (("run", tmp_path / "run" / "pipeline"), ("embedded", tmp_path / "embedded")):
        samples = [make(tmp_path / model, tmp_path / f"{model}-samples", scheduler="ddim")]
        if model == "embedded":
            more = {"negative_prompt": "Right effusion.", "clip_skip": 1}
            samples.append(make(tmp_path / model, tmp_path / "more", **more))
        expected = backbones.load(str(pipeline)).tokenizer("Left <cxr-style> effusion, 3.5 cm.", padding="max_length")
        assert made_again(pipeline, *samples, libraries=libraries) == expected.input_ids
