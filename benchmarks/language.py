"""Which words, which encoder, which part to adapt: a study on the embedded base and the phantoms.

    python benchmarks/language.py                          # some hours on two cores; resumes with what is missing
    python benchmarks/language.py --jobs 12                # 12 trainings at once: a GPU, 16 cores
    python benchmarks/language.py --parts styles --steps 500 --seeds 5
    python benchmarks/language.py --table runs/language/language.json

- styles: the form of the captions, in training and in the prompts, by the part that trains.
- encoders: the base's own text encoder, one that `--tune clip` trained on the same phantoms, and a BERT with random
  weights, each frozen or tuned. Both new ones have the width of the base's own, and a linear projection.
- refocusing: `--text raw`, `clean` or `refocused` in training by the same in the prompts. The impressions of phantoms
  have next to nothing that could be dropped, so these are reports with clauses added: comparison, time, advice,
  communication, marks. The clauses are ours, and the rules know their kind: the study asks what dropping such
  text does to the images, not how well the rules find it in reports of patients.

Each row is `train.py --config configs/demo.yaml`, one image for each held-out prompt, and `eval.classifier`. All rows
have the same images, of which a few without a positive label are left out, since a list of labels would be empty. A
training that fails is reported with the last lines of its log, and the others go on.
"""

import itertools
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from embedded_base import (
    EmbeddedBaseConfig,
    StudyConfig,
    at_once,
    command,
    encode_images,
    half_width,
    read_scores,
    score_samples,
    train,
    train_classifier,
)
from language_inputs import (
    MODES,
    STYLES,
    captions_of,
    describe_captions,
    save_random_bert,
    save_text_tower,
    write_dataset,
)

from sdcxr.io.files import read_json, write_json
from sdcxr.io.manifest import read_metadata
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError
from sdcxr.text.refocusing import TextMode

ENCODERS = ("own", "domain", "random BERT")
METRICS = {"auroc": "macro AUROC", "average_precision": "average precision", "cardiomegaly": "AUROC of cardiomegaly"}


class Training(NamedTuple):
    captions: str  # a key of STYLES, or "raw reports" and the like
    encoder: str
    tune: str


class Row(NamedTuple):
    part: str
    training: Training
    mode: TextMode  # of the prompts


ROWS = (
    *(
        Row("styles", Training(style, "own", tune), "raw")
        for style, tune in itertools.product(STYLES, ("unet", "text", "unet+text"))
    ),
    *(
        Row("encoders", Training("impression", encoder, tune), "raw")
        for encoder, tune in itertools.product(ENCODERS, ("unet", "unet+text"))
    ),
    *(
        Row("refocusing", Training(f"{trained} reports", "own", "unet+text"), sampled)
        for trained, sampled in itertools.product(MODES, MODES)
    ),
)
CAPTIONS = {
    "styles": "Form of the captions, in training and in the prompts, by the part that trains. Only impressions say the "
    "side of a finding, which four of the five findings are about; cardiomegaly has none. A single word and the photo "
    "name one of several findings.",
    "encoders": "Impressions as captions. Domain: the text tower that `--tune clip` trained on the same phantoms; "
    "both it and the BERT with random weights have the width of the base's own encoder and a linear projection.",
    "refocusing": "Text in training by text in the prompts, UNet and text encoder tuned. The reports are impressions "
    "of phantoms with comparison, time, advice, communication and marks added by the benchmark.",
}


