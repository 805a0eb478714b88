"""What a grid would do: its cells, commands and numbers of images."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablation.cells import Plan, Task, task_output, with_folders
from ablation.runner import DONE, Progress, command_line, read_state
from ablation.sbatch import SUBMISSIONS, Options, scripts


def describe(root: Path, plan: Plan, slurm: Mapping[str, Options] | None = None) -> str:
    """Cells with what is done of them, each command once, and the images that are left to train on and to make.

    Args:
        root: folder of the grid.
        plan: its plan.
        slurm: options of sbatch by stage; the scripts of stages with commands that are left come after these.
    """
    done = {key for key, task in plan.tasks.items() if read_state(root, task).get("state") == DONE}
    lines = [f"{len(plan.cells)} cells, {len(plan.tasks)} commands, {len(done)} of them done", ""]
    for cell in plan.cells:
        ready = sum(key in done for key in cell.tasks.values())
        lines.append(f"cell {cell.name}: {ready} of {len(cell.tasks)} commands done")
    lines.append("")
    for key, task in plan.tasks.items():
        if key not in done:
            lines += [f"# {task.stage} {task.name}".rstrip(), command_line(root, plan, task)]
    if slurm:
        left = Counter(task.stage for key, task in plan.tasks.items() if key not in done)
        lines += ["", *scripts(slurm, root / SUBMISSIONS, left)]
    return "\n".join([*lines, "", *images_left(root, plan, done)])


def images_left(root: Path, plan: Plan, done: set[str]) -> list[str]:
    """How many images are left, by stage; those of prompts that are not there yet are not known."""
    trained, made, per_prompt = Counter[str](), Counter[str](), Counter[str]()
    for key, task in plan.tasks.items():
        if key in done:
            continue
        flags = {**_defaults(task), **task.flags}
        if task.command == "train" and flags["max_train_steps"]:
            batch = flags["total_train_batch_size"] or flags["train_batch_size"] * flags["gradient_accumulation_steps"]
            trained[task.stage] += flags["max_train_steps"] * batch
        elif task.command == "generate":
            n = flags["max_prompts"] or _prompts(root, plan, flags["prompts"])
            each = flags["num_images_per_prompt"]
            if n is None:
                per_prompt[task.stage] += each
            else:
                made[task.stage] += n * each
    lines = [f"{stage}: {n:,} images to train on" for stage, n in trained.items()]
    lines += [f"{stage}: {n:,} images to generate" for stage, n in made.items()]
    lines += [f"{stage}: {n:,} images to generate for each prompt of its data" for stage, n in per_prompt.items()]
    known = Progress(plan, 1)
    for task in plan.tasks.values():
        if (state := read_state(root, task)).get("state") == DONE:
            known.states[task.key] = DONE
            known.seconds.setdefault(task.stage, []).append(state["seconds"])
    left = known.left()
    return lines + ([f"about {left / 3600:.1f} device-hours, by what was done so far"] if left else [])


def _defaults(task: Task) -> dict[str, Any]:
    return {name: getattr(task.program.config, name, None) for name in task.program.hints}


def _prompts(root: Path, plan: Plan, prompts: str) -> int | None:
    """Rows of a split's table, where it is there."""
    place = Path(with_folders({"of": prompts}, lambda key: task_output(root, plan.tasks[key]))["of"])
    if not (place / "metadata.csv").is_file():
        return None
    from sdcxr.io.manifest import read_metadata

    return len(read_metadata(place))
