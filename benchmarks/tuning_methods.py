"""Every way to tune a UNet, on the embedded base and the phantoms: what it costs, and what its images are worth.

    python benchmarks/tuning_methods.py                          # some hours on two cores; resumes with what is missing
    python benchmarks/tuning_methods.py --jobs 14                # 14 trainings at once: a GPU, 16 cores
    python benchmarks/tuning_methods.py --methods lora,bias --steps 500 --seeds 5
    python benchmarks/tuning_methods.py --table runs/tuning-methods/tuning_methods.json
    python benchmarks/tuning_methods.py --memory lora            # of Stable Diffusion 1.5's UNet, by calculation

Each row is `train.py --config configs/demo.yaml --tune unet --method METHOD` with the method's own learning rate, then
an image for each held-out prompt: Fréchet distance to the held-out phantoms in the features of the demo's classifier,
and `eval.classifier`. Memory and speed are measured alone, one method after the other, in training steps of random
latents: on a GPU of a UNet of the size of Stable Diffusion 1.5 at 512 px in bf16, else of the embedded one.
"""

import copy
import shutil
import time
from collections.abc import Callable
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

from sdcxr.io.files import read_json, write_json
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError

UNTUNED = "(base)"
WARM_UP, STEPS = 3, 10  # of the measurement of speed
BATCH = {"sd15": 4, "tiny": 16}
METRICS = {"fd": "Fréchet distance", "auroc": "macro AUROC", "average_precision": "average precision"}


