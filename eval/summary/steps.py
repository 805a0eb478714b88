"""The parts of `python -m eval`: which of them apply to what is there, and rows that are kept between calls."""

import hashlib
import io
import json
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval import extractors
from eval.extractors.cache import describe
from eval.extractors.weights import checksum, state_of
from eval.inputs.folders import ImageFolder
from eval.scores import as_json
from sdcxr import __version__
from sdcxr.io.files import read_json, user_cache, write_json
from sdcxr.runtime.errors import UserError

KEPT = ".parts"  # folder below --output_dir
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """One evaluation with all that its rows depend on."""

    name: str
    evaluate: Callable[[], Rows]
    settings: dict[str, Any]
    """Everything but code and versions that the rows depend on: JSON."""
    explicit: bool = True
    """Whether the user asked for it: what goes wrong then is an error, otherwise it is left out."""
    files: tuple[Path, ...] = ()
    """Written beside the rows."""
    provenance: tuple[dict[str, Any], ...] = ()
    """Of the extractors that it takes, as features have it."""

    @property
    def key(self) -> str:
        """Equal for equal settings."""
        about = [self.name, self.settings, [_without_folder(one) for one in self.provenance], __version__]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Skipped:
    """A part that was not taken, and why."""

    name: str
    reason: str


@dataclass
class Outcome:
    """What came of the parts."""

    rows: Rows = field(default_factory=list)
    """Score rows of all parts, with the column `part`."""
    skipped: list[Skipped] = field(default_factory=list)
    provenance: list[dict[str, Any]] = field(default_factory=list)
    """Of each extractor once."""

    @property
    def warnings(self) -> list[str]:
        """What is wrong with the folders, whatever the scores say."""
        return list(dict.fromkeys(row["warning"] for row in self.rows if row.get("warning")))


def run_parts(parts: Sequence[Part], skipped: Sequence[Skipped], folder: Path) -> Outcome:
    """The rows of all parts, in order: computed, or those of an earlier call with the same settings. Says so line by
    line.

    Args:
        parts: to take.
        skipped: what is left out from the outset.
        folder: where rows are kept, one file for each part.

    Raises:
        UserError: an explicit part cannot be done; what was done before it is kept.
    """
    outcome = Outcome(skipped=list(skipped))
    for part in parts:
        path = folder / KEPT / f"{_file_name(part.name)}.json"
        kept = read_kept(path, part)
        if kept is not None:
            print(f"{part.name}: {len(kept['rows'])} rows, kept from an earlier call", flush=True)
        else:
            started, said = time.perf_counter(), io.StringIO()
            try:
                with redirect_stdout(said):  # what a module leaves out goes into the report
                    rows = part.evaluate()
            except UserError as error:
                if part.explicit:
                    raise
                print(f"{part.name}: left out, see below", flush=True)
                outcome.skipped.append(Skipped(part.name, str(error)))
                continue
            seconds = time.perf_counter() - started
            remarks = [line.removeprefix("left out: ") for line in said.getvalue().splitlines() if line.strip()]
            kept = {"key": part.key, "rows": as_json(rows), "remarks": remarks}
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, kept)
            print(f"{part.name}: {len(rows)} rows in {seconds:.1f} s", flush=True)
        outcome.rows += [{**row, "part": part.name} for row in kept["rows"]]
        outcome.skipped += [Skipped(part.name, remark) for remark in kept["remarks"]]
        outcome.provenance += [one for one in part.provenance if one not in outcome.provenance]
    return outcome


def read_kept(path: Path, part: Part) -> dict[str, Any] | None:
    """The rows of an earlier call, or None: there are none, of other settings, damaged, or a file is gone."""
    try:
        kept = read_json(path)
        current = kept["key"] == part.key and isinstance(kept["rows"], list) and isinstance(kept["remarks"], list)
    except (OSError, UserError, KeyError, TypeError):
        return None
    return kept if current and all(file.is_file() for file in part.files) else None


def _file_name(name: str) -> str:
    """A part's name as that of a file; names that differ in signs only differ in the digits behind."""
    plain = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in name).strip("._")[-60:]
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _without_folder(provenance: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in provenance.items() if key not in ("folder", "n_images")}


def fingerprint_images(folder: ImageFolder) -> str:
    """A hash over the table of a folder, and the name and state of every image."""
    table = folder.folder / "metadata.csv"
    files = [checksum(table) if table.is_file() else ""]
    files += [f"{path.name} {state_of(path) if path.is_file() else None}" for path in folder.paths]
    return hashlib.sha256("\n".join([str(folder.folder.resolve()), *files]).encode()).hexdigest()


def fingerprint_model(name: str) -> Any:
    """What tells a model's folder from what it was before: its files with their state; else its name."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return name
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".json", ".yaml", ".bin"))
    return [str(folder.resolve()), *([str(path), *state_of(path)] for path in files)]


def fingerprint_extractor(
    name: str, weights_dir: Path | None, images: ImageFolder, flag: str = "--extractor"
) -> dict[str, Any]:
    """Provenance of an extractor, without loading it.

    Raises:
        UserError: nobody knows it, or its weights are absent.
    """
    return describe(extractors.find_extractor(name, weights_dir, flag), images, user_cache() / "features")
