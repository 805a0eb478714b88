"""Write report.html: scores, plots and pictures in one file that a browser opens from disk, without a network."""

import base64
import hashlib
import io
import platform
from dataclasses import dataclass
from pathlib import Path

from eval.extractors.base import installed_version
from eval.inputs.folders import PHANTOM, ImageFolder, is_phantom, same_prompts, spread_out
from eval.summary.blocks import Card, Pair, Picture, Section, Table
from eval.summary.plots import bars, forest, legend
from eval.summary.sections import sections_of, tiles
from eval.summary.steps import Outcome
from sdcxr import __version__
from sdcxr.io.files import inside, write_text

PROMPTS = 12  # pairs in the sample grid
NEIGHBOURS = 8  # nearest pairs shown
THUMBNAIL = 192  # pixels
LIBRARIES = ("numpy", "pandas", "pillow", "torch", "torchvision", "transformers", "diffusers", "scikit-learn", "timm")


@dataclass(frozen=True)
class Report:
    """What the page is made from."""

    real: ImageFolder
    synthetic: ImageFolder
    train: ImageFolder | None
    outcome: Outcome
    command: str
    nearest: Path
    """nearest.csv of the privacy step; need not exist."""
    show_prompts: bool = False


def write_report(path: Path, report: Report) -> None:
    """Write the page atomically."""
    write_text(path, render(report))


def render(report: Report) -> str:
    """The page: everything in it is escaped but the SVG and the legends of `eval.summary.plots`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.globals |= {"plot": _plot, "legend": _legend}
    phantom = any(is_phantom(side.folder) for side in (report.real, report.synthetic))
    return pages.get_template("report.html.j2").render(
        n_real=len(report.real),
        n_synthetic=len(report.synthetic),
        phantom=PHANTOM if phantom else "",
        warnings=report.outcome.warnings,
        tiles=tiles(report.outcome.rows),
        command=report.command,
        sections=[pictures(report), *_measured(report), *_left_out(report), provenance(report)],
    )


def _plot(card: Card, section: str) -> str:
    """SVG of a card; its accessible name is the card's title, or that of the section."""
    title = card.title or section
    if card.bars:
        return bars(card.lines, title, card.bounds or (0.0, 1.0), card.at)
    return forest(card.lines, title, card.bounds)


def _legend(block: Card | Section) -> str:
    """HTML of the legend of a card or of all cards of a section."""
    shape = "bars" if isinstance(block, Card) and block.bars else "dots"
    return legend(block.legend, shape) if block.legend else ""


def _measured(report: Report) -> list[Section]:
    """The sections of all steps; the nearest training images follow privacy."""
    sections = sections_of(report.outcome.rows)
    place = next((i for i, section in enumerate(sections) if section.anchor == "privacy"), None)
    if place is not None and report.train is not None and report.nearest.is_file():
        sections.insert(place + 1, nearest_images(report.nearest, report.synthetic, report.train))
    return sections


def pictures(report: Report) -> Section:
    """Real images beside the synthetic ones of the same prompts; without such prompts, images of either side."""
    shown = report.show_prompts or is_phantom(report.real.folder)
    pairs = spread_out(same_prompts(report.real, report.synthetic), PROMPTS)
    if pairs:
        about = (
            "Each pair has one prompt: its real image on the left, the first synthetic one on the right. Chosen evenly "
            "from all prompts, not by how they look."
        )
        hint = (
            "Prompts are hidden, because they may be text of patients' reports (--show_prompts shows them). Below each "
            "pair is the id of its row."
        )
        captioned = [(real, synthetic, text if shown and text else name) for real, synthetic, name, text in pairs]
        return Section("pictures", about, "" if shown else hint, pairs=[_pair("real", *one) for one in captioned])
    about = "No synthetic image was made from a prompt of --real: the images of a pair do not belong together."
    count = min(PROMPTS, len(report.real), len(report.synthetic))
    sides = (spread_out(side.paths, count) for side in (report.real, report.synthetic))
    named = [_pair("real", a, b, f"{a.name}; {b.name}") for a, b in zip(*sides, strict=True)]
    return Section("pictures", about, pairs=named)


