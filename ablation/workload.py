"""How much a task has to do: images to train on or to make, and the GPU-hours of them."""

import re
from collections.abc import Mapping
from typing import Any

from ablation.cells import EMBEDDED, Task, references

PIXELS = 512  # side of the images for which the costs below hold
UNET_TFLOP = 0.803  # a pass of the UNet of Stable Diffusion 1 or 2, a multiply-add being two (docs/performance.md)
# The same of other families, and their sampling steps by default, by what the name of a base has; the first counts.
DENOISERS = {
    "klein": (10.173, 50),
    "sana_1600m": (0.837, 20),
    "sana": (0.316, 20),
    "pixart": (1.289, 20),
    "-xl-": (1.589, 50),
    "stable-diffusion-3.5": (2.138, 28),
    "stable-diffusion-3": (1.803, 28),
}
DECODER_TFLOP = 2.5  # of the VAE's decoder; the encoder takes 1.1
VAE_TFLOP = 3.6
STEPS = 75  # of generate.py by default
BACKWARD = 3  # a forward and a backward pass cost three forward passes
OF_UNET = {"unet", "text"}  # parts that train through the UNet; classifiers and the like are small


def defaults_of(task: Task) -> dict[str, Any]:
    """All flags of a task, defaults included."""
    return {name: getattr(task.program.config, name, None) for name in task.program.hints} | dict(task.flags)


def trained_images(task: Task) -> int | None:
    """Images that a training takes, repeats included; None of other commands, or where it counts otherwise."""
    if task.command != "train":
        return None
    flags = defaults_of(task)
    batch = flags["total_train_batch_size"] or flags["train_batch_size"] * flags["gradient_accumulation_steps"]
    return int(flags["max_train_steps"] * batch) if flags["max_train_steps"] else None


def units_of(task: Task) -> float:
    """The size of a task among those of its stage, to which its time is taken to be proportional."""
    if task.command == "generate":
        flags = defaults_of(task)
        return float(
            (flags["max_prompts"] or 1) * flags["num_images_per_prompt"] * (flags["num_inference_steps"] or STEPS)
        )
    return float(trained_images(task) or 1)


def base_of(task: Task, tasks: Mapping[str, Task]) -> tuple[str | None, int | None]:
    """The base at the end of a chain of trainings (None: the embedded one), and the size of the images (None: open)."""
    flags = defaults_of(task)
    base, side = flags.get("base") or flags.get("model"), flags.get("resolution")
    if base is None or EMBEDDED in references(base):
        return None, side
    if made := re.fullmatch(r"\$\{\w+:(\w+)\}", str(base)):
        base, before = base_of(tasks[made[1]], tasks)
        return base, side or before
    return str(base), side


def tflop_per_image(task: Task, tasks: Mapping[str, Task]) -> float | None:
    """Cost of an image in training or generation, in units of 1e12 FLOP.

    None of other commands, of small networks, and of the embedded base. `tasks`: all, by key.
    """
    base, side = base_of(task, tasks) if task.command in ("train", "generate") else (None, None)
    if base is None:
        return None
    flags, size = defaults_of(task), ((side or PIXELS) / PIXELS) ** 2
    of_family = (DENOISERS[part] for part in DENOISERS if part in base.lower())
    tflop, steps = next(of_family, (UNET_TFLOP, STEPS))
    if task.command == "generate":
        guidance = flags["guidance_scale"]
        passes = 2 if guidance is None or guidance > 1 else 1
        return size * ((flags["num_inference_steps"] or steps) * passes * tflop + DECODER_TFLOP)
    parts = set(str(flags["tune"]).split("+"))
    if parts == {"vae"}:
        return size * BACKWARD * VAE_TFLOP
    return size * BACKWARD * tflop if parts <= OF_UNET else None
