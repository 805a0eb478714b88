"""What a grid would do: its cells, commands, numbers of images, and GPU-hours."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

from ablation.cells import Plan, Task, task_output, with_folders
from ablation.progress import DONE, Progress
from ablation.runner import command_line, read_state
from ablation.sbatch import SUBMISSIONS, Options, scripts
from ablation.workload import PIXELS, defaults_of, tflop_per_image, trained_images

ASSUMED = (
    "{hours:,.1f} GPU-hours for {names}, if a GPU keeps up {tflops:g} TFLOP/s (--gpu_tflops; published trainings: 87 "
    "on an A100, 305 on an H100, docs/performance.md), at "
    f"{PIXELS} px where no resolution is named; a base whose name tells no family counts as Stable Diffusion 1 or 2"
)
NOT_COUNTED = "not in these hours: {names}"


def describe(root: Path, plan: Plan, gpu_tflops: float = 100.0, slurm: Mapping[str, Options] | None = None) -> str:
    """Cells with what is done of them, each command once, the images that are left, and the time that they take.

    Args:
        root: folder of the grid.
        plan: its plan.
        gpu_tflops: 1e12 operations a second that a GPU keeps up.
        slurm: options of sbatch by stage; the scripts of stages with commands that are left come after these.
    """
    states = {key: read_state(root, task) for key, task in plan.tasks.items()}
    done = {key for key, state in states.items() if state.get("state") == DONE}
    lines = [f"{len(plan.cells)} cells, {len(plan.tasks)} commands, {len(done)} of them done", ""]
    for cell in plan.cells:
        ready = sum(key in done for key in cell.tasks.values())
        lines.append(f"cell {cell.name}: {ready} of {len(cell.tasks)} commands done")
    lines.append("")
    left = [task for key, task in plan.tasks.items() if key not in done]
    for task in left:
        lines += [f"# {task.stage} {task.name}".rstrip(), command_line(root, plan, task)]
    if slurm:
        lines += ["", *scripts(slurm, root / SUBMISSIONS, Counter(task.stage for task in left))]
    measured = Progress(plan, 1)
    for key in done:
        measured.add_seconds(plan.tasks[key], states[key]["seconds"])
    return "\n".join([*lines, "", *images_left(root, plan, left, gpu_tflops), *hours_measured(measured, left)])


def images_left(root: Path, plan: Plan, left: list[Task], gpu_tflops: float) -> list[str]:
    """How many images are left by stage, and their GPU-hours at an assumed speed."""
    trained, made, per_prompt = Counter[str](), Counter[str](), Counter[str]()
    work, counted, others = 0.0, set(), {task.stage for task in left}
    for task in left:
        images = trained_images(task)
        if images is not None:
            trained[task.stage] += images
        elif task.command == "generate":
            flags = defaults_of(task)
            n = flags["max_prompts"] or _prompts(root, plan, flags["prompts"])
            each = flags["num_images_per_prompt"]
            images = None if n is None else n * each
            (per_prompt if images is None else made)[task.stage] += each if images is None else images
        cost = tflop_per_image(task, plan.tasks)
        if images is not None and cost is not None:
            work += images * cost
            counted.add(task.stage)
    others -= counted - per_prompt.keys()
    lines = [f"{stage}: {n:,} images to train on" for stage, n in trained.items()]
    lines += [f"{stage}: {n:,} images to generate" for stage, n in made.items()]
    lines += [f"{stage}: {n:,} images to generate for each prompt of its data" for stage, n in per_prompt.items()]
    if counted:
        hours = work / gpu_tflops / 3600
        lines.append(ASSUMED.format(hours=hours, names=", ".join(sorted(counted)), tflops=gpu_tflops))
        lines += [NOT_COUNTED.format(names=", ".join(sorted(others)))] if others else []
    return lines


def hours_measured(measured: Progress, left: list[Task]) -> list[str]:
    """The hours of one device by what the finished tasks of the same stages took, in proportion to their images."""
    seconds: defaultdict[str, float] = defaultdict(float)
    unknown: set[str] = set()
    for task in left:
        expected = measured.seconds_of(task)
        if expected is None:
            unknown.add(task.stage)
        else:
            seconds[task.stage] += expected
    if not seconds:
        return []
    about = ", ".join(f"{stage} {value / 3600:,.2f}" for stage, value in seconds.items())
    more = f"; {', '.join(sorted(unknown))} not finished yet in any cell" if unknown else ""
    total = sum(seconds.values()) / 3600
    return [f"{total:,.2f} device-hours left by the speed of what was done here ({about}{more})"]


def _prompts(root: Path, plan: Plan, prompts: str) -> int | None:
    """Rows of a split's table, where it is there."""
    place = Path(with_folders({"of": prompts}, lambda key: task_output(root, plan.tasks[key]))["of"])
    if not (place / "metadata.csv").is_file():
        return None
    from sdcxr.io.manifest import read_metadata

    return len(read_metadata(place))
