"""Augmentation experiment: classifiers trained on real images, synthetic ones, or both, scored on real test images.

    python -m eval.utility --real DATASET --synthetic SAMPLES --output_dir DIR
    python -m eval.utility … --arms "R,S,R+S,S>R,R+3S,5S" --seeds 5     # also 3 and 5 synthetic images per real one
    python -m eval.utility … --max_real_samples 1000                    # with few real images

Arms: R real images; S as many synthetic ones (times --synthetic_factor); R+S both mixed; S>R synthetic ones first, then
real ones. Every arm has the same number of optimizer steps of the same batch; S>R spends half of them on each stage.
The best checkpoint of a run is chosen on the real validation split, never on synthetic images. The classifiers are
scored on the real test split: mean and standard deviation over seeds, and the gain over R with the same seed, with
intervals over patients and seeds. The images of an arm are drawn once, so the deviation is that of training alone.

Generate the samples from the training split, with a model that was trained on no other split: prompts of patients of
validation or test are refused, but the training data of the model cannot be checked here. The same command again
resumes; arms and seeds can be added.
"""

import hashlib
import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eval.augmentation import backbones
from eval.augmentation.arms import Arm, ExperimentData, Labelled, gather, parse_arms, write_training_set
from eval.command import check_at_least, weights_folder
from eval.extractors import classifiers
from eval.inputs.folders import say_phantoms
from eval.metrics.bootstrap import RESAMPLES, mean, no_interval, percentiles, rare_findings, resampled
from eval.metrics.classification import Ranking, auroc
from eval.scores import Result, Row, Rows, print_remarks, publish, score_row
from sdcxr.config import TrainConfig
from sdcxr.io.files import checksum, claim_folder, write_json
from sdcxr.io.labels import UncertainPolicy
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError

BASELINE = "R"
EXPERIMENT_RECORD = "utility.json"
SELECTION = "selection.json"  # in the folder of a run: it is finished and its best checkpoint chosen
FEW_SEEDS = 3


