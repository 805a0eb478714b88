"""Does every family of bases learn? A small member of each, from random weights, on phantoms at 64 px.

    python benchmarks/families.py                                # an hour and a half on one core; resumes
    OMP_NUM_THREADS=1 python benchmarks/families.py --jobs 2     # two families at a time
    python benchmarks/families.py --families sana,pixart --share 0.1
    python benchmarks/families.py --table benchmarks/results/families.json

Each is `train.py --tune unet --method full`, then `generate.py` with the family's own sampler and guidance for the
held-out prompts, and `eval.classifier` by a classifier of real phantoms: does the prompt steer the picture? Members are
those of the contract tests with a larger denoiser; denoiser and text encoders begin with random weights, and the text
encoders stay so. The KL autoencoder is the embedded base's (trained on scenes, 4-fold, 4 channels), also in Stable
Diffusion 3 and, with patches of 2 × 2, in FLUX.2-klein; Sana's deterministic one is trained here first, its time apart.
"""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from embedded_base import FINDINGS, ROOT, at_once, command, train_classifier

from sdcxr.io.files import check_same_settings, read_json, write_json
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError

RESOLUTION = 64
FINDING = "Cardiomegaly"
SAMPLING_STEPS = 20  # of all samplers
BATCH = 16
UNET = {
    "sample_size": 16,
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 16,
}
# Stable Diffusion's schedule still shows the layout of such small latents at its end (sdcxr.embedded.base.schedule).
NOISE = ("beta_start", "beta_end", "beta_schedule")


class Member(NamedTuple):
    title: str
    denoiser: dict[str, Any]  # beside the configuration in the contract tests
    steps: int
    learning_rate: float = 2e-3
    flow: bool = True  # or diffusion, which learns the layout sooner by v-prediction
    own_noise: bool = True  # whether the schedule is the family's


WIDE = {"num_attention_heads": 6}  # of 16 channels each
MEMBERS = {
    "stable_diffusion": Member(
        "Stable Diffusion 1", UNET | {"attention_head_dim": 4}, 1200, flow=False, own_noise=False
    ),
    "sdxl": Member("Stable Diffusion XL", UNET | {"attention_head_dim": (2, 4)}, 1000, flow=False, own_noise=False),
    "sd3": Member(
        "Stable Diffusion 3",
        WIDE | {"sample_size": 16, "in_channels": 4, "out_channels": 4, "num_layers": 3, "caption_projection_dim": 96},
        800,
    ),
    "pixart": Member(
        "PixArt-Σ", WIDE | {"sample_size": 16, "num_layers": 6, "cross_attention_dim": 96}, 1200, flow=False
    ),
    "sana": Member(
        "Sana",
        WIDE
        | {"sample_size": 8, "in_channels": 16, "out_channels": 16, "num_layers": 6}
        | {"num_cross_attention_heads": 6, "cross_attention_dim": 96},
        1000,
    ),
    "flux2_klein": Member("FLUX.2-klein", {"num_attention_heads": 4}, 750),
}


@dataclass
class FamiliesConfig:
    """What to train."""

    output_dir: Path = Path("runs/families")
    """Folder for dataset, bases and runs."""
    families: str | None = None
    """Names separated by commas. Default: all."""
    share: float = 1.0
    """Of each family's optimizer steps."""
    jobs: int = 1
    """Families at the same time; they share the cores."""
    max_prompts: int | None = None
    """Held-out prompts to sample. Default: all."""
    autoencoder_steps: int = 400
    """Optimizer steps of Sana's autoencoder."""
    seed: int = 0
    """Of weights, training and samples."""
    output: Path | None = None
    """JSON file for the figures, written anew after each family. Default: families.json in --output_dir."""
    build: bool = False
    """Only write the pipelines to train."""
    table: Path | None = None
    """Print the table of such a file, and do nothing else."""

    @property
    def names(self) -> list[str]:
        names = [name.strip() for name in self.families.split(",")] if self.families else list(MEMBERS)
        if unknown := [name for name in names if name not in MEMBERS]:
            raise UserError(f"--families {unknown[0]}: use {', '.join(MEMBERS)}")
        return names


class Study(NamedTuple):
    """What all trainings share."""

    root: Path
    labels: Path
    config: FamiliesConfig

    @property
    def dataset(self) -> Path:
        return self.root / f"phantoms-{RESOLUTION}"

    @property
    def classifier(self) -> Path:
        return self.root / "classifier"


