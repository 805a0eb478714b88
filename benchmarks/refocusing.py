"""What `--text clean` and `--text refocused` do to the impressions of Open-i, judged by the rule-based labeller.

    python benchmarks/refocusing.py                       # the reports inside torchxrayvision's wheel
    python benchmarks/refocusing.py --pairs 200           # and a sample of changed texts before and after, to be read
    python benchmarks/refocusing.py --output benchmarks/results/refocusing.json

A label is lost (gained) where a finding is labelled before (after) and not mentioned after (before), and changed where
it is present, absent or uncertain before and another of these after. Open-i's texts are public.
"""

import platform
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from labeller import openi_reports

from eval.radiology_text.labeller import label_table
from sdcxr.io.files import write_json
from sdcxr.io.manifest import LABELS
from sdcxr.runtime.cli import run
from sdcxr.text.refocusing import clean, refocus

MODES = {"clean": clean, "refocused": refocus}


@dataclass
class RefocusingConfig:
    """What to write and show."""

    section: str = "impression"
    """section of the reports"""
    output: Path | None = None
    """JSON file for the counts"""
    pairs: int = 0
    """number of changed texts to show before and after refocusing"""
    seed: int = 0
    """seed of their choice"""


def main(config: RefocusingConfig) -> int:
    texts = [text for report in openi_reports() if (text := report.sections.get(config.section, ""))]
    before = label_table(texts)
    results: dict[str, Any] = {"section": config.section, "texts": len(texts), "unique": len(set(texts))}
    for mode, change in MODES.items():
        start = time.process_time()
        changed = [change(text) for text in texts]
        seconds = time.process_time() - start
        results[mode] = account(texts, changed, before, label_table(changed))
        results[mode]["ms_per_unique_text"] = round(1000 * seconds / len(set(texts)), 2)
        counts = {name: value for name, value in results[mode].items() if name != "findings"}
        print(f"{mode}: " + ", ".join(f"{name} {value:,}" for name, value in counts.items()))
        print(pd.DataFrame(results[mode]["findings"]).T.to_string(), "\n")
    for old, new in sample_of_pairs(texts, config.pairs, config.seed):
        print(f"< {old}\n> {new}\n")
    if config.output is not None:
        write_json(config.output, results | {"machine": platform.processor() or platform.machine()})
    return 0


def account(texts: list[str], changed: list[str], before: pd.DataFrame, after: pd.DataFrame) -> dict[str, Any]:
    """Counts of texts and characters that changed, and of labels by finding."""
    equal = (before == after) | (before.isna() & after.isna())
    unique = ~pd.Series(texts).duplicated()
    different = pd.Series([old != new for old, new in zip(texts, changed, strict=True)])
    lost, gained = before.notna() & after.isna(), before.isna() & after.notna()
    kinds = {"equal": equal & before.notna(), "lost": lost, "gained": gained, "changed": ~equal & ~lost & ~gained}
    return {
        "changed": int(different.sum()),
        "characters": sum(map(len, texts)),
        "characters_dropped": sum(map(len, texts)) - sum(map(len, changed)),
        "labels_equal": int(equal.all(axis=1).sum()),
        "labels_equal_share": round(float(equal.all(axis=1).mean()), 4),
        "labels_equal_share_of_unique": round(float(equal.all(axis=1)[unique].mean()), 4),
        "labels_equal_share_of_changed_unique": round(float(equal.all(axis=1)[unique & different].mean()), 4),
        "findings": {name: {kind: int(table[name].sum()) for kind, table in kinds.items()} for name in LABELS},
    }


def sample_of_pairs(texts: list[str], n: int, seed: int) -> list[tuple[str, str]]:
    """Different texts of which refocusing changes more than list numbers and punctuation, with the result."""
    pairs = {text: refocus(text) for text in texts}
    kept = [pair for pair in sorted(pairs.items()) if _words(pair[0]) != _words(pair[1])]
    return random.Random(seed).sample(kept, min(n, len(kept)))


def _words(text: str) -> list[str]:
    return [word for word in (part.strip(".,;:()").lower() for part in text.split()) if word and not word.isdigit()]


if __name__ == "__main__":
    run(main)
