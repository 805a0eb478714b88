"""An invented collection in Open-i's layout, and the command on it."""

from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pandas as pd
from PIL import Image

from data_prep.openi import OpenIConfig


def report_xml(number: int, impression: str = "Normal chest.", images: int = 2, majors: tuple[str, ...] = ()) -> str:
    """A report as Open-i distributes it, with figures F1, F2, …"""
    parents = "".join(
        f'<parentImage id="CXR{number}_IM-0001-{figure}001"><figureId>F{figure}</figureId></parentImage>'
        for figure in range(1, images + 1)
    )
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n<eCitation><uId id="CXR{number}"/>'
        "<MedlineCitation><Article><Abstract>"
        '<AbstractText Label="COMPARISON">None.</AbstractText>'
        '<AbstractText Label="FINDINGS">The heart is of\n  normal size.</AbstractText>'
        f'<AbstractText Label="IMPRESSION">{escape(impression)}</AbstractText></Abstract></Article></MedlineCitation>'
        f"<MeSH>{''.join(f'<major>{escape(major)}</major>' for major in majors)}</MeSH>{parents}</eCitation>"
    )


def write_image(path: Path, side: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(side * side, dtype=np.uint32).reshape(side, side).astype(np.uint8)).save(path)


def write_collection(folder: Path) -> Path:
    """Forty reports with two images each in two folders below `images`."""
    for number in range(1, 41):
        path = folder / "reports" / "ecgen-radiology" / f"{number}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(report_xml(number, f"Opacity number {number}."))
        for figure in (1, 2):
            write_image(folder / "images" / str(number % 2) / f"CXR{number}_IM-0001-{figure}001.png")
    return folder


def config_for(folder: Path, **changes: object) -> OpenIConfig:
    settings: dict = {"images": folder / "images", "reports": folder / "reports", "output_dir": folder / "out"}
    return OpenIConfig(**(settings | {"resolution": 16, "workers": 1} | changes))


def rejected_reasons(output_dir: Path) -> dict[str, int]:
    return pd.read_csv(output_dir / "rejected.csv")["reason"].value_counts().to_dict()
