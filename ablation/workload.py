"""How much a task has to do: images to train on or to make, and the GPU-hours of them."""

from typing import Any

from ablation.cells import EMBEDDED, Task, references

PIXELS = 512  # side of the images for which the costs below hold
UNET_TFLOP = 0.803  # a pass of the UNet of Stable Diffusion 1 or 2, a multiply-add being two (docs/performance.md)
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


def tflop_per_image(task: Task) -> float | None:
    """Cost of an image in training or generation with the networks of Stable Diffusion 1 or 2, in units of 1e12 FLOP.

    None of other commands, of small networks, and of the embedded base.
    """
    flags = defaults_of(task)
    base = flags.get("base") if task.command == "train" else flags.get("model")
    if task.command not in ("train", "generate") or base is None or EMBEDDED in references(base):
        return None
    size = ((flags["resolution"] or PIXELS) / PIXELS) ** 2
    if task.command == "generate":
        guidance = flags["guidance_scale"]
        passes = 2 if guidance is None or guidance > 1 else 1
        return size * ((flags["num_inference_steps"] or STEPS) * passes * UNET_TFLOP + DECODER_TFLOP)
    parts = set(str(flags["tune"]).split("+"))
    if parts == {"vae"}:
        return size * BACKWARD * VAE_TFLOP
    return size * BACKWARD * UNET_TFLOP if parts <= OF_UNET else None
