"""report.html: scores, plots and pictures in one file that a browser opens from disk, without a network."""

import hashlib
import platform
from dataclasses import dataclass
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd

from eval.inputs.folders import PHANTOM, ImageFolder, is_phantom, same_prompts, spread_out
from eval.summary import sections
from eval.summary import sections as training_sections
from eval.summary.page import Html, details, page, pairs, paragraph, section, table
from eval.summary.steps import Outcome
from sdcxr import __version__
from sdcxr.io.files import inside, write_text

PROMPTS = 12  # pairs in the sample grid
NEIGHBOURS = 8  # nearest pairs shown
PICTURE = 192  # pixels of a thumbnail
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
    """nearest.csv of the privacy part; need not be there."""
    show_prompts: bool = False

    @property
    def phantom(self) -> bool:
        """Whether images of a side are phantoms."""
        return any(is_phantom(side.folder) for side in (self.real, self.synthetic))


def write_report(path: Path, report: Report) -> None:
    """Write the page atomically."""
    write_text(path, render(report))


def render(report: Report) -> str:
    """The page."""
    rows = report.outcome.rows
    n = f"{len(report.real):,} real and {len(report.synthetic):,} synthetic images; in brackets 95 % intervals."
    blocks = {
        "pictures": ("Pictures", samples(report)),
        "fidelity": ("Fidelity", sections.fidelity(rows)),
        "classifier": ("Findings", sections.classifier(rows)),
        "labels": ("Labels", sections.per_label(rows)),
        "alignment": ("Alignment", sections.alignment(rows)),
        "retrieval": ("Retrieval", sections.retrieval(rows)),
        "diversity": ("Diversity", diversity(report)),
        "privacy": ("Privacy", privacy(report)),
        "reports": ("Reports", written_reports(report)),
        "utility": ("Utility", training_sections.utility(rows)),
        "text-encoder": ("Text encoder", training_sections.text_encoder(rows)),
        "left-out": ("Left out", left_out(report)),
        "provenance": ("Provenance", provenance(report)),
    }
    menu = "".join(f'<a href="#{anchor}">{name}</a>' for anchor, (name, content) in blocks.items() if content)
    body = [
        "<h1>Synthetic chest radiographs, measured</h1>",
        paragraph(n, "dim"),
        paragraph(PHANTOM, "warning") if report.phantom else "",
        *(paragraph(line, "warning") for line in report.outcome.warnings),
        f"<nav>{menu}</nav>",
        sections.tiles(rows),
        *(content for _, content in blocks.values()),
    ]
    title = "Synthetic chest radiographs, measured"
    return page(title, [part for part in body if part], report.phantom)


def samples(report: Report) -> str:
    """Real images beside the synthetic ones of the same prompts; where prompts are of other images, synthetic ones."""
    shown = report.show_prompts or is_phantom(report.real.folder)
    figures = []
    for real, synthetic, name, text in spread_out(same_prompts(report.real, report.synthetic), PROMPTS):
        figures.append((real, "real", synthetic, "synthetic", text if shown and text else name))
    about = (
        "Each pair has one prompt: its real image on the left, the first synthetic one on the right. Chosen evenly "
        "from all prompts, not by their looks."
    )
    paired = bool(figures)
    if not paired:
        about = (
            "No synthetic image was made from a prompt of --real: those of a pair have nothing to do with each other."
        )
        count = min(PROMPTS, len(report.real), len(report.synthetic))
        sides = (spread_out(side.paths, count) for side in (report.real, report.synthetic))
        for a, b in zip(*sides, strict=True):
            figures.append((a, "real", b, "synthetic", f"{a.name}; {b.name}"))
    hidden = (
        "Prompts are hidden, because they may be text of patients' reports (--show_prompts shows them). Below each "
        "pair stands the id of its row."
    )
    words = [paragraph(about), "" if shown or not paired else paragraph(hidden, "dim")]
    return section("pictures", "Pictures", *words, pairs(figures, PICTURE))


def diversity(report: Report) -> str:
    """Within and across prompts."""
    return sections.compared(
        report.outcome.rows,
        "diversity",
        "diversity",
        "How various are they?",
        "Pairs of images of one prompt, and of different prompts, beside pairs of real images of different patients.",
    )


def privacy(report: Report) -> str:
    """Scores of memorisation and the nearest pairs."""
    scores = sections.compared(
        report.outcome.rows,
        "privacy",
        "privacy",
        "Do they repeat training images?",
        "Nearness to training images beside nearness to held-out ones, and a search for copies. Copies that are "
        "mirrored, turned or cropped are not looked for, and patients shown anew only by the network of --reid.",
    )
    if not scores or report.train is None or not report.nearest.is_file():
        return scores
    found = pd.read_csv(report.nearest, dtype={"synthetic": str, "train": str}).head(NEIGHBOURS)
    figures = [
        (
            inside(report.synthetic.folder, row["synthetic"]),
            "synthetic",
            inside(report.train.folder, row["train"]),
            "training",
            f"correlation {row['correlation']:.3f}{', a copy' if row['copy'] else ''}: {row['synthetic']}",
        )
        for row in found.to_dict("records")
    ]
    return scores + section(
        "nearest",
        "Nearest training images",
        paragraph("The synthetic images that are most alike a training image, and that image. All pairs: nearest.csv."),
        pairs(figures, PICTURE),
    )


def written_reports(report: Report) -> str:
    """What a generator reads from the images."""
    return sections.tables_only(
        report.outcome.rows,
        "reports",
        "reports",
        "What a report generator reads in them",
        "Its reports against the prompts; held against: other images' prompts.",
    )


def left_out(report: Report) -> str:
    """What was not measured, why, and how to have it."""
    lines = [[one.name, one.reason] for one in report.outcome.skipped]
    return section("left-out", "Not measured", table(["part", "why, and how to have it"], lines))


def provenance(report: Report) -> str:
    """Where the numbers come from."""
    folders = [("--real", report.real), ("--synthetic", report.synthetic), ("--train", report.train)]
    about = [[flag, str(side.folder), f"{len(side):,}", counted(side)] for flag, side in folders if side is not None]
    networks = [
        [one["extractor"], one["resize"], Html("<br>".join(f"{k}: <code>{v}</code>" for k, v in one["sha256"].items()))]
        for one in report.outcome.provenance
    ]
    versions = {"sdcxr": __version__, "python": platform.python_version()} | {
        name: installed(name) for name in LIBRARIES
    }
    for one in report.outcome.provenance:
        versions |= one["versions"]
    return section(
        "provenance",
        "Provenance",
        f"<p>Made by <code>{escape(report.command)}</code></p>",
        paragraph(
            "The pictures on this page are of the data sets named here: the terms of those data sets hold for it."
        ),
        table(["flag", "folder", "images", "of"], about, numbers=(2,)),
        table(["samples", "setting"], sample_settings(report.synthetic)),
        table(["extractor", "way of an image to it", "sha256 of its weights"], networks),
        details(
            "Versions", table(["library", "version"], [[name, found] for name, found in versions.items() if found])
        ),
    )


def counted(side: ImageFolder) -> str:
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


def installed(name: str) -> str:
    """The version of a distribution, empty where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