def nearest_images(table: Path, synthetic: ImageFolder, train: ImageFolder) -> Section:
    """The synthetic images that are most similar to a training image, beside that image."""
    import pandas as pd

    found = pd.read_csv(table, dtype={"synthetic": str, "train": str}).head(NEIGHBOURS)
    pairs = []
    for row in found.to_dict("records"):
        caption = f"correlation {row['correlation']:.3f}{', a copy' if row['copy'] else ''}: {row['synthetic']}"
        paths = inside(synthetic.folder, row["synthetic"]), inside(train.folder, row["train"])
        pairs.append(_pair("synthetic", *paths, caption))
    return Section("nearest", pairs=pairs)


def _pair(left_name: str, left: Path, right: Path, caption: str) -> Pair:
    other = {"real": "synthetic", "synthetic": "training"}[left_name]
    return Pair(picture(left, left_name), picture(right, other), caption)


def picture(path: Path, name: str, size: int = THUMBNAIL) -> Picture:
    """A grey thumbnail of at most size × size pixels; what is not square is centred on black."""
    from PIL import Image, ImageOps

    from eval.inputs.images import Unusable, read_grey  # torch comes with it

    try:
        grey, _ = read_grey(path)
    except Unusable as problem:
        return Picture(name, problem=f"{path.name} {problem}")
    grey = ImageOps.pad(grey, (min(size, max(grey.size)),) * 2, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    grey.save(buffer, format="PNG", optimize=True)
    return Picture(name, "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"))


def _left_out(report: Report) -> list[Section]:
    lines = [[one.name, one.reason] for one in report.outcome.skipped]
    return [Section("left-out", tables=[Table(["evaluation", "why, and how to get it"], lines)])] if lines else []


def provenance(report: Report) -> Section:
    """Origin of the numbers: folders, settings of the samples, extractors with their weights, library versions."""
    flags = [("--real", report.real), ("--synthetic", report.synthetic), ("--train", report.train)]
    folders = [[flag, str(side.folder), f"{len(side):,}", _groups(side)] for flag, side in flags if side is not None]
    extractors = [[one["extractor"], one["resize"], one["sha256"]] for one in report.outcome.provenance]
    versions = {"sdcxr": __version__, "python": platform.python_version()}
    versions |= {name: installed_version(name) or "" for name in LIBRARIES}
    for one in report.outcome.provenance:
        versions |= one["versions"]
    tables = [
        Table(["flag", "folder", "images", "of"], folders, numbers=(2,)),
        Table(["samples", "setting"], sample_settings(report.synthetic)),
        Table(["extractor", "preprocessing", "sha256 of its weights"], extractors),
    ]
    libraries = Table(["library", "version"], [[name, found] for name, found in versions.items() if found])
    return Section("provenance", tables=[table for table in tables if table.rows], folded=[libraries])


def _groups(side: ImageFolder) -> str:
    """How many patients or prompts a folder has."""
    of = "patients" if "subject_id" in side.rows else "prompts" if "id" in side.rows else "files"
    return f"{len(set(side.groups)):,} {of}"


def sample_settings(synthetic: ImageFolder) -> list[list[str]]:
    """How generate.py made the samples, and a checksum of the list of prompts."""
    names = [name for name in ("model", "scheduler", "num_inference_steps", "guidance_scale") if name in synthetic.rows]
    lines = [[name, ", ".join(map(str, synthetic.rows[name].unique()[:5]))] for name in names]
    if "seed" in synthetic.rows:
        lines.append(["seeds", f"{synthetic.rows['seed'].nunique():,} different"])
    if "text" in synthetic.rows:
        prompts = "\n".join(sorted(set(synthetic.rows["text"].astype(str))))
        lines.append(["prompts, sha256 of the sorted list", hashlib.sha256(prompts.encode()).hexdigest()])
    return lines