@dataclass
class MethodsConfig(StudyConfig):
    """What to compare."""

    output_dir: Path = Path("runs/tuning-methods")
    """Folder for the runs."""
    methods: str | None = None
    """Methods, separated by commas. Default: all that serve a UNet."""
    rates: str | None = None
    """Learning rates to try instead of the methods' own, as factors of those, separated by commas."""
    memory: str | None = None
    """Print the memory that training of Stable Diffusion 1.5's UNet takes by this method, calculated without weights,
    and do nothing else."""
    resolution: int = 512
    """Of --memory: side of the images in pixels."""
    batch_size: int = 1
    """Of --memory: images per step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1:
            raise UserError(f"--batch_size {self.batch_size}: must be at least 1")


class Row(NamedTuple):
    method: str
    factor: float  # of the method's own learning rate

    @property
    def name(self) -> str:
        return self.method + ("" if self.factor == 1 else f" × {self.factor:g}")


class Study(NamedTuple):
    """What all trainings share."""

    root: Path
    base: Path
    dataset: Path
    labels: Path
    classifier: Path
    config: MethodsConfig

    @property
    def output(self) -> Path:
        return self.config.output or self.root / "tuning_methods.json"

    def folder(self, row: Row, seed: int) -> Path:
        settled = f"{self.config.steps}-{self.config.max_prompts or 'all'}"  # other settings are other rows
        return self.root / f"{row.method.strip('()')}-{row.factor:g}-{seed}-{settled}"


def main(config: MethodsConfig) -> int:
    if config.table is not None:
        print(table(read_json(config.table)))
        return 0
    if config.memory is not None:
        for checkpointing in (False, True):
            print(memory_line(config.memory, config.batch_size, config.resolution, checkpointing))
        return 0
    from sdcxr.embedded.base import ensure_base
    from sdcxr.embedded.phantoms import ensure_phantoms
    from sdcxr.io.files import user_cache

    root, dataset = config.output_dir.expanduser().resolve(), ensure_phantoms()
    root.mkdir(parents=True, exist_ok=True)
    labels = user_cache() / "phantom" / "phantom-truth.csv"
    judge = config.classifier.expanduser().resolve() if config.classifier else root / "classifier"
    study = Study(root, ensure_base(user_cache()), dataset, labels, judge, config)
    methods = chosen_methods(study)
    costs = measured_costs(study, methods)
    factors = [float(factor) for factor in (config.rates or "1").split(",")]
    rows = [Row(UNTUNED, 1), *(Row(method, factor) for method in methods for factor in factors)]
    failed = train_all(study, rows, costs)
    for name, lines in failed.items():
        print(f"\nfailed: {name}\n{lines}", flush=True)
    measured = figures(study, rows, costs)
    write_json(study.output, measured)  # also where nothing was left to train
    print(table(measured))
    return 1 if failed else 0


def chosen_methods(study: Study) -> list[str]:
    """Those of `--methods`, or all of the registry that find something to tune in the embedded UNet."""
    from sdcxr.tuning.registry import METHODS, find_method

    if study.config.methods is not None:
        names = [name.strip() for name in study.config.methods.split(",")]
        for name in names:
            find_method(name)
        return names
    unet = tiny_unet(study)
    return [name for name in METHODS if serves(name, unet)]


def serves(method: str, unet: Any) -> bool:
    try:
        injected(method, copy.deepcopy(unet))
    except UserError:
        return False
    return True


def injected(method: str, unet: Any) -> Any:
    """A UNet with a method in it, in training mode."""
    from sdcxr.config import TrainConfig
    from sdcxr.tuning.base import apply_method
    from sdcxr.tuning.registry import find_method

    config = TrainConfig(tune="unet", method=method, max_train_steps=100)
    apply_method(find_method(method), unet.requires_grad_(False).train(), config)
    return unet


def tiny_unet(study: Study) -> Any:
    from sdcxr import backbones

    return backbones.load(str(study.base)).parts["unet"]


def measured_costs(study: Study, methods: list[str]) -> dict[str, Any]:
    """Parameters that train, memory and speed of each method; kept in costs.json, so that the benchmark resumes."""
    import torch

    path = study.root / "costs.json"
    kept: dict[str, Any] = read_json(path) if path.is_file() else {}
    missing = [method for method in methods if method not in kept]
    if not missing:
        return kept
    tiny = tiny_unet(study)
    size, unet = "tiny", tiny
    if torch.cuda.is_available():
        from architectures import ARCHITECTURES
        from diffusers import UNet2DConditionModel

        with torch.device("cuda"):
            size, unet = "sd15", UNet2DConditionModel(**ARCHITECTURES["sd15"].networks["unet"][1])
    for method in missing:
        tuned = injected(method, copy.deepcopy(tiny))
        kept[method] = {"parameters": sum(p.numel() for p in tuned.parameters() if p.requires_grad)}
        kept[method] |= cost(method, copy.deepcopy(unet), size)
        print(f"{method}: {kept[method]}", flush=True)
        write_json(path, kept)
    return kept


def cost(method: str, unet: Any, size: str) -> dict[str, Any]:
    """Images/s, and on a GPU the most memory allocated, of training steps with random latents and AdamW."""
    import torch

    device = next(unet.parameters()).device
    cuda = device.type == "cuda"
    unet = injected(method, unet).to(device)
    trained = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
    n = BATCH[size]
    x = torch.randn(n, 4, unet.config.sample_size, unet.config.sample_size, device=device)
    context = torch.randn(n, 77, unet.config.cross_attention_dim, device=device)
    t = torch.randint(0, 1000, (n,), device=device)
    wait: Callable[[], None] = torch.cuda.synchronize if cuda else lambda: None
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            wait()
            began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
            predicted = unet(x, t, context).sample
        (predicted.float() - x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    wait()
    rate = n * STEPS / (time.perf_counter() - began)
    about = {"size": size, "parameters_measured": sum(p.numel() for p in trained), "images_per_s": round(rate, 2)}
    return about | ({"peak_memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2)} if cuda else {})


def memory_line(method: str, batch: int, resolution: int, checkpointing: bool) -> str:
    """GB that a training step of Stable Diffusion 1.5's UNet holds: weights, what trains, what the backward pass needs.

    float32 weights under bf16 autocast, AdamW and a moving average (20 bytes for each parameter that trains, 4 for each
    that does not). Counted on tensors without contents; a GPU's workspaces and fragments are not in it.
    """
    import torch
    from architectures import ARCHITECTURES
    from diffusers import UNet2DConditionModel
    from torch._subclasses.fake_tensor import FakeTensorMode

    side = resolution // 8
    held: dict[int, torch.Tensor] = {}
    with torch.device("meta"):
        unet = injected(method, UNet2DConditionModel(**ARCHITECTURES["sd15"].networks["unet"][1]))
    with FakeTensorMode():
        for layer in unet.modules():
            for name, p in layer._parameters.items():
                if p is not None:
                    layer._parameters[name] = torch.nn.Parameter(torch.empty(p.shape), p.requires_grad)
        if checkpointing:
            unet.enable_gradient_checkpointing()
        own = {p.untyped_storage()._cdata for p in unet.parameters()}
        x, context = torch.randn(batch, 4, side, side), torch.randn(batch, 77, 768)

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            held[tensor.untyped_storage()._cdata] = tensor  # kept alive, so that no other takes its place
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16):
            unet(x, torch.zeros(batch), context)
        activations = sum(t.untyped_storage().nbytes() for key, t in held.items() if key not in own)
        n = sum(p.numel() for p in unet.parameters())
        trained = sum(p.numel() for p in unet.parameters() if p.requires_grad)
    parts = {"weights": 4 * n, "gradients, AdamW, average": 16 * trained, "for the backward pass": activations}
    total = sum(parts.values())
    listed = ", ".join(f"{name} {size / 1e9:.3g}" for name, size in parts.items())
    how = "with" if checkpointing else "without"
    return f"{method}, {batch} × {resolution} px, {how} gradient checkpointing: {total / 1e9:.1f} GB ({listed})"


def train_all(study: Study, rows: list[Row], costs: dict[str, Any]) -> dict[str, str]:
    """Train and score what is missing, all methods of a seed before the next one; the last lines of failed logs."""
    config = study.config
    first: dict[str, Callable[..., Any]] = {"latents": partial(encode_images, study.base, study.dataset, study.root)}
    if config.classifier is None:
        first["classifier"] = partial(train_classifier, study.classifier, study.dataset, study.labels)
    failed: dict[str, str] = {}
    for name, error in at_once(first, config.jobs, study.root):
        failed |= {name: error} if error else {}
    if failed:
        return failed
    jobs: dict[str, Callable[..., Any]] = {}
    for seed in range(config.seeds):
        for row in rows:
            folder = study.folder(row, seed)
            if not (folder / "fd.json").is_file():
                jobs[folder.name] = partial(measure, study, row, seed)
    start = time.monotonic()
    for n, (name, error) in enumerate(at_once(jobs, config.jobs, study.root), start=1):
        passed = f"{time.monotonic() - start:.0f} s"
        print(f"{n} of {len(jobs)}, {passed}: {name}: {'failed' if error else 'finished'}", flush=True)
        failed |= {name: error} if error else {}
        write_json(study.output, figures(study, rows, costs))
    return failed


def measure(study: Study, row: Row, seed: int, **how: Any) -> None:
    """Train, sample, score; of the run only the size of its adapter is kept."""
    folder = study.folder(row, seed)
    model = study.base
    if row.method != UNTUNED:
        model = folder / "run"
        rate = own_rate(row.method) * row.factor
        options = ["--tune", "unet", "--method", row.method, "--learning_rate", rate, "--seed", seed]
        train(study.base, study.dataset, model, study.config.steps, study.root / "latents", *options, **how)
        files = [path for path in (model / "adapter").glob("*.safetensors") if path.stem == "unet"]
        files = files or list((model / "pipeline" / "unet").glob("*.safetensors"))
        write_json(folder / "adapter.json", {"bytes": sum(path.stat().st_size for path in files)})
    split, samples = study.dataset / "test", folder / "samples"
    some = ["--max_prompts", study.config.max_prompts] if study.config.max_prompts else []
    scored = (model, split, samples, folder / "scores.json", study.classifier, study.labels)
    score_samples(*scored, seed, EmbeddedBaseConfig.guidance_scale, some, **how)
    compared = ["--real", split, "--synthetic", samples, "--extractor", study.classifier, "--interval_draws", 0]
    command("-m", "eval.fid", *compared, "--output", folder / "fd.json", **how)
    shutil.rmtree(folder / "run", ignore_errors=True)


def own_rate(method: str) -> float:
    """The method's default: that of the demo for full fine-tuning, times its factor."""
    import yaml

    from sdcxr.tuning.registry import METHODS

    demo = yaml.safe_load((Path(__file__).parents[1] / "configs" / "demo.yaml").read_text(encoding="utf-8"))
    return float(demo["learning_rate"]) * METHODS[method].learning_rate_factor