@dataclass
class UtilityConfig:
    """The augmentation experiment."""

    real: str
    """Dataset folder with train, validation and test."""
    synthetic: str
    """Samples folder generated from prompts of its training split."""
    output_dir: str
    """Folder of datasets, runs and scores.json."""
    arms: str = "R,S,R+S,S>R"
    """Separated by commas; a number before S overrides --synthetic_factor, as in R+3S."""
    synthetic_factor: float = 1.0
    """Synthetic images per real training image."""
    seeds: int = 3
    """Runs of each arm."""
    backbone: str = "densenet121"
    """timm model name, whose weights start from random ones; or a DenseNet of torchxrayvision such as xrv-nih, which
    starts from its own. Those have seen their data sets: no radiograph of --real should be among them."""
    weights_dir: str | None = None
    """Folder with torchxrayvision's weights."""
    max_train_steps: int = 5000
    """Optimizer steps of each arm, however many images it has."""
    train_batch_size: int = 32
    """Images per optimizer step and process."""
    learning_rate: float = 1e-3
    """Of AdamW; falls to 0 along a cosine."""
    resolution: int = 224
    """Side of the images that the classifier sees."""
    validation_points: int = 5
    """Checkpoints of each run, evenly spaced, among which the real validation split chooses."""
    max_real_samples: int | None = None
    """Real training images, drawn once. Default: all."""
    labels: str | None = None
    """CSV with a dicom_id column and columns of 1, 0, -1 and empty. Default: the labels in metadata.csv."""
    findings: str | None = None
    """Names separated by commas. Default: all that have both classes in every set of images."""
    uncertain: UncertainPolicy = "ignore"
    """What the label -1 counts as: nothing, negative (zeros) or positive (ones). Empty never counts."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "seeds", "train_batch_size", "validation_points", "resolution")
        if self.max_train_steps < 2 * self.validation_points:
            raise UserError(
                f"--max_train_steps {self.max_train_steps}: must be at least twice --validation_points "
                f"({self.validation_points})"
            )
        if self.learning_rate <= 0 or self.synthetic_factor <= 0:
            raise UserError("--learning_rate and --synthetic_factor must be positive")


def main(config: UtilityConfig) -> int:
    arms, data = read_data(config)
    print_remarks(data.omitted, data.warnings)  # before hours of training
    result = evaluate(config, arms, data)
    say_phantoms(Path(config.real), Path(config.synthetic))
    publish(result, Path(config.output_dir) / "scores.json", table)
    return 0


def read_data(config: UtilityConfig) -> tuple[list[Arm], ExperimentData]:
    """The arms, and all images with their labels.

    Raises:
        UserError: images, labels or patients do not fit.
    """
    arms = parse_arms(config.arms, config.synthetic_factor)
    options = {name: getattr(config, name) for name in ("labels", "findings", "uncertain", "max_real_samples")}
    return arms, gather(config.real, config.synthetic, arms, **options)


def evaluate(config: UtilityConfig, arms: list[Arm], data: ExperimentData) -> Result:
    """Train what is still missing and score all arms.

    Raises:
        UserError: the weights to start from are absent; the folder holds another experiment.
        SystemExit: a signal stopped the training, with its exit code.
    """
    output = Path(config.output_dir).expanduser().resolve()
    weights = backbones.weights_of(config.backbone, weights_folder(config.weights_dir))
    base = str(output / "backbone") if weights else config.backbone

    from sdcxr.runtime.processes import processes

    state = processes()
    if state.is_main_process:
        settings = settings_of(config, data, weights, state.num_processes)
        claim_folder(output, EXPERIMENT_RECORD, settings, "an experiment")
        if weights:
            backbones.write_initial_classifier(Path(base), config.backbone, weights, data.findings, config.resolution)
        for training_set in dict.fromkeys(stage for arm in arms for stage in arm.stages):
            write_training_set(output / "datasets" / training_set.folder, training_set, data)
    state.wait_for_everyone()
    seen: dict[str, list[pd.DataFrame]] = {arm.name: [] for arm in arms}
    for seed in range(config.seeds):
        for arm in arms:
            best = train_arm(config, base, arm, seed, data, output)
            seen[arm.name].append(
                classifiers.find_classifier(str(best)).probabilities(data.test.images, output / "features")
            )
    used = {arm.name: (any(s.real for s in arm.stages), max(map(data.n_synthetic, arm.stages))) for arm in arms}
    sizes = {
        name: {"n_train_real": len(data.train.images) * real, "n_train_synthetic": synthetic}
        for name, (real, synthetic) in used.items()
    }
    rows = score(data.test, seen)
    budget = {"extractor": config.backbone, "max_train_steps": config.max_train_steps}
    omitted = [] if BASELINE in seen else [f"gains (--arms lacks {BASELINE})"]
    return Result([row | budget | sizes[row["arm"]] for row in rows], omitted)


def settings_of(config: UtilityConfig, data: ExperimentData, weights: Path | None, processes: int) -> dict[str, Any]:
    """What a run depends on, except its arm and seed: flags, and hashes of images, labels and weights."""
    names = ("backbone", "max_train_steps", "learning_rate", "resolution", "validation_points")
    settings = {name: value for name, value in asdict(config).items() if name in names}
    settings["images_per_step"] = config.train_batch_size * processes
    settings["backbone_sha256"] = checksum(weights)[:16] if weights else None
    for kind in ("train", "validation"):
        settings[f"{kind}_sha256"] = _hash(getattr(data, kind))
    settings["synthetic_sha256"] = checksum(data.synthetic.images.folder / "metadata.csv")[:16]
    settings["labels_sha256"] = checksum(Path(config.labels))[:16] if config.labels else None
    return settings | {"findings": data.findings, "uncertain": config.uncertain}


def _hash(part: Labelled) -> str:
    table = pd.DataFrame({"file_name": part.images.rows["file_name"]}).join(part.truth)
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()[:16]


def train_arm(config: UtilityConfig, base: str, arm: Arm, seed: int, data: ExperimentData, output: Path) -> Path:
    """The best classifier of one arm and seed, begun from `base`, trained where it is not there yet."""
    from sdcxr.training.loop import train

    folder = Path()
    final = output / "runs" / arm.folder / f"seed-{seed}"
    if (final / SELECTION).is_file():
        return final / "best"
    for i, (training_set, steps) in enumerate(zip(arm.stages, arm.steps(config.max_train_steps), strict=True)):
        last = i == len(arm.stages) - 1
        folder = final if last else final.with_name(f"seed-{seed}-before")
        dataset = output / "datasets" / training_set.folder
        print(f"arm {arm.name}, seed {seed}: {steps} steps on {dataset.name}", flush=True)
        settings = TrainConfig(
            tune="classifier",
            base=base,
            random_weights=not Path(base).is_dir(),
            data=str(dataset),
            labels=str(dataset / "labels.csv"),
            output_dir=str(folder),
            resolution=config.resolution,
            train_batch_size=config.train_batch_size,
            max_train_steps=steps,
            learning_rate=config.learning_rate,
            lr_scheduler="cosine",
            lr_warmup_steps=min(500, steps // 10),
            use_ema=False,
            seed=seed,
            checkpointing_steps=math.ceil(steps / config.validation_points),
            checkpoints_total_limit=config.validation_points if last else 1,
            validation_steps=0,
            report_to="none",
        )
        if code := train(settings):
            raise SystemExit(code)
        base = str(folder)
    select(folder, data.validation, output / "features")
    return folder / "best"


def select(folder: Path, validation: Labelled, cache: Path) -> None:
    """Keep of a run's checkpoints, as `best/`, the one with the highest mean AUROC on the validation images."""
    from safetensors.torch import load_file, save_file

    from sdcxr.runtime.processes import processes
    from sdcxr.training import checkpoint

    state = processes()
    found = checkpoint.existing(folder / "checkpoints")
    candidates = {int(path.name.rpartition("-")[2]): folder / "candidates" / path.name for path in found}
    if state.is_main_process:
        for path, candidate in zip(found, candidates.values(), strict=True):
            candidate.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "classifier" / "config.json", candidate / "config.json")
            tensors = load_file(path / "model.safetensors")
            network = {name.removeprefix("network."): tensor for name, tensor in tensors.items()}
            save_file(network, candidate / "model.safetensors")
    state.wait_for_everyone()
    areas = {}
    for step, candidate in candidates.items():
        said = classifiers.find_classifier(str(candidate)).probabilities(validation.images, cache)
        areas[step] = mean(
            np.array([auroc(validation.truth[n].to_numpy(), said[n].to_numpy()) for n in validation.truth])
        )
    chosen = max(areas, key=lambda step: areas[step])  # the first of equals
    state.wait_for_everyone()
    if state.is_main_process:
        shutil.rmtree(folder / "best", ignore_errors=True)
        candidates[chosen].rename(folder / "best")
        about = {"step": chosen, "validation_auroc": {str(step): area for step, area in areas.items()}}
        write_json(folder / SELECTION, about | {"n_validation": len(validation.images)})
        for gone in (folder / "candidates", folder / "checkpoints", folder.with_name(f"{folder.name}-before")):
            shutil.rmtree(gone, ignore_errors=True)
    state.wait_for_everyone()


