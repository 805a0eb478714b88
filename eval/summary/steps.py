"""Steps of `python -m eval`: run each evaluation, or reuse the rows that an earlier call kept."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from eval.extractors.base import Extractor
from eval.extractors.cache import describe
from eval.scores import ROWS_VERSION, Result, Rows, finite_or_none
from sdcxr.io.files import read_json, state_of, write_json
from sdcxr.runtime.errors import UserError

KEPT = ".steps"  # folder below --output_dir


@dataclass(frozen=True)
class EvalStep:
    """One evaluation with everything that its rows depend on."""

    evaluate: Callable[..., Result]
    """Takes the path of its table, if it has a `table`."""
    settings: dict[str, Any]
    """Images, flags and models that the rows depend on: JSON."""
    extractors: tuple[Extractor, ...] = ()
    variant: str | None = None
    """Tells several steps of one evaluation apart, such as the extractor of a distance."""
    explicit: bool = True
    """Whether the user asked for it: a failure then is an error, otherwise the step is left out."""
    model: str | None = None
    """Name of the model whose samples it measures; None for what does not depend on them."""
    samples: str = ""
    """Folder of these samples: the rows of each are kept, whichever other models are compared with it."""
    name: str = ""
    """Of the evaluation; `plan_steps` fills in this and the version."""
    version: int = 0
    """Of the evaluation's rows."""
    table: str | None = None
    """Name of the table that it writes, which is kept beside its rows."""

    @property
    def title(self) -> str:
        """Name and variant in words."""
        return f"{self.name} by {self.variant}" if self.variant else self.name

    @cached_property
    def provenance(self) -> list[dict[str, Any]]:
        """Of its extractors."""
        return [describe(extractor) for extractor in self.extractors]

    @cached_property
    def key(self) -> str:
        """Hash of everything that the rows depend on."""
        about = [ROWS_VERSION, self.name, self.variant, self.version, self.settings, self.provenance]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Skipped:
    """Something that is not measured, and why."""

    name: str
    reason: str


@dataclass
class Outcome:
    """What all steps gave."""

    rows: Rows = field(default_factory=list)
    """Score rows of all steps, with the columns `part` (name and variant in words), `step`, `variant` and `model`."""
    skipped: list[Skipped] = field(default_factory=list)
    provenance: list[dict[str, Any]] = field(default_factory=list)
    """Of each extractor once."""
    warnings: list[str] = field(default_factory=list)
    tables: dict[tuple[str, str | None], Path] = field(default_factory=dict)
    """Tables that steps wrote, by their name and model."""


def run_steps(steps: Sequence[EvalStep], skipped: Sequence[Skipped], folder: Path) -> Outcome:
    """The rows of all steps, in order: computed, or kept by an earlier call with the same settings. Prints progress.

    Args:
        steps: what to evaluate.
        skipped: what the plan leaves out.
        folder: below it the rows are kept, one file for each step.

    Raises:
        UserError: an explicit step cannot be done; the rows of the steps before it are kept.
    """
    outcome = Outcome(skipped=list(dict.fromkeys(skipped)))
    several = len({step.model for step in steps} - {None}) > 1
    for step in steps:
        title = f"{step.title} of {step.model}" if several and step.model else step.title
        path = folder / KEPT / f"{_file_name(step.title, step.samples)}.json"
        table = path.with_suffix(".csv")
        about = {"part": step.title, "step": step.name, "variant": step.variant, "model": step.model}
        kept = read_kept(path, step)
        if kept is not None:
            print(f"{title}: {len(kept['rows'])} rows, kept from an earlier call", flush=True)
        else:
            started = time.perf_counter()
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                result = step.evaluate(table) if step.table else step.evaluate()
            except UserError as error:
                if step.explicit:
                    raise
                print(f"{title}: left out, see below", flush=True)
                outcome.skipped.append(Skipped(title, str(error)))
                continue
            rows = finite_or_none(result.rows)
            kept = {"key": step.key, "rows": rows, "omitted": result.omitted, "warnings": result.warnings}
            write_json(path, kept | {"about": about})
            print(f"{title}: {len(rows)} rows in {time.perf_counter() - started:.1f} s", flush=True)
        outcome.rows += [row | about for row in kept["rows"]]
        outcome.skipped += [Skipped(title, reason) for reason in kept["omitted"]]
        if step.table is not None:
            outcome.tables[step.table, step.model] = table
        said = f"{step.model}: " if several and step.model else ""
        outcome.warnings += [line for one in kept["warnings"] if (line := said + one) not in outcome.warnings]
        outcome.provenance += [one for one in step.provenance if one not in outcome.provenance]
    return outcome


def read_kept(path: Path, step: EvalStep) -> dict[str, Any] | None:
    """What an earlier call kept, or None: nothing, of other settings, damaged, or a file of the step is gone."""
    try:
        kept: dict[str, Any] = read_json(path)
        lists = all(isinstance(kept[name], list) for name in ("rows", "omitted", "warnings"))
        current = lists and kept["key"] == step.key
    except (OSError, UserError, KeyError, TypeError):
        return None
    return kept if current and (step.table is None or path.with_suffix(".csv").is_file()) else None


def rows_with_draws(folder: Path) -> Rows:
    """The rows that `run_steps` kept in a folder, with the draws behind their intervals, which scores.json lacks.

    Raises:
        UserError: a file is damaged.
    """
    found: Rows = []
    for path in sorted((folder / KEPT).glob("*.json")):
        kept = read_json(path)
        found += [row | kept["about"] for row in kept["rows"] if "about" in kept]
    return found


def _file_name(title: str, samples: str) -> str:
    """A step's title as a file name; a hash tells apart titles that differ in punctuation only, and samples."""
    about = hashlib.sha256(f"{title}\n{samples}".encode()).hexdigest()[:8]
    return f"{plain_name(title)}-{about}"


def plain_name(name: str) -> str:
    """A name with letters, digits, "-" and "." only."""
    return "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in name).strip("._")[-60:]


def fingerprint_model(name: str) -> Any:
    """Fingerprint of a model folder: paths, sizes and times of change of its files; a hub name as it is."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return name
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".json", ".yaml", ".bin"))
    return [str(folder.resolve()), *([str(path), *state_of(path)] for path in files)]
