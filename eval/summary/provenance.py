"""Provenance on report.html: folders with checksums and image formats, samples, networks, libraries, date."""

import hashlib
import platform
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from eval.extractors.base import installed_version
from eval.inputs.folders import ImageFolder, spread_out
from eval.inputs.survey import survey
from eval.summary.blocks import Section, Table
from eval.summary.models import Model
from eval.summary.networks import about_network
from sdcxr import __version__
from sdcxr.io.files import checksum
from sdcxr.io.manifest import text_key

LIBRARIES = ("numpy", "pandas", "pillow", "torch", "torchvision", "transformers", "diffusers", "scikit-learn", "timm")
LOOKED_AT = 5000  # images of a folder whose format and size are read

SETTINGS = ("model", "scheduler", "num_inference_steps", "guidance_scale", "negative_prompt")


def provenance(
    real: ImageFolder, models: Sequence[Model], train: ImageFolder | None, described: Sequence[dict[str, Any]]
) -> Section:
    """Origin of the numbers; `described` are the extractors (`eval.extractors.cache.describe`)."""
    sides = [("--real", real), *(("--synthetic", model.images) for model in models), ("--train", train)]
    folders: list[list[str | dict[str, str]]] = [
        [flag, str(side.folder), f"{len(side):,}", files_text(side), _checksums(side)]
        for flag, side in sides
        if side is not None
    ]
    names = list(dict.fromkeys(name for model in models for name, _ in sample_settings(model.images)))
    settings = [dict(sample_settings(model.images)) for model in models]
    samples = [[name, *(own.get(name, "") for own in settings)] for name in names]
    heads = ["setting", *([model.name for model in models] if len(models) > 1 else ["value"])]
    extractors = [[name := one["extractor"], about_network(name), one["resize"], one["sha256"]] for one in described]
    versions = {"sdcxr": __version__, "python": platform.python_version()}
    versions |= {name: installed_version(name) or "" for name in LIBRARIES}
    for one in described:
        versions |= one["versions"]
    listed = "List: sha256 of the sorted lines “file name, tab, size in bytes, newline”. Table: sha256 of its file."
    tables = [
        Table(["flag", "folder", "images", "formats", "checksums"], folders, (2,), "Images", "", [listed]),
        units_table(real, models, train),
        Table(heads, samples, title="Samples"),
        Table(["extractor", "what it is", "preprocessing", "sha256 of its weights"], extractors, title="Networks"),
    ]
    libraries = Table(["library", "version"], [[name, found] for name, found in versions.items() if found])
    return Section("provenance", tables=[table for table in tables if table.rows], folded=[libraries])


def today() -> str:
    """Date and time of the page."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def units_table(real: ImageFolder, models: Sequence[Model], train: ImageFolder | None) -> Table:
    """How many rows, texts, prompts and patients each side has, and which of them intervals resample."""
    sides = [("real", real), *((model.name, model.images) for model in models), ("training", train)]
    rows = []
    for name, side in sides:
        if side is None:
            continue
        counts = Counter(key for text in side.texts if (key := text_key(text)))
        repeated = sum(n > 1 for n in counts.values())
        texts = [f"{len(counts):,}", f"{repeated:,}"] if counts else ["–", "–"]
        ids, patients = (_different(side, column) for column in ("id", "subject_id"))
        rows.append([name, f"{len(side):,}", *texts, ids, patients, f"{len(set(side.groups)):,} {_units(side)}"])
    header = ["images of", "rows", "different texts", "texts that occur more than once", "prompts (ids)", "patients"]
    text = (
        "A prompt is a row of the data set with its text; several can have the same text. Resampled together are the "
        "images of a patient, of synthetic images those of a prompt; measures of texts (prompts search images, pairs "
        "within and across prompts) draw texts, and the classifier's draw the patients of the prompts where known."
    )
    return Table([*header, "resampled together"], rows, range(1, 6), "Texts, prompts and patients", text)


def _different(side: ImageFolder, column: str) -> str:
    if column not in side.rows:
        return "–"
    return f"{len(set(side.rows[column].astype(str)) - {''}):,}"


def _units(side: ImageFolder) -> str:
    """What the groups of a folder are."""
    return "patients" if "subject_id" in side.rows else "prompts" if "id" in side.rows else "files"


def files_text(side: ImageFolder) -> str:
    """Formats and sizes of the image files; of a large folder a part is looked at."""
    if len(side) <= LOOKED_AT:
        return side.survey.text
    return f"{survey(spread_out(side.paths, LOOKED_AT)).text} (of {LOOKED_AT:,} looked at)"


def _checksums(side: ImageFolder) -> dict[str, str]:
    """Of the list of images, and of their table."""
    return {"list": list_checksum(side)} | ({"table": checksum(side.table)} if side.table else {})


def list_checksum(side: ImageFolder) -> str:
    """sha256 of the sorted lines "file name, tab, bytes" of the images; absent files have no size."""
    named = zip(side.ids, side.paths, strict=True)
    lines = sorted(f"{name}\t{path.stat().st_size if path.is_file() else ''}\n" for name, path in named)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def sample_settings(synthetic: ImageFolder) -> list[list[str]]:
    """How generate.py made the samples, and a checksum of the list of prompts."""
    rows = synthetic.rows
    lines = [[name, ", ".join(map(str, rows[name].unique()[:5]))] for name in SETTINGS if name in rows]
    if "seed" in rows:
        lines.append(["seeds", f"{rows['seed'].nunique():,} different"])
    if "text" in rows:
        prompts = "\n".join(sorted(set(rows["text"].astype(str))))
        lines.append(["prompts, sha256 of the sorted list", hashlib.sha256(prompts.encode()).hexdigest()])
    return lines
