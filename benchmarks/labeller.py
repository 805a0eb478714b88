"""How often the rule-based report labeller agrees with the indexers of Open-i and with the phantoms' own labels.

    python benchmarks/labeller.py                          # the reports inside torchxrayvision's wheel
    python benchmarks/labeller.py --half test --list 40    # ids of disagreements, to be read by hand
    python benchmarks/labeller.py --phantom DATASET        # a dataset folder of phantoms

Open-i's labels are MeSH headings by indexers, who name what a report states and leave out what they find of no weight:
a silver standard. The words of the labeller were chosen on the half "tune" (even report numbers).
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from data_prep.openi_reports import BadReport, Report, mesh_labels, read_reports
from eval.radiology_text.labeller import label_table
from sdcxr.io.manifest import LABELS, SPLITS, read_metadata
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError


@dataclass
class LabellerConfig:
    """What to compare with."""

    half: Literal["tune", "test", "all"] = "test"
    """half of Open-i's reports"""
    doubted: Literal["present", "absent"] = "present"
    """what an uncertain label counts as; indexers also name doubted findings"""
    list: int = 0
    """ids shown of each kind of disagreement"""
    phantom: Path | None = None
    """dataset folder of phantoms, whose metadata.csv holds the labels that their words carry"""


def main(config: LabellerConfig) -> int:
    if config.phantom is not None:
        print(phantom_table(config.phantom).to_string())
        return 0
    ids, found, indexed = openi(config.half)
    present = (found == 1) | (found == -1) if config.doubted == "present" else found == 1
    print(f"{len(ids)} reports of Open-i, half {config.half!r}, doubted findings count as {config.doubted}")
    print(agreement(indexed, present).round(3).to_string())
    for name in LABELS if config.list else ():
        for kind, rows in (
            ("only labeller", present[name] & ~indexed[name]),
            ("only indexer", ~present[name] & indexed[name]),
        ):
            print(f"{name}, {kind}: {' '.join(ids[rows][: config.list])}")
    return 0


def openi(half: str) -> tuple[pd.Series, pd.DataFrame, pd.DataFrame]:
    """Ids, the labeller's labels and the indexers' (true, false) of the reports that were indexed at all."""
    ids, texts, indexed = [], [], []
    for report in openi_reports():
        text = " ".join(report.sections.get(name, "") for name in ("findings", "impression"))
        if not text.strip() or "No Indexing" in report.majors:
            continue
        number = int(report.uid.removeprefix("CXR"))
        if half == "all" or (number % 2 == 0) == (half == "tune"):
            ids.append(report.uid)
            texts.append(text)
            indexed.append(mesh_labels(report.majors))
    return pd.Series(ids), label_table(texts), pd.DataFrame(indexed).reindex(columns=LABELS).eq(1)


def openi_reports() -> list[Report]:
    """The reports of Open-i inside torchxrayvision's wheel."""
    package = importlib.util.find_spec("torchxrayvision")
    path = Path(package.origin or "").parent / "data/NLMCXR_reports.tgz" if package else Path()
    if not path.is_file():
        raise UserError("torchxrayvision with its NLMCXR_reports.tgz is not installed: pip install torchxrayvision")
    return [report for _, report in read_reports(path) if not isinstance(report, BadReport)]


def agreement(truth: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Counts, precision, recall and F1 of each finding that the truth knows, and over all of them."""
    counts = pd.DataFrame(
        {"both": (truth & found).sum(), "only labeller": (~truth & found).sum(), "only truth": (truth & ~found).sum()}
    )
    counts = counts[truth.any()]
    counts.loc["all"] = counts.sum()
    counts["precision"] = counts["both"] / (counts["both"] + counts["only labeller"])
    counts["recall"] = counts["both"] / (counts["both"] + counts["only truth"])
    counts["F1"] = 2 * counts["both"] / (2 * counts["both"] + counts["only labeller"] + counts["only truth"])
    return counts


def phantom_table(dataset: Path) -> pd.DataFrame:
    """For each label: how often the labeller gives the value that the phantom's grammar records (absent included)."""
    splits = [dataset / split for split in SPLITS if (dataset / split).is_dir()]
    rows = pd.concat([read_metadata(folder) for folder in splits or [dataset]], ignore_index=True)
    found = label_table(rows["text"])
    truth = rows[list(LABELS)].astype(float)
    same = (found == truth) | (found.isna() & truth.isna())
    return pd.DataFrame(
        {"texts": len(rows), "recorded": truth.notna().sum(), "differ": (~same).sum(), "agree": same.mean().round(4)}
    )


if __name__ == "__main__":
    run(main)
