"""Run every evaluation that the given folders and networks allow; write scores.json and report.html.

    python -m eval --real DATASET/test --synthetic SAMPLES --train DATASET/train --output_dir DIR
    python -m eval … --synthetic A --synthetic B                      # two models on one page, with their differences
    python -m eval … --classifier RUN --image_text_model RUN          # networks trained by train.py
    python -m eval … --reid DIR                                       # also training patients in new images
    python -m eval … --weights_dir DIR                                # also published networks with weights in DIR
    python -m eval … --extractor xrv-all,rad-dino --preset fid-clean  # only these for distances

Evaluations whose weights are absent are left out and listed in the report; one that a flag asks for and that cannot be
done is an error. The same command again computes only what is missing, also with another model added. To use several
processes, extract features first: `accelerate launch -m eval.features`; they are cached.
"""

import shlex
import sys
from pathlib import Path

from eval.summary.config import EvalConfig
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError


def main(config: EvalConfig) -> int:
    from eval.inputs.folders import read_folder, read_models
    from eval.scores import print_remarks
    from eval.summary.html import Report, write_report
    from eval.summary.models import name_models
    from eval.summary.output import write_tables
    from eval.summary.plan import plan_steps, resolve_inputs
    from eval.summary.steps import run_steps

    real, samples = read_models(config.real, config.models)
    models = name_models(samples)
    train = read_folder(config.train, "--train") if config.train else None
    output = Path(config.output_dir).expanduser()
    sides = [real, *(model.images for model in models), *([train] if train else [])]
    if output.resolve() in {side.folder.resolve() for side in sides}:
        raise UserError(f"--output_dir {output} is a folder of images: name another one")
    steps, skipped = plan_steps(resolve_inputs(config, real, models, train))
    counts = " and ".join(str(len(model.images)) for model in models)
    titles = ", ".join(dict.fromkeys(step.title for step in steps))
    print(f"{len(real)} real and {counts} synthetic images: {titles}", flush=True)
    output.mkdir(parents=True, exist_ok=True)
    outcome = run_steps(steps, skipped, output)
    command = shlex.join(["python", "-m", "eval", *sys.argv[1:]])
    differences = write_tables(output, outcome, models)
    write_report(
        output / "report.html", Report(real, models, train, outcome, differences, command, config.show_prompts)
    )
    print_remarks([f"{one.name}: {one.reason}" for one in outcome.skipped], outcome.warnings)
    if all(row["step"] == "images" for row in outcome.rows):  # what the files are is no score
        raise UserError(f"nothing could be measured: {output / 'report.html'} says why")
    print(f"{output / 'report.html'}: {len(outcome.rows)} scores, also in scores.json")
    return 0


if __name__ == "__main__":
    run(main)
