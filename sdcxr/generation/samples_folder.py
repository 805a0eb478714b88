"""The samples folder: generation sharded over processes, resumable; metadata.csv with the seed of every image."""

import dataclasses
import hashlib
import re
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from sdcxr.generation.config import GenerateConfig
from sdcxr.generation.plan import plan_samples
from sdcxr.generation.prompts import read_prompts
from sdcxr.io.files import check_same_settings, read_json, write_json
from sdcxr.io.locks import locked
from sdcxr.io.manifest import LABELS, SAMPLES_RECORD, read_metadata, write_metadata
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.memory import collector_paused, out_of_memory
from sdcxr.text.templates import FLAG, as_list, as_recorded

SETTINGS_HASH = "scheduler_and_tokenizers_sha256"
WRITERS = 8  # threads: each file waits for the disk
SETTINGS = (
    "num_inference_steps", "guidance_scale", "scheduler", "seed", "mixed_precision", "negative_prompt", "clip_skip",
)  # fmt: skip


def generate(config: GenerateConfig) -> int:
    """Generate the missing images, then write metadata.csv. Returns the exit code.

    Raises:
        UserError: prompts, model or output folder cannot be used, or another command writes to it; says why.
    """
    prompts = read_prompts(config.prompts, config.text, config.templates, config.seed)
    rows = prompts[: config.max_prompts]

    with collector_paused():
        model, sampler = load_sampler(config)
        from sdcxr.runtime.processes import processes

        output, state = Path(config.output_dir), processes()
    chosen = {name: getattr(sampler, name) for name in ("scheduler", "num_inference_steps", "guidance_scale")}
    config = dataclasses.replace(config, **chosen)  # the family's where nothing else was asked for
    settings = {name: getattr(config, name) for name in SETTINGS} | {"resolution": sampler.resolution}
    weights = model.weights_sha256()
    settings |= text_settings(config)
    settings |= {"model": model.name} if weights is None else {"weights_sha256": weights}
    settings |= {} if (others := model.settings_sha256()) is None else {SETTINGS_HASH: others}
    with locked(output) if state.is_main_process else nullcontext():
        if state.is_main_process:
            claim_samples(output, settings, prompts, rows["id"].tolist(), config.num_images_per_prompt)
        state.wait_for_everyone()
        return fill_folder(output, sampler, model, prompts, config)


def fill_folder(output: Path, sampler: Any, model: Any, prompts: pd.DataFrame, config: GenerateConfig) -> int:
    """Generate the missing images of a claimed folder, and write its table. Returns the exit code."""
    from sdcxr.noise.samplers import late_start
    from sdcxr.runtime.processes import processes

    state, rows = processes(), prompts[: config.max_prompts]
    jobs = plan_samples(rows, config, model.name)
    missing = [job for job in jobs if not (output / job["file_name"]).is_file()]
    state.wait_for_everyone()
    if missing:
        if state.is_main_process:
            notes = [model.about, late_start(sampler.pipeline.scheduler, sampler.num_inference_steps)]
            if rows["text"].tolist() == [config.prompts] and not re.search(r"\s", config.prompts):
                notes.append("--prompts: taken as a prompt, as there is no file or folder of this name")
            notes.append(note_on_template(model.name, model.prompt_template, config.prompt_template))
            notes.append(note_on_size(model.name, model.resolution, sampler.resolution))
            notes += cut_texts(sampler.backbone, rows["text"].tolist(), config.negative_prompt)
            print("".join(f"{note}\n" for note in notes if note), end="", flush=True)
        half = ", or use --mixed_precision bf16" if config.mixed_precision == "no" else ""
        with out_of_memory(f"lower --batch_size (now {config.batch_size}){half}"):
            make_images(sampler.to(state.device), missing, output, config.batch_size, state)
    state.wait_for_everyone()
    if state.is_main_process:
        every = plan_samples(prompts, config, model.name)  # earlier calls may have taken more prompts
        changed = write_table(output, [job for job in every if (output / job["file_name"]).is_file()])
        images = f"{len(jobs)} images"
        anew = missing or changed
        print(f"finished: {output} ({images} of {len(rows)} prompts)" if anew else f"{output} is finished: {images}")
    return 0