def figures(study: Study, rows: list[Row], costs: dict[str, Any]) -> dict[str, Any]:
    """What has been measured so far."""
    measured = []
    for row in rows:
        seeds = [seed for seed in range(study.config.seeds) if (study.folder(row, seed) / "fd.json").is_file()]
        about: dict[str, Any] = {"method": row.name, "seeds": seeds} | costs.get(row.method, {})
        if row.method != UNTUNED:
            about["learning_rate"] = own_rate(row.method) * row.factor
            sizes = [read_json(study.folder(row, seed) / "adapter.json")["bytes"] for seed in seeds]
            about |= {"adapter_bytes": sizes[0]} if sizes else {}
        measured.append(about | {"scores": [scores_of(study.folder(row, seed)) for seed in seeds]})
    return {"steps": study.config.steps, "max_prompts": study.config.max_prompts, "rows": measured}


def scores_of(folder: Path) -> dict[str, float]:
    (fd,) = [row for row in read_json(folder / "fd.json") if row["metric"] == "fd" and row["label"] is None]
    return read_scores(folder / "scores.json") | {"fd": fd["value"], "fd_floor": fd["floor"]}


def table(about: dict[str, Any]) -> str:
    """The Markdown table: mean and 95 % interval over the seeds (Student's t)."""
    rows = [row for row in about["rows"] if row["scores"]]
    if not rows:
        return "nothing has been measured yet"
    floor = np.mean([score["fd_floor"] for row in rows for score in row["scores"]])
    heads = ["`--method`", "parameters", "adapter, kB", "learning rate", "images/s", "memory, GB", *METRICS.values()]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|--:" * (len(heads) - 1) + "|"]
    for row in rows:
        cells = [
            row["method"],
            f"{row['parameters']:,}" if "parameters" in row else "",
            f"{row['adapter_bytes'] / 1e3:,.0f}" if "adapter_bytes" in row else "",
            f"{row['learning_rate']:g}" if "learning_rate" in row else "",
            f"{row['images_per_s']:.1f}" if "images_per_s" in row else "",
            f"{row['peak_memory_gb']:.1f}" if "peak_memory_gb" in row else "",
        ]
        for metric in METRICS:
            values = [score[metric] for score in row["scores"]]
            digits = 1 if metric == "fd" else 3
            spread = f" ± {half_width(values):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.{digits}f}{spread}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"Floor of the Fréchet distance, between halves of the real images: {floor:.1f}."])


if __name__ == "__main__":
    run(main)
