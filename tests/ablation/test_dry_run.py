"""What --dry_run prints: cells, commands, images, and hours."""

from pathlib import Path

import pytest

from ablation.cells import plan_grid, task_folder, task_output
from ablation.dry_run import describe
from ablation.grid import parse_grid
from ablation.runner import STATE
from ablation.workload import DECODER_TFLOP, DENOISERS, UNET_TFLOP, VAE_TFLOP, tflop_per_image, units_of
from sdcxr.io.files import write_json

STAGES = {
    "prepare": {"command": "stub"},
    "train": {"command": "stub", "flags": {"data": "${prepare}"}},
    "evaluate": {"command": "stub", "flags": {"data": "${train}"}},
}
TRAINED = {
    "train": {"flags": {"data": "d", "base": "CompVis/stable-diffusion-v1-4", "max_train_steps": 100}},
    "generate": {"flags": {"model": "${train}", "prompts": "p", "max_prompts": 10, "num_images_per_prompt": 2}},
}
TRAINED["train"]["flags"]["total_train_batch_size"] = 8


def plan_of(**content):
    return plan_grid(parse_grid({"stages": STAGES, **content}))


def settle(root: Path, task, seconds: float) -> None:
    task_output(root, task).mkdir(parents=True)
    (task_output(root, task) / "x").touch()
    write_json(task_folder(root, task) / STATE, {"state": "done", "key": task.key, "seconds": seconds})


def test_dry_run_runs_nothing(stub, tmp_path):
    text = describe(tmp_path / "out", plan_of(axes={"train.value": [1, 2]}))
    assert text.startswith("2 cells, 5 commands, 0 of them done")
    assert f"--data {tmp_path}/out/prepare/" in text and "--value 2.0" in text
    assert not stub.exists() and not (tmp_path / "out").exists()


def test_images_and_gpu_hours_are_estimated(tmp_path):
    plan = plan_grid(parse_grid({"stages": TRAINED, "seeds": [0, 1, 2]}))
    text = describe(tmp_path, plan, gpu_tflops=10.0)
    assert "train: 2,400 images to train on" in text and "generate: 60 images to generate" in text
    work = 2400 * 3 * UNET_TFLOP + 60 * (75 * 2 * UNET_TFLOP + DECODER_TFLOP)
    assert f"{work / 10 / 3600:.1f} GPU-hours for generate, train, if a GPU keeps up 10 TFLOP/s" in text


def test_hours_are_in_proportion_to_what_was_done(stub, tmp_path):
    plan = plan_of(axes={"train.value": [1, 2, 3]})
    first = next(task for task in plan.tasks.values() if task.stage == "train")
    settle(tmp_path, first, 1800)
    text = describe(tmp_path, plan)
    assert "1.00 device-hours left by the speed of what was done here (train 1.00" in text
    assert "evaluate, prepare not finished yet in any cell" in text


def only_task(stage: str, **flags):
    stages = {stage: {"flags": {**TRAINED[stage]["flags"], **flags}}}
    if stage == "generate":
        stages["generate"]["flags"].setdefault("model", "m")
    return next(iter(plan_grid(parse_grid({"stages": stages, "axes": {f"{stage}.seed": [0]}})).tasks.values()))


@pytest.mark.parametrize(
    ("flags", "tflop"),
    [
        ({}, 3 * UNET_TFLOP),
        ({"resolution": 256}, 3 * UNET_TFLOP / 4),
        ({"tune": "vae", "caption_dropout": None}, 3 * VAE_TFLOP),
        ({"base": "PixArt-alpha/PixArt-Sigma-XL-2-512-MS"}, 3 * DENOISERS["pixart"][0]),
        ({"base": "stabilityai/stable-diffusion-xl-base-1.0", "resolution": 1024}, 12 * DENOISERS["-xl-"][0]),
        ({"base": "Efficient-Large-Model/Sana_1600M_512px_diffusers"}, 3 * DENOISERS["sana_1600m"][0]),
        ({"base": "stabilityai/stable-diffusion-3.5-medium"}, 3 * DENOISERS["stable-diffusion-3.5"][0]),
        ({"base": "stabilityai/stable-diffusion-3-medium-diffusers"}, 3 * DENOISERS["stable-diffusion-3"][0]),
        ({"base": "${embedded}"}, None),
        ({"base": None}, None),
        ({"tune": "classifier"}, None),
    ],
)
def test_cost_of_an_image(flags, tflop):
    assert tflop_per_image(only_task("train", **flags), {}) == (None if tflop is None else pytest.approx(tflop))


def test_a_generation_costs_what_its_training_was_begun_on():
    def cost(**trained) -> float | None:
        stages = {**TRAINED, "train": {"flags": {**TRAINED["train"]["flags"], **trained}}}
        tasks = plan_grid(parse_grid({"stages": stages, "seeds": [0]})).tasks
        return tflop_per_image(next(task for task in tasks.values() if task.command == "generate"), tasks)

    assert cost(base=None) is None and cost(base="${embedded}") is None
    tflop, steps = DENOISERS["sana"]
    assert cost(base="runs/sana", resolution=1024) == pytest.approx(4 * (steps * 2 * tflop + DECODER_TFLOP))


def test_work_of_a_generation_grows_with_prompts_images_and_steps():
    few = only_task("generate", model="m", num_inference_steps=10)
    many = only_task("generate", model="m", num_inference_steps=50, max_prompts=20)
    assert units_of(many) == 10 * units_of(few)