def text_settings(config: GenerateConfig) -> dict[str, Any]:
    """How the prompts were made of texts and fields, where they were: for the records of samples."""
    used = {"text": config.text} if config.text != "raw" else {}
    return used | ({"prompt_template": config.prompt_template} if config.prompt_template else {})


def load_sampler(config: GenerateConfig) -> tuple[Any, Any]:
    """The `models.Model` that `--model` names, and a `Sampler` of it with the settings.

    Raises:
        UserError: see `locate_model`, `Model.load` and `Sampler`.
    """
    import torch

    from sdcxr.generation.models import locate_model, with_adapters
    from sdcxr.generation.sampler import Sampler
    from sdcxr.runtime.threads import use_all_cores

    use_all_cores()
    model = with_adapters(locate_model(config.model), config.adapter)
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.mixed_precision]
    with out_of_memory("the model does not fit: use --mixed_precision bf16"):
        sampler = Sampler(
            model.load(dtype),
            config.scheduler,
            config.num_inference_steps,
            config.guidance_scale,
            config.resolution or model.resolution,
            config.negative_prompt,
            config.clip_skip,
        )
    return model, sampler


def make_images(sampler: Any, jobs: list[dict[str, Any]], folder: Path, batch_size: int, state: Any) -> None:
    """Make this process's share of the images, each batch written to disk while the next one is sampled."""
    from torch import inference_mode

    from sdcxr.io.pixels import write_png
    from sdcxr.runtime.threads import LoadFollower

    def between_steps(_: int) -> None:
        if (message := load.follow()) and state.is_main_process:
            tqdm.write(message)

    mine = jobs[state.process_index :: state.num_processes]
    written: list[Future[None]] = []
    with (
        LoadFollower(fixed=state.device.type != "cpu") as load,
        ThreadPoolExecutor(WRITERS) as pool,
        tqdm(total=len(mine), desc="generating", unit="image", disable=not (mine and state.is_main_process)) as bar,
        inference_mode(),
    ):
        for start in range(0, len(mine), batch_size):
            batch = mine[start : start + batch_size]
            texts, seeds = [job["text"] for job in batch], [job["seed"] for job in batch]
            images = sampler.sample(texts, seeds, between_steps)
            raise_errors(written)
            paths = [folder / job["file_name"] for job in batch]
            written = [pool.submit(write_png, path, image) for path, image in zip(paths, images, strict=True)]
            bar.update(len(batch))
        raise_errors(written)


def raise_errors(written: list[Future[None]]) -> None:
    """Wait for files; raises the error of the first that could not be written."""
    for file in written:
        file.result()


def note_on_template(model: str, trained: list[str] | str, given: list[str] | str) -> str:
    """A line if a model was trained on prompts that a template wrote, and these are written by none or by another."""
    if not trained or as_recorded(trained) == given:
        return ""
    used = "the prompts are written by another" if given else "the prompts are taken as they are"
    return f"{model} was trained with {FLAG} {' '.join(map(repr, as_list(trained)))}; {used}"


def note_on_size(model: str, trained: int | None, taken: int) -> str:
    """A line if images have another size than those that a model was trained on."""
    return "" if trained in (None, taken) else f"{model} was trained at {trained} px; --resolution {taken} is another"


def cut_texts(backbone: Any, texts: list[str], negative_prompt: str | None) -> list[str]:
    """A line for prompts that are longer than the text encoder takes, and one for such a negative prompt."""
    from sdcxr.backbones.text_encoders import describe_cut

    tokens, cut = backbone.tokenize(texts)
    length = next(iter(tokens.values())).shape[1]
    lines = [describe_cut(cut, len(texts), length, "prompts")]
    if negative_prompt and backbone.tokenize([negative_prompt])[1]:
        lines.append(f"the negative prompt is cut to {length} tokens")
    return lines


