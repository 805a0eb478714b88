"""A samples folder from a model and a list of prompts: shared over processes, resumable, one seed an image."""

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from sdcxr.config import GenerateConfig
from sdcxr.io.files import check_same_settings, read_json, write_json
from sdcxr.io.manifest import LABELS, SAMPLE_COLUMNS, image_ids, read_metadata, with_labels, write_metadata
from sdcxr.io.tables import read_csv
from sdcxr.runtime.errors import UserError

SAMPLES_RECORD = "generate.json"


def generate(config: GenerateConfig) -> int:
    """Make the images that are still missing, then metadata.csv. Returns the exit code.

    Raises:
        UserError: prompts, model or output folder cannot be used; says why.
    """
    prompts = read_prompts(config.prompts)
    rows = prompts[: config.max_prompts]
    jobs = plan_samples(rows, config)

    import torch

    from sdcxr.backbones import stable_diffusion as components
    from sdcxr.generation import sampler as sampling
    from sdcxr.io.pixels import write_png
    from sdcxr.runtime.processes import processes
    from sdcxr.runtime.threads import use_all_cores

    use_all_cores()
    output, state = Path(config.output_dir), processes()
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.mixed_precision]
    where = components.locate_pipeline(config.model)
    parts = components.load(config.model, dtype)
    resolution = config.resolution or parts.resolution
    if resolution % parts.vae_factor:
        raise UserError(f"--resolution {resolution}: must be a multiple of {parts.vae_factor}")
    settings = settings_of(config, prompts, where, resolution)
    if state.is_main_process:
        claim_samples_folder(output, settings)
    state.wait_for_everyone()
    missing = [job for job in jobs if not (output / job["file_name"]).is_file()]
    state.wait_for_everyone()
    if not missing and (output / "metadata.csv").is_file():
        if state.is_main_process:
            print(f"{output} is finished: {len(jobs)} images")
        return 0
    pipeline = parts.pipeline().to(state.device)
    sampling.use_scheduler(pipeline, config.scheduler)
    mine = missing[state.process_index :: state.num_processes]
    with tqdm(total=len(mine), desc="generating", unit="image", disable=not (mine and state.is_main_process)) as bar:
        for start in range(0, len(mine), config.batch_size):
            batch = mine[start : start + config.batch_size]
            images = sampling.sample(
                pipeline,
                [job["text"] for job in batch],
                [job["seed"] for job in batch],
                config.num_inference_steps,
                config.guidance_scale,
                resolution,
            )
            for job, image in zip(batch, images, strict=True):
                write_png(output / job["file_name"], image)
            bar.update(len(batch))
    state.wait_for_everyone()
    if state.is_main_process:
        write_metadata(output, pd.DataFrame(jobs))
        print(f"finished: {output} ({len(jobs)} images of {len(rows)} prompts)")
    return 0


def read_prompts(prompts: str) -> pd.DataFrame:
    """Rows with `id`, `text` and, where the source has them, `dicom_id` and the labels.

    Args:
        prompts: one prompt, a .txt or .csv file, or a folder with a metadata.csv.

    Raises:
        UserError: a file or folder is missing, empty or has no text column; ids repeat or are no file names.
    """
    path = _path(prompts)
    if not prompts.strip():
        raise UserError("--prompts: is empty")
    if path and path.is_dir():
        rows = read_metadata(path)
        rows["id"] = image_ids(rows)
    elif path and path.suffix in (".csv", ".txt"):
        if not path.is_file():
            raise UserError(f"--prompts {prompts}: no such file")
        rows = _read_csv(path) if path.suffix == ".csv" else _read_lines(path)
    elif re.fullmatch(r"[./~][^ ]*|[^ ]+/[^ ]*", prompts):
        raise UserError(f"--prompts {prompts}: no such folder")
    else:
        rows = pd.DataFrame({"id": ["prompt"], "text": [prompts]})
    if not len(rows):
        raise UserError(f"--prompts {prompts}: holds no prompt")
    odd = rows["id"][~rows["id"].map(lambda name: bool(re.fullmatch(r"[\w.-]*\w[\w.-]*", name)))]
    if len(odd):
        raise UserError(f"--prompts {prompts}: the id {odd.iloc[0]!r} is no file name (use letters, digits, - and _)")
    if rows["id"].duplicated().any():
        raise UserError(f"--prompts {prompts}: the id {rows['id'][rows['id'].duplicated()].iloc[0]} comes twice")
    return rows


