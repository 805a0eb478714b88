"""The run folder: its settings (config.yaml), the state of the run (run.json), and what it holds."""

import json
import os
from pathlib import Path
from typing import Any

import yaml

from sdcxr.io.files import read_json, write_text
from sdcxr.runtime.errors import UserError

# Images per optimizer step, steps behind the saved result, hashes of what the run was begun on, its parent run.
RUN_STATE = "run.json"
CONTENT = (
    "config.yaml", "log.jsonl", "validation.jsonl", "checkpoints", "samples", "logs", "pipeline", "adapter",
    "classifier", "segmenter", "clip",
)  # fmt: skip


def write_config(path: Path, values: dict[str, Any]) -> None:
    """Save settings as YAML that `--config` takes again."""
    write_text(path, yaml.safe_dump(values, sort_keys=False))


def read_config(path: Path) -> dict[str, Any]:
    """The settings that `write_config` saved.

    Raises:
        UserError: the file is damaged.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or an invalid date
        told = " ".join(str(error).replace(' in "<unicode string>",', "").split())
        raise UserError(f"{path} is damaged ({told}): mend it, or use another folder") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged (it holds no settings by name): mend it, or use another folder")
    return values


def read_run_state(run: Path) -> dict[str, Any]:
    """The content of `RUN_STATE`; empty where there is none yet.

    Raises:
        UserError: the file is damaged.
    """
    path = run / RUN_STATE
    if not path.is_file():
        return {}
    record = read_json(path)
    for name in ("images_per_step", "finished_steps"):
        if not isinstance(record, dict) or not isinstance(record.get(name), int):
            raise UserError(f"{path} is damaged (no whole number {name}): mend it, or use another folder")
    return record


def best_validation(run: Path, score: str) -> dict[str, float] | None:
    """The row of validation.jsonl with the highest score, the first of equals; None where there are no rows.

    Raises:
        UserError: no row has the score.
    """
    path = run / "validation.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = [row for row in map(json.loads, lines) if score in row]
    if lines and not rows:
        raise UserError(f"{path} has no {score}: no label has both values in the validation split")
    return max(rows, key=lambda row: row[score], default=None)


def check_own_folder(run: Path) -> None:
    """Refuse a folder that holds what a run would replace and is not the folder of a run.

    Raises:
        UserError: names it.
    """
    if (run / RUN_STATE).is_file():
        return
    if foreign := [name for name in CONTENT if os.path.lexists(run / name)]:
        raise UserError(
            f"--output_dir {run}: holds {', '.join(foreign)}, which no {RUN_STATE} accounts for: give another folder, "
            "nothing of it was touched"
        )


def parent_run(named: str | Path) -> Path:
    """The run folder that `--continue_from` means: the folder itself, or that of one of its checkpoints."""
    named = Path(named).expanduser()
    return named.parents[1] if named.parent.name == "checkpoints" else named