def write_table(folder: Path, rows: list[dict[str, Any]]) -> bool:
    """Write metadata.csv unless it has these images, perhaps with more columns; returns whether it was written."""
    table = pd.DataFrame(rows)
    try:
        old = read_metadata(folder)
    except UserError:  # none, or not a table
        old = pd.DataFrame()
    keys = ["file_name", "seed"]
    if {*table} <= {*old} and old[keys].astype(str).equals(table[keys].astype(str)):
        return False
    write_metadata(folder, table)
    return True


def claim_samples(
    folder: Path, settings: dict[str, Any], prompts: pd.DataFrame, wanted: list[str], images_per_prompt: int
) -> None:
    """Record what the images of a folder are made with, or compare it with what is recorded there.

    Prompts and images per prompt may be added; a record without any image binds nothing.

    Args:
        folder: made where it is missing.
        settings: as JSON; they have to be the same in every call.
        prompts: all prompts of this call.
        wanted: ids of those of which images are made now.
        images_per_prompt: may grow.

    Raises:
        UserError: it was begun with other settings or prompts, or holds something else.
    """
    path, content = folder / SAMPLES_RECORD, False
    if folder.is_dir():
        content = any(file != path and not file.name.startswith(".") for file in folder.iterdir())
    if content and not path.is_file():
        raise UserError(f"--output_dir {folder}: not empty and not a samples folder: give another one")
    hashes = prompt_hashes(prompts)
    taken = same_samples(folder, read_json(path), settings, prompts, images_per_prompt) if content else {}
    folder.mkdir(parents=True, exist_ok=True)
    taken |= {name: hashes[name] for name in wanted}
    write_json(path, settings | {"num_images_per_prompt": images_per_prompt, "prompts": taken})


def same_samples(
    folder: Path, record: Any, settings: dict[str, Any], prompts: pd.DataFrame, images_per_prompt: int
) -> dict[str, str]:
    """The prompts that a samples folder has already, id to hash, after a check that this call can add to it.

    Raises:
        UserError: the record is damaged, or says something else.
    """
    if not isinstance(record, dict) or not isinstance(record.get("num_images_per_prompt"), int):
        raise UserError(f"{folder / SAMPLES_RECORD} is damaged: mend it, or use another --output_dir")
    old, new, hashes = dict(record), dict(settings), prompt_hashes(prompts)
    if old["num_images_per_prompt"] > images_per_prompt:
        new["num_images_per_prompt"] = images_per_prompt
    else:
        del old["num_images_per_prompt"]
    taken = old.pop("prompts", hashes)
    if SETTINGS_HASH not in old:  # of an earlier version
        new.pop(SETTINGS_HASH, None)
    if "prompts_sha256" in old:  # version 0.1, which hashed all prompts at once
        new["prompts_sha256"] = _sha256(_columns(prompts).to_csv(index=False))
    check_same_settings(folder, old, new)
    if changed := [name for name, value in taken.items() if hashes.get(name) != value]:
        what = "has another text or labels now" if changed[0] in hashes else "is not among the prompts any more"
        raise UserError(f"{folder}: the prompt {changed[0]} {what} ({len(changed)} in all): use another --output_dir")
    return dict(taken)


def prompt_hashes(prompts: pd.DataFrame) -> dict[str, str]:
    """A hash of the text and labels of every prompt by its id."""
    rows = _columns(prompts).itertuples(index=False, name=None)
    return {row[0]: _sha256("\0".join(map(str, row))) for row in rows}


def _columns(prompts: pd.DataFrame) -> pd.DataFrame:
    return prompts[["id", "text", *(name for name in LABELS if name in prompts)]]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
