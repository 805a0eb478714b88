"""Refocusing of Open-i's impressions: a smoke test of the benchmark and a floor for the labels that stay."""

import importlib
from pathlib import Path

import pytest

from eval.radiology_text.labeller import label_table


@pytest.mark.slow
def test_findings_of_open_i_stay(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    benchmark = importlib.import_module("refocusing")
    texts = [report.sections.get("impression", "") for report in benchmark.openi_reports()][::4]
    texts = [text for text in texts if text]
    assert len(texts) > 950
    for change in benchmark.MODES.values():
        changed = list(map(change, texts))
        counts = benchmark.account(texts, changed, label_table(texts), label_table(changed))
        assert counts["labels_equal_share"] >= 0.99
    assert len(benchmark.sample_of_pairs(texts, 5, seed=0)) == 5