def score(test: Labelled, seen: dict[str, list[pd.DataFrame]], draws_seed: int = 0) -> Rows:
    """Rows of each arm's AUROC and of its gain over R, per finding and as their mean; without R there are no gains.

    Patients and seeds are drawn together for all arms, so that differences are paired. `seen` has probabilities on the
    test images, of each arm a table per seed.
    """
    findings, arms = list(test.truth), list(seen)
    n_seeds = len(seen[arms[0]])
    rankings = [
        Ranking(test.truth[name].to_numpy(float), table[name].to_numpy(float))
        for arm in arms
        for table in seen[arm]
        for name in findings
    ]
    statistics = [ranking.auroc for ranking in rankings]
    shape = (len(arms), n_seeds, len(findings))
    values = np.array([each(None) for each in statistics]).reshape(shape)
    drawn = resampled(statistics, test.images.groups, seed=draws_seed).reshape(RESAMPLES, *shape)
    seeds = np.random.default_rng(draws_seed).integers(n_seeds, size=(RESAMPLES, n_seeds))
    drawn = drawn[np.arange(RESAMPLES)[:, None], :, seeds].mean(axis=1)  # (resamples, arms, findings)
    groups = test.images.groups
    rare = rare_findings({name: [values == 1, values == 0] for name, values in test.truth.items()}, np.array(groups))
    defined = [j for j in range(len(findings)) if np.isfinite(values[0, 0, j])]
    with_macro = [*((name, [j]) for j, name in enumerate(findings)), ("macro", defined)]
    few_seeds = [f"only {n_seeds} of at least {FEW_SEEDS} seeds"] if n_seeds < FEW_SEEDS else []
    rows = []
    for metric, other in (("utility_auroc", None), ("utility_gain", BASELINE)):
        if other is not None and other not in arms:
            continue
        for i, arm in enumerate(arms):
            if arm == other:
                continue
            own, sampled = values[i], drawn[:, i]
            if other is not None:
                own, sampled = own - values[arms.index(other)], sampled - drawn[:, arms.index(other)]
            for label, columns in with_macro:
                by_seed = own[:, columns].mean(axis=1)
                rows.append(
                    score_row(
                        metric,
                        float(by_seed.mean()),
                        (np.nan, np.nan) if label in rare else percentiles(sampled[:, columns].mean(axis=1)),
                        label=label,
                        images="real",
                        n_real=len(test.images),
                        n_synthetic=0,
                        arm=arm,
                        sd=float(by_seed.std(ddof=1)) if n_seeds > 1 else float("nan"),
                        n_seeds=n_seeds,
                        by_seed=[float(value) for value in by_seed],
                    )
                    | {"notes": few_seeds + ([no_interval(rare[label])] if label in rare else [])}
                )
    return rows


