"""Prompts from a text, file or dataset split, and the plan of the images to generate: file names and seeds."""

import hashlib
import re
from pathlib import Path
from typing import Any

import pandas as pd

from sdcxr.config import GenerateConfig
from sdcxr.io.manifest import LABELS, SAMPLE_COLUMNS, image_ids, read_metadata, with_labels
from sdcxr.io.tables import read_csv
from sdcxr.runtime.errors import UserError


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
    """The prompts as a path; None for a text that cannot be one (too long, or an unknown ~user)."""
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


def image_seed(seed: int, prompt_id: str, k: int) -> int:
    """The seed of a prompt's k-th image, in [0, 2^48): exact in every table, even one that reads it as a float."""
    digest = hashlib.sha256(f"{seed}/{prompt_id}/{k}".encode()).digest()
    return int.from_bytes(digest[:6], "big")