@dataclass
class LanguageConfig(StudyConfig):
    """What to compare."""

    output_dir: Path = Path("runs/language")
    """Folder for the runs."""
    parts: str = "styles,encoders,refocusing"
    """Parts of the study, separated by commas."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = set(self.parts.split(",")) - {row.part for row in ROWS}
        if unknown:
            raise UserError(f"--parts {self.parts}: use styles, encoders, refocusing, separated by commas")


class Study(NamedTuple):
    """What all trainings share."""

    root: Path
    base: Path
    labels: Path
    classifier: Path
    config: LanguageConfig
    device: str

    @property
    def latents(self) -> Path:
        return self.root / "latents"

    def folder(self, training: Training, seed: int) -> Path:
        settled = f"{self.config.steps}-{self.config.max_prompts or 'all'}"  # other settings are other rows
        return self.root / f"{'-'.join(training)}-{seed}-{settled}".replace(" ", "_")

    def scores(self, row: Row, seed: int) -> Path:
        return self.folder(row.training, seed) / f"scores-{row.mode}.json"

    def data(self, captions: str) -> Path:
        return self.root / "data" / captions.replace(" ", "_")


def main(config: LanguageConfig) -> int:
    if config.table is not None:
        print("\n\n".join(tables(read_json(config.table))))
        return 0
    rows = [row for row in ROWS if row.part in config.parts.split(",")]
    study, failed = prepare(config, rows)
    if not failed:
        failed = train_all(study, rows)
    for name, lines in failed.items():
        print(f"\nfailed: {name}\n{lines}", flush=True)
    print("\n\n".join(tables(figures(study, rows))))
    return 1 if failed else 0


def prepare(config: LanguageConfig, rows: Sequence[Row]) -> tuple[Study, dict[str, str]]:
    """Datasets, classifier, encoders and latents, before anything runs at the same time that would write them twice.

    Returns:
        The study, and the last lines of the logs of what failed.
    """
    import torch
    import transformers

    from sdcxr.embedded.base import ensure_base
    from sdcxr.embedded.phantoms import ensure_phantoms
    from sdcxr.io.files import user_cache

    _ = transformers.CLIPTextModel, transformers.CLIPTokenizer  # their first import fails in several threads
    root, phantoms = config.output_dir.expanduser().resolve(), ensure_phantoms()
    labels = user_cache() / "phantom" / "phantom-truth.csv"
    judge = config.classifier.expanduser().resolve() if config.classifier else root / "classifier"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    study = Study(root, ensure_base(user_cache()), labels, judge, config, device)
    for captions in sorted({"impression", "raw reports"} | {row.training.captions for row in rows}):
        write_dataset(phantoms, study.data(captions), partial(captions_of, captions))
    (root / "encoders").mkdir(parents=True, exist_ok=True)
    jobs: dict[str, Callable[..., Any]] = {
        "latents": partial(encode_images, study.base, study.data("impression"), study.root)
    }
    if config.classifier is None:
        jobs["classifier"] = partial(train_classifier, judge, phantoms, labels)
    if any(row.training.encoder == "domain" for row in rows):
        jobs |= {f"domain-{seed}": partial(train_encoder, study, seed) for seed in range(config.seeds)}
    failed: dict[str, str] = {}
    for name, error in at_once(jobs, config.jobs, root):
        print(f"{name}: {'failed' if error else 'ready'}", flush=True)
        failed |= {name: error} if error else {}
    if any(row.training.encoder == "random BERT" for row in rows):
        texts = read_metadata(study.data("impression") / "train")["text"]
        for seed in range(config.seeds):
            save_random_bert(texts, encoder_folder(root, "random BERT", seed), seed)
    return study, failed


def train_all(study: Study, rows: Sequence[Row]) -> dict[str, str]:
    """Train and score what is missing, all rows of a seed before the next one; the last lines of failed logs."""
    jobs: dict[str, Callable[..., Any]] = {}
    for seed in range(study.config.seeds):
        for training in dict.fromkeys(row.training for row in rows):
            missing = [row for row in rows if row.training == training and not study.scores(row, seed).is_file()]
            if missing:
                jobs[study.folder(training, seed).name] = partial(measure, study, missing, seed)
    failed: dict[str, str] = {}
    start = time.monotonic()
    for n, (name, error) in enumerate(at_once(jobs, study.config.jobs, study.root), start=1):
        passed = f"{time.monotonic() - start:.0f} s"
        print(f"{n} of {len(jobs)}, {passed}: {name}: {'failed' if error else 'finished'}", flush=True)
        failed |= {name: error} if error else {}
        write_json(study.config.output or study.root / "language.json", figures(study, rows))
    return failed


def measure(study: Study, rows: Sequence[Row], seed: int, **how: Any) -> None:
    """Train, and score the samples of each row; the weights are deleted at the end."""
    training = rows[0].training
    folder, data = study.folder(training, seed), study.data(training.captions)
    run_folder, encoder = folder / "run", []
    if training.encoder != "own":
        encoder = ["--text_encoder", encoder_folder(study.root, training.encoder, seed), "--text_projection", "linear"]
    places = (study.base, data, run_folder, study.config.steps, study.latents)
    train(*places, "--tune", training.tune, "--seed", seed, *encoder, **how)
    for row in {row.mode: row for row in rows}.values():  # one training may be in two tables
        # The reports of the prompts are the raw ones, which generate.py itself cleans.
        split = (study.data("raw reports") if row.part == "refocusing" else data) / "test"
        some = ["--max_prompts", study.config.max_prompts] if study.config.max_prompts else []
        samples = folder / f"samples-{row.mode}"
        scored = (run_folder, split, samples, study.scores(row, seed), study.classifier, study.labels)
        options = ["--text", row.mode, *some]
        score_samples(*scored, seed, EmbeddedBaseConfig.guidance_scale, options, **how)
    shutil.rmtree(run_folder)


def encoder_folder(root: Path, encoder: str, seed: int) -> Path:
    return root / "encoders" / f"{encoder}-{seed}".replace(" ", "_")


def train_encoder(study: Study, seed: int, **how: Any) -> None:
    """The text tower that `--tune clip` trains on the phantoms, as a folder of transformers."""
    folder, run_folder = encoder_folder(study.root, "domain", seed), study.root / f"clip-{seed}"
    if not (folder / "model.safetensors").is_file():
        data = ["--data", study.data("impression"), "--output_dir", run_folder, "--seed", seed]
        command("train.py", "--config", "configs/demo-clip.yaml", *data, **how)
        save_text_tower(run_folder, folder)


def figures(study: Study, rows: Sequence[Row]) -> dict[str, Any]:
    """What has been measured so far."""
    measured = []
    for row in rows:
        seeds = [seed for seed in range(study.config.seeds) if study.scores(row, seed).is_file()]
        about = {"part": row.part, **row.training._asdict(), "prompts": row.mode, "seeds": seeds}
        measured.append(about | {"scores": [scores_of(study.scores(row, seed)) for seed in seeds]})
    settings = {name: getattr(study.config, name) for name in ("steps", "max_prompts")} | {"device": study.device}
    texts = {captions: describe_captions(study.data(captions)) for captions in {row.training.captions for row in rows}}
    return settings | {"captions": dict(sorted(texts.items())), "rows": measured}


def scores_of(path: Path) -> dict[str, float]:
    return read_scores(path) | {"cardiomegaly": read_scores(path, "Cardiomegaly").get("auroc", math.nan)}


def tables(about: dict[str, Any]) -> list[str]:
    """A Markdown table with its caption for each part that has figures."""
    found = []
    for part, caption in CAPTIONS.items():
        rows = [row for row in about["rows"] if row["part"] == part and row["scores"]]
        if not rows:
            continue
        keys = {"styles": ["captions", "tune"], "encoders": ["encoder", "tune"], "refocusing": ["captions", "prompts"]}
        metrics = {key: name for key, name in METRICS.items() if key != "cardiomegaly" or part == "styles"}
        heads = [key if key != "tune" else "`--tune`" for key in keys[part]]
        lines = [[*heads, "seeds", *metrics.values()], [*["-"] * len(heads), "-:", *["-"] * len(metrics)]]
        for row in rows:
            cells = [summary([score.get(key, math.nan) for score in row["scores"]]) for key in metrics]
            lines.append([*(row[key] for key in keys[part]), str(len(row["scores"])), *cells])
        found.append("\n".join([caption, "", *(f"| {' | '.join(line)} |" for line in lines)]))
    return found


def summary(values: Sequence[float]) -> str:
    """Mean ± standard deviation over the seeds, and the 95 % interval of the mean (Student's t)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.3f}"
    half = half_width(values)
    return f"{mean:.3f} ± {np.std(values, ddof=1):.3f} ({mean - half:.3f}–{mean + half:.3f})"


if __name__ == "__main__":
    run(main)