def _path(prompts: str) -> Path | None:
    """The prompts as a path, or None where they can be none: a text may be too long, or begin with ~."""
    try:
        path = Path(prompts).expanduser()
        path.is_dir()
    except (OSError, RuntimeError, ValueError):
        return None
    return path


def _read_csv(path: Path) -> pd.DataFrame:
    rows = read_csv(path, "--prompts")
    text = next((name for name in ("text", "prompt", "impression") if name in rows), None)
    if text is None:
        # Its columns are not listed: without a header they are the first prompt, which may be a patient's report.
        raise UserError(f"--prompts {path}: no column text or prompt (its first line has to name the columns)")
    ids = next((name for name in ("id", "dicom_id") if name in rows), None)
    numbered = pd.Series([f"{i:05d}" for i in range(len(rows))], dtype=str)
    prompts = pd.DataFrame({"id": rows[ids] if ids else numbered, "text": rows[text]})
    labels = rows[[name for name in LABELS if name in rows]]
    return with_labels(prompts.join(labels), prompts["id"], f"--prompts {path}")


def _read_lines(path: Path) -> pd.DataFrame:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"--prompts {path}: not a text in UTF-8") from None
    texts = [line.strip() for line in lines if line.strip()]
    return pd.DataFrame({"id": [f"{i:05d}" for i in range(len(texts))], "text": texts}, dtype=str)


def plan_samples(rows: pd.DataFrame, config: GenerateConfig) -> list[dict[str, Any]]:
    """The row of metadata.csv of every image: file name, text, seed, settings, and the labels of the prompt."""
    from sdcxr.generation.sampler import image_seed

    labels = [name for name in LABELS if name in rows]
    fixed = {
        "guidance_scale": config.guidance_scale,
        "num_inference_steps": config.num_inference_steps,
        "scheduler": config.scheduler,
        "model": config.model,
    }
    jobs = []
    for row in rows.to_dict("records"):
        for k in range(config.num_images_per_prompt):
            own = {"file_name": f"{row['id']}_{k}.png", "text": row["text"], "id": row["id"]}
            own["seed"] = image_seed(config.seed, row["id"], k)
            job = own | fixed
            jobs.append({name: job[name] for name in SAMPLE_COLUMNS} | {name: row[name] for name in labels})
    return jobs


def settings_of(config: GenerateConfig, prompts: pd.DataFrame, where: str, resolution: int) -> dict[str, Any]:
    """All that the folder depends on; prompts and the weights of a local model by their hashes."""
    names = ("num_inference_steps", "guidance_scale", "scheduler", "seed", "mixed_precision", "num_images_per_prompt")
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name in names}
    settings |= {"model": config.model, "resolution": resolution}
    columns = ["id", "text", *(name for name in LABELS if name in prompts)]
    settings["prompts_sha256"] = hashlib.sha256(prompts[columns].to_csv(index=False).encode()).hexdigest()[:16]
    if Path(where).is_dir():
        digest = hashlib.sha256()
        for file in sorted(Path(where).glob("*/*.safetensors")):
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        settings["weights_sha256"] = digest.hexdigest()[:16]
        del settings["model"]  # the folder may be called differently
    return settings


def claim_samples_folder(output: Path, settings: dict[str, Any]) -> None:
    """Record the settings in the samples folder, or refuse one that was made with others, listing what differs."""
    record = output / SAMPLES_RECORD
    if record.is_file():
        check_same_settings(output, read_json(record), settings)
    elif output.is_dir() and any(output.iterdir()):
        raise UserError(f"--output_dir {output}: not empty and not a samples folder: give another one")
    output.mkdir(parents=True, exist_ok=True)
    write_json(record, settings)
