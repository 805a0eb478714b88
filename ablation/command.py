"""Ablation grids: every cell of a YAML file prepared, trained, sampled and measured; tables, plots and a report.

    python ablate.py --grid configs/grids/components.yaml --scale demo --output_dir runs/components
    python ablate.py --grid configs/grids/components.yaml --set prepare.images=DIR --output_dir DIR --dry_run
    python ablate.py --grid FILE --output_dir DIR --jobs 4                 # four commands at a time
    python ablate.py --grid FILE --output_dir DIR --retry_failed
    python ablate.py --grid FILE --output_dir DIR --launcher slurm --sbatch partition=gpu --sbatch train.gpus-per-node=8

The same command again does only what is missing, also with values, axes or seeds added to the file. Cells that agree in
the flags of a stage share it. Ctrl-C lets every command save where it is; jobs in SLURM's queue stay there, and the
next call picks them up.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablation.config import AblateConfig
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError

if TYPE_CHECKING:
    from ablation.cells import Plan
    from ablation.launcher import Launcher


def main(config: AblateConfig) -> int:
    from ablation.cells import plan_grid
    from ablation.dry_run import describe
    from ablation.grid import read_grid
    from ablation.runner import Runner
    from sdcxr.io.files import write_json
    from sdcxr.io.locks import locked

    path, root = Path(config.grid).expanduser(), Path(config.output_dir).expanduser().resolve()
    try:
        plan = plan_grid(read_grid(path, config.scale, config.settings))
    except UserError as error:
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    options = slurm_options(config, plan) if config.launcher == "slurm" else {}
    if config.dry_run:
        print(describe(root, plan, config.gpu_tflops, options))
        return 0
    with locked(root):
        write_json(root / "cells.json", {cell.name: dict(cell.tasks) for cell in plan.cells})
        launcher = slurm_launcher(config, root, options) if options else local_launcher(config)
        print(f"{len(plan.cells)} cells, {len(plan.tasks)} commands, {launcher.slots} at a time", flush=True)
        code = Runner(root, plan, launcher, config.retry_failed).run()
        if code in (0, 1) and not publish(root, plan, config):
            code = 1
    return code


def local_launcher(config: AblateConfig) -> "Launcher":
    """The launcher of this machine.

    Raises:
        UserError: it has fewer GPUs than a job takes.
    """
    from ablation.local import Local, visible_gpus

    gpus = visible_gpus()
    if config.gpus_per_job > max(1, len(gpus)):
        raise UserError(f"--gpus_per_job {config.gpus_per_job}: this machine has {len(gpus)}")
    return Local(config.jobs or max(1, len(gpus) // config.gpus_per_job), gpus, config.gpus_per_job)


def slurm_options(config: AblateConfig, plan: "Plan") -> dict[str, dict[str, Any]]:
    """The options of sbatch of each stage that the plan has.

    Raises:
        UserError: an option is wrong, or submitit is not installed.
    """
    from ablation.sbatch import require_submitit, stage_options

    require_submitit()
    stages = {task.stage for task in plan.tasks.values()}
    return {stage: one for stage, one in stage_options(plan.grid, config.sbatch_options).items() if stage in stages}


def slurm_launcher(config: AblateConfig, root: Path, options: dict[str, dict[str, Any]]) -> "Launcher":
    """The launcher of the cluster that this machine belongs to.

    Raises:
        UserError: there is none, or it refuses the options of a stage.
    """
    from ablation.slurm import LARGEST_ARRAY, Slurm

    return Slurm(root, options, config.jobs or LARGEST_ARRAY)


def publish(root: Path, plan: "Plan", config: AblateConfig) -> bool:
    """The results of all measured cells, in files of the grid's folder; False where those of a cell are damaged."""
    from ablation.report import REPORT, write_report
    from ablation.results import DIFFERENCES, RESULTS, arms_of, measured_cells, write_differences, write_results
    from ablation.tables import LATEX, MARKDOWN, write_tables

    measured, problems = measured_cells(root, plan)
    for line in problems:
        print(line, flush=True)
    if not measured:
        old = [name for name in (RESULTS, DIFFERENCES, MARKDOWN, LATEX, REPORT) if (root / name).exists()]
        print("no cell is measured yet" + (f"; {', '.join(old)}: of an earlier call" if old else ""))
        return not problems
    arms = arms_of(plan, measured)
    write_results(root, plan, measured, arms)
    differences = arms.differences()
    write_differences(root, arms, differences)
    write_tables(root, plan, arms, differences)
    write_report(root / REPORT, plan, arms, differences, measured, config.show_prompts)
    print(f"{root / REPORT}: {len(measured)} of {len(plan.cells)} cells; also results.csv, table.md, table.tex")
    return not problems


def entry() -> None:
    """Parse sys.argv and exit with the code of `main`."""
    run(main)