def main(config: FamiliesConfig) -> int:
    if config.table is not None:
        print(table(read_json(config.table)))
        return 0
    from sdcxr.embedded import phantoms
    from sdcxr.io.files import user_cache

    phantoms.ensure_phantoms()
    raw, root = user_cache() / "phantom", config.output_dir.expanduser().resolve()
    root.mkdir(parents=True, exist_ok=True)
    study = Study(root, raw / "phantom-truth.csv", config)
    if config.build:
        for name in config.names:
            write_json(root / name / "about.json", make_base(study, name, root / name / "base"))
        return 0
    if not (study.dataset / "prep.json").is_file():
        prepare = ["--images", raw, "--reports", raw / "mimic-cxr-reports.zip", "--output_dir", study.dataset]
        command("-m", "data_prep.mimic_cxr", *prepare, "--views", "PA,AP", "--resolution", RESOLUTION)
    train_classifier(study.classifier, study.dataset, study.labels)
    jobs: dict[str, Callable[..., Any]] = {name: partial(measure, study, name) for name in config.names}
    failed: dict[str, str] = {}
    for name, error in at_once(jobs, config.jobs, root):
        print(f"{name}: {error or 'finished'}", flush=True)
        failed |= {name: error} if error else {}
        write_json(config.output or root / "families.json", figures(study))
    print(table(figures(study)))
    return 1 if failed else 0


def measure(study: Study, name: str, *, log: Path, threads: int) -> None:
    """Build, train, sample and score a family; its finished stages are kept, so that the benchmark resumes."""
    config, member, folder = study.config, MEMBERS[name], study.root / name
    settings = {name: getattr(config, name) for name in ("seed", "max_prompts", "autoencoder_steps")}
    settings |= {"steps": steps_of(name, config.share), "learning_rate": member.learning_rate}
    settings |= {"denoiser": json.dumps(member.denoiser)}
    folder.mkdir(exist_ok=True)
    if (folder / "settings.json").is_file():
        check_same_settings(folder, read_json(folder / "settings.json"), settings)
    write_json(folder / "settings.json", settings)
    record = folder / "cpu_seconds.json"
    seconds: dict[str, float] = read_json(record) if record.is_file() else {}
    for stage, arguments in stages(study, name).items():
        if stage not in seconds:
            shutil.rmtree(folder / stage, ignore_errors=True)  # of one that was stopped: the whole counts
            seconds[stage] = command(*arguments, log=log, threads=threads)
            write_json(record, seconds)
    shutil.rmtree(folder / "train" / "checkpoints", ignore_errors=True)


def steps_of(name: str, share: float) -> int:
    return max(1, round(MEMBERS[name].steps * share))


