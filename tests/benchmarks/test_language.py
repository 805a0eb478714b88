"""The study of the language side: its captions, its tables, and what a failed training leaves of it."""

import importlib
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_prep.phantom.reports import impression
from data_prep.phantom.sampling import sample_findings
from eval.radiology_text.labeller import label_table
from sdcxr.io.manifest import LABELS
from sdcxr.text.refocusing import clean, refocus


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module


def words(text):
    return [word.strip(".,;:").lower() for word in text.split()]


def test_added_clauses_keep_the_labels_and_refocusing_drops_them_all(load):
    rng = np.random.default_rng(0)
    texts = sorted({impression(sample_findings(rng), rng).text for _ in range(300)})
    reports = [load("language_inputs").add_clauses(text, str(i)) for i, text in enumerate(texts)]
    pd.testing.assert_frame_equal(label_table(reports), label_table(texts))
    kept = [(refocus(report), refocus(text)) for report, text in zip(reports, texts, strict=True)]
    assert [pair for pair in kept if words(pair[0]) != words(pair[1])] == []
    assert all(len(clean(report)) > len(refocus(report)) for report in reports)
    assert sum(clean(report) != report for report in reports) > len(reports) / 2


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        ("impression", ["Small left effusion.", "Normal chest."]),
        ("list of labels", ["Pleural effusion.", "No finding."]),
        ("single word", ["Pleural effusion", "Normal"]),
        ("photo", ["a photo of a lung xray with pleural effusion", "a photo of a lung xray with no finding"]),
    ],
)
def test_captions_of_a_style(load, captions, expected):
    rows = pd.DataFrame({"dicom_id": ["a", "b"], "text": ["Small left effusion.", "Normal chest."]})
    rows = rows.reindex(columns=[*rows, *LABELS])
    rows.loc[0, "Pleural Effusion"] = rows.loc[1, "No Finding"] = 1.0
    assert load("language_inputs").captions_of(captions, rows) == expected


def test_tables_have_mean_deviation_and_interval(load):
    scores = [{"auroc": value, "average_precision": 0.2} for value in (0.6, 0.65, 0.7)]
    row = {"part": "encoders", "captions": "impression", "encoder": "own", "tune": "unet", "prompts": "raw"}
    (table,) = load("language").tables({"rows": [row | {"scores": scores}]})
    assert table.endswith("| own | unet | 3 | 0.650 ± 0.050 (0.526–0.774) | 0.200 ± 0.000 (0.200–0.200) |")


def test_a_failed_training_is_reported_and_the_others_go_on(load, tmp_path):
    def fail(log, threads):
        log.write_text("step 1\nout of luck\n")
        raise subprocess.CalledProcessError(1, "train.py")

    done = dict(load("language").at_once({"bad": fail, "good": lambda **_: None}, 1, tmp_path))
    assert done == {"bad": "step 1\nout of luck", "good": ""}
