"""All that can be measured with what is there: one scores.json, and one report.html that a browser opens from disk.

    python -m eval --real DATASET/test --synthetic SAMPLES --train DATASET/train --output_dir DIR
    python -m eval … --classifier RUN --clip RUN                      # networks trained by train.py
    python -m eval … --reid DIR                                       # and patients shown anew, found by a network
    python -m eval … --weights_dir DIR                                # and published ones whose weights lie there
    python -m eval … --extractor xrv-all,rad-dino --preset fid-clean  # just these for distances

What has no weights here is left out and named in the report; what was asked for by a flag and cannot be done is an
error. The same command again computes only what is missing. On several processes extract features first:
`accelerate launch -m eval.features`; they are kept.
"""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError


@dataclass
class EvalConfig:
    """What to measure, and with which networks."""

    real: str
    """Split of a dataset folder with patients that the model was not trained on, or a folder of images."""
    synthetic: str
    """Samples folder, or a folder of images."""
    output_dir: str
    """Folder for scores.json, report.html and nearest.csv."""
    train: str | None = None
    """Split that the model was trained on, for privacy."""
    reid: str | None = None
    """Network that tells patients apart, for privacy: name of an extractor, or a folder with one. Default: none."""
    classifier: str | None = None
    """Run folder of `train.py --tune classifier`, or a classifier that eval.classifier knows by name."""
    clip: str | None = None
    """Run folder of `train.py --tune clip`, or another extractor with a text tower."""
    generator: str | None = None
    """Image-to-text model that writes reports: a folder, or the name of one in the hub's cache."""
    model: str | None = None
    """Run folder of the model that made the samples, for what became of its text encoder."""
    utility: str | None = None
    """scores.json of eval.utility, which trains for hours: its rows join the report."""
    labels: str | None = None
    """CSV with a dicom_id column and 0/1 columns, for the classifier. Default: the labels in metadata.csv."""
    findings: str | None = None
    """What the classifier is asked, separated by commas. Default: all that it knows and the labels have."""
    extractor: str | None = None
    """Extractors for distances between the distributions, separated by commas. Default: all that are there."""
    preset: str | None = None
    """Published ways to measure these distances, separated by commas. Default: all whose weights are there."""
    weights_dir: str | None = None
    """Folder with the weights of named extractors."""
    resamples: int = 100
    """Random halves behind the intervals of these distances; 0 for none."""
    show_prompts: bool = False
    """Show the texts of prompts in the report. Those of phantoms are shown always, others can be patients'."""
    seed: int = 0
    """Of all draws."""

    def __post_init__(self) -> None:
        if self.resamples < 0 or 0 < self.resamples < 20:
            raise UserError(f"--resamples {self.resamples}: 0 for no intervals, or at least 20")
        if (self.labels or self.findings) and not self.classifier:
            raise UserError("--labels and --findings are for --classifier: name one")
        if self.reid and not self.train:
            raise UserError("--reid looks for the patients of --train: name it")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                "python -m eval is one process: extract features with accelerate launch -m eval.features, then run it"
            )


def main(config: EvalConfig) -> int:
    from eval.inputs.folders import read_folder, read_sides
    from eval.scores import write_scores
    from eval.summary.html import Report, write_report
    from eval.summary.plan import plan
    from eval.summary.steps import run_parts

    real, synthetic = read_sides(config.real, config.synthetic)
    train = read_folder(config.train, "--train") if config.train else None
    output = Path(config.output_dir).expanduser()
    if output.resolve() in {side.folder.resolve() for side in (real, synthetic, train) if side is not None}:
        raise UserError(f"--output_dir {output} is a folder of images: name another one")
    parts, skipped = plan(config, real, synthetic, train, output)
    print(
        f"{len(real)} real and {len(synthetic)} synthetic images: {', '.join(part.name for part in parts)}", flush=True
    )
    output.mkdir(parents=True, exist_ok=True)
    outcome = run_parts(parts, skipped, output)
    write_scores(output / "scores.json", outcome.rows)
    command = shlex.join(["python", "-m", "eval", *sys.argv[1:]])
    report = Report(real, synthetic, train, outcome, command, output / "nearest.csv", config.show_prompts)
    write_report(output / "report.html", report)
    for one in outcome.skipped:
        print(f"left out: {one.name}: {one.reason}")
    for line in outcome.warnings:
        print(f"warning: {line}")
    if not outcome.rows:
        raise UserError(f"nothing could be measured: {output / 'report.html'} says why")
    print(f"{output / 'report.html'}: {len(outcome.rows)} scores, also in scores.json")
    return 0


if __name__ == "__main__":
    run(main)