def stages(study: Study, name: str) -> dict[str, list[object]]:
    """The commands of a family; each writes the folder of its name.

    `encode` encodes images and captions; its only step, at a fiftieth of the rate, leaves the weights random.
    """
    folder, steps, seed = study.root / name, steps_of(name, study.config.share), ["--seed", study.config.seed]
    at, test = ["--resolution", RESOLUTION], study.dataset / "test"
    training: list[object] = ["train.py", "--tune", "unet", "--base", folder / "base", "--data", study.dataset, *at]
    training += ["--learning_rate", MEMBERS[name].learning_rate, "--lr_scheduler", "cosine", "--lr_warmup_steps", 50]
    training += ["--train_batch_size", BATCH, "--adam_beta2", 0.99, "--ema_decay", 0.995, "--mixed_precision", "no"]
    training += ["--torch_compile", "false", "--dataloader_num_workers", 0, "--report_to", "none", *seed]
    training += ["--latents_dir", folder / "latents", "--cache_in_memory", "true", "--preview_images", 0]
    training += [] if MEMBERS[name].flow else ["--prediction_type", "v_prediction"]
    often = ["--validation_steps", max(1, steps // 5), "--checkpointing_steps", steps]
    sampling = ["--prompts", test, *at, *seed, "--num_images_per_prompt", 1, "--num_inference_steps", SAMPLING_STEPS]
    sampling += ["--batch_size", 32]
    sampling += ["--max_prompts", study.config.max_prompts] if study.config.max_prompts else []
    judged = ["--real", test, "--classifier", study.classifier, "--labels", study.labels, "--findings", FINDINGS]
    judged += ["--output", folder / "score" / "scores.json"]
    building = ["--families", name, "--autoencoder_steps", study.config.autoencoder_steps, "--output_dir", study.root]
    return {
        "base": ["benchmarks/families.py", "--build", "true", *building, *seed],
        "encode": [*training, "--max_train_steps", 1, "--validation_steps", 1, "--output_dir", folder / "encode"],
        "train": [*training, "--max_train_steps", steps, *often, "--output_dir", folder / "train"],
        "sample": ["generate.py", "--model", folder / "train", "--output_dir", folder / "sample", *sampling],
        "score": ["-m", "eval.classifier", "--synthetic", folder / "sample", *judged],
    }


def make_base(study: Study, name: str, folder: Path) -> dict[str, Any]:
    """Write the pipeline of a member with random weights and a trained autoencoder; what is known of it."""
    import torch

    from sdcxr.embedded.base import schedule

    member = MEMBERS[name]
    torch.manual_seed(study.config.seed)
    pipeline = tiny_pipeline(name)
    part = "unet" if hasattr(pipeline, "unet") else "transformer"
    small = getattr(pipeline, part)
    denoiser = type(small)(**settings_of(small) | member.denoiser)
    vae, about = trained_autoencoder(study, pipeline.vae)
    pipeline.register_modules(**{part: denoiser, "vae": vae})
    if not member.own_noise:
        noise = {setting: schedule().config[setting] for setting in NOISE}
        scheduler = pipeline.scheduler
        pipeline.register_modules(scheduler=type(scheduler)(**settings_of(scheduler) | noise))
    pipeline.save_pretrained(folder)
    return about | {"parameters": sum(p.numel() for p in denoiser.parameters())}


def settings_of(component: Any) -> dict[str, Any]:
    """The configuration of a network or scheduler of diffusers, without notes such as which values are defaults."""
    return {name: value for name, value in component.config.items() if not name.startswith("_")}


def tiny_pipeline(name: str) -> Any:
    """The family's pipeline in the contract tests."""
    # A folder without __init__.py, which a package `tests` in site-packages would hide.
    namespace = ModuleType("tests")
    namespace.__path__ = [str(ROOT / "tests")]
    sys.modules.setdefault("tests", namespace)
    return import_module(f"tests.sdcxr.backbones.families.tiny_{name}").TINY.build()


def trained_autoencoder(study: Study, vae: Any) -> tuple[Any, dict[str, Any]]:
    """An autoencoder of the class of `vae` for 64 px with latents of deviation 1; what is known of it."""
    import time

    import torch
    from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderKLFlux2

    from sdcxr.embedded.base import ensure_base
    from sdcxr.io.files import user_cache

    images, held_out = pixels_of(study.dataset / "train"), pixels_of(study.dataset / "validation")
    began, about = time.process_time(), {}
    if isinstance(vae, AutoencoderDC):
        vae = train_dc(images, study.config.autoencoder_steps, study.config.seed)
        about = {"autoencoder_cpu_seconds": round(time.process_time() - began, 1)}
    else:
        embedded = AutoencoderKL.from_pretrained(ensure_base(user_cache()) / "vae")
        own = {name: vae.config[name] for name in ("shift_factor", "batch_norm_eps") if name in vae.config}
        sizes = "latent_channels block_out_channels layers_per_block norm_num_groups down_block_types up_block_types"
        vae = type(vae)(**own | {name: embedded.config[name] for name in sizes.split()})
        statistics = {name: value for name, value in vae.state_dict().items() if name.startswith("bn.")}
        vae.load_state_dict(embedded.state_dict() | statistics)
    with torch.no_grad():
        latents = torch.cat([encode(vae, batch) for batch in images[:512].split(32)])
        if isinstance(vae, AutoencoderKLFlux2):
            patches = torch.nn.functional.pixel_unshuffle(latents, 2)
            vae.bn.running_mean.copy_(patches.mean(dim=(0, 2, 3)))
            vae.bn.running_var.copy_(patches.var(dim=(0, 2, 3)))
        else:
            vae.register_to_config(scaling_factor=1 / latents.std().item())
        errors = (vae.decode(encode(vae, held_out)).sample.mean(dim=1, keepdim=True) - held_out).abs()
    return vae.eval(), about | {"autoencoder": type(vae).__name__, "autoencoder_l1": round(errors.mean().item(), 4)}


def pixels_of(split: Path) -> Any:
    """The images of a split, float32 (n, 1, 64, 64) in [-1, 1]."""
    import torch

    from sdcxr.io.manifest import read_metadata
    from sdcxr.io.pixels import read_pixels

    return torch.stack([read_pixels(split / name, RESOLUTION) for name in read_metadata(split)["file_name"]])


def encode(vae: Any, pixels: Any) -> Any:
    """The latents of grey images, without noise."""
    encoded = vae.encode(pixels.expand(-1, 3, -1, -1))
    return encoded.latent if hasattr(encoded, "latent") else encoded.latent_dist.mean


def train_dc(images: Any, steps: int, seed: int) -> Any:
    """A small AutoencoderDC, 8-fold with 16 channels, trained by its absolute error."""
    import torch
    from diffusers import AutoencoderDC

    widths, layers = (16, 32, 64, 64), (0, 1, 1, 1)
    vae = AutoencoderDC(
        latent_channels=16,
        encoder_block_types=("ResBlock",) * 4,
        decoder_block_types=("ResBlock",) * 4,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=layers,
        decoder_layers_per_block=layers,
        encoder_qkv_multiscales=((),) * 4,
        decoder_qkv_multiscales=((),) * 4,
    )
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    draws = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = images[torch.randint(len(images), (BATCH,), generator=draws)].expand(-1, 3, -1, -1)
        loss = (vae.decode(vae.encode(batch).latent).sample - batch).abs().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
    return vae


def figures(study: Study) -> dict[str, Any]:
    """What has been measured so far."""
    rows = [
        row_of(study.root / name, name) for name in MEMBERS if (study.root / name / "score" / "scores.json").is_file()
    ]
    return {"resolution": RESOLUTION, "batch_size": BATCH, "sampling_steps": SAMPLING_STEPS, "rows": rows}


def row_of(folder: Path, name: str) -> dict[str, Any]:
    """The figures of a family."""
    settings, about = read_json(folder / "settings.json"), read_json(folder / "about.json")
    lines = {run: (folder / run / "validation.jsonl").read_text().splitlines() for run in ("encode", "train")}
    losses = {run: [json.loads(line) for line in lines[run]] for run in lines}
    scores = read_json(folder / "score" / "scores.json")
    kept = {name: settings[name] for name in ("steps", "learning_rate", "seed")}
    return (
        kept
        | about
        | {
            "family": name,
            "cpu_seconds": read_json(folder / "cpu_seconds.json"),
            "validation_loss": [losses["encode"][-1]["loss"], *(row["ema_loss"] for row in losses["train"])],
            FINDING: auroc_of(scores, FINDING),
            "macro": auroc_of(scores, "macro"),
        }
    )


def auroc_of(scores: list[dict[str, Any]], label: str) -> dict[str, Any]:
    """AUROC of the synthetic images with its interval, and that of the real images of the same prompts."""
    rows = {row["images"]: row for row in scores if row["metric"] == "auroc" and row["label"] == label}
    kept = {key: rows["synthetic"][key] for key in ("value", "ci_low", "ci_high")}
    return kept | {"real": rows["real"]["value"]}


def table(about: dict[str, Any]) -> str:
    """The Markdown table."""
    heads = ["family", "parameters", "learning rate", "steps", "CPU minutes: training", "sampling"]
    heads += ["validation loss, first", "last", f"AUROC of {FINDING.lower()} (95 % interval)", "macro AUROC"]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|--:" * (len(heads) - 1) + "|"]
    for row in about["rows"]:
        score, seconds, losses = row[FINDING], row["cpu_seconds"], row["validation_loss"]
        interval = "" if score["ci_low"] is None else f" ({score['ci_low']:.2f}–{score['ci_high']:.2f})"
        cells = [
            MEMBERS[row["family"]].title,
            f"{row['parameters']:,}",
            f"{row['learning_rate']:g}",
            f"{row['steps']:,}",
            f"{seconds['train'] / 60:.1f}",
            f"{seconds['sample'] / 60:.1f}",
            f"{losses[0]:.3f}",
            f"{losses[-1]:.3f}",
            f"{score['value']:.3f}{interval}",
            f"{row['macro']['value']:.3f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