def table(rows: Rows) -> str:
    """The mean over the findings as text, an arm a line; the findings are in scores.json."""
    cells = {(row["metric"], row["arm"]): row for row in rows if row["label"] == "macro"}
    lines = [f"{'trained on':12}{'real':>8}{'synthetic':>11}{'AUROC, real test images':>34}{'gain over R':>36}"]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        row = cells["utility_auroc", arm]
        gain = cells.get(("utility_gain", arm))
        counts = f"{row['n_train_real']:>8}{row['n_train_synthetic']:>11}"
        lines.append(f"{arm:12}{counts}{_shown(row):>34}{_shown(gain, sign='+') if gain else '':>36}")
    row = next(iter(cells.values()))
    seeds = "1 seed" if row["n_seeds"] == 1 else f"{row['n_seeds']} seeds"
    lines.append(
        f"mean ± standard deviation over {seeds} (95 % interval over patients and seeds); "
        f"{row['n_real']} test images; {row['max_train_steps']} steps each"
    )
    return "\n".join(lines)


def _shown(row: Row, sign: str = "") -> str:
    spread = f" ± {row['sd']:.3f}" if np.isfinite(row["sd"]) else ""
    return f"{row['value']:{sign}.3f}{spread} ({row['ci_low']:{sign}.3f} to {row['ci_high']:{sign}.3f})"


if __name__ == "__main__":
    run(main)
