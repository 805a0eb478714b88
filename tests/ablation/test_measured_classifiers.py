"""Cells that are classifiers, scored on real images: they are paired by patient, and their networks named by stage."""

import numpy as np
import pandas as pd

from ablation.cells import plan_grid, task_folder, task_output
from ablation.grid import parse_grid
from ablation.progress import DONE
from ablation.results import arms_of, measured_cells
from ablation.runner import STATE
from eval.scores import score_row, write_scores
from sdcxr.io.files import write_json
from sdcxr.io.manifest import write_metadata


def test_classifiers_on_the_same_patients_are_paired_and_named_by_stage(stub, tmp_path):
    real = tmp_path / "test"
    rows = pd.DataFrame({"file_name": [f"{i}.png" for i in range(8)], "text": "", "subject_id": list("aabbccdd")})
    write_metadata(real, rows)
    for name in rows["file_name"]:
        (real / name).touch()
    stages = {
        "classify": {"command": "stub"},
        "utility": {"command": "eval.utility", "flags": {"real": str(real), "classifier": "${classify}"}},
    }
    plan = plan_grid(
        parse_grid({"stages": stages, "axes": {"classify.word": ["R", "S"]}, "baseline": {"classify.word": "R"}})
    )
    draws, noise = np.random.default_rng(0).normal(0.8, 0.1, 200), np.random.default_rng(1).normal(0, 0.001, 200)
    for cell, own in zip(plan.cells, (draws, draws + 0.02 + noise), strict=True):
        task = plan.tasks[cell.tasks["utility"]]
        network = task_output(tmp_path, plan.tasks[cell.tasks["classify"]])
        row = score_row("utility_auroc", float(own.mean()), label="macro", images=None, n_real=8, n_synthetic=0)
        row |= {"draws": own.tolist(), "draws_kind": "bootstrap", "extractor": f"{network}, logits"}
        kept = {"rows": [row], "about": {"part": "utility", "step": "utility", "variant": None, "model": None}}
        (task_output(tmp_path, task) / ".steps").mkdir(parents=True)
        write_json(task_output(tmp_path, task) / ".steps" / "utility.json", kept)
        write_scores(task_output(tmp_path, task) / "scores.json", [row | kept["about"]])
        write_json(task_folder(tmp_path, task) / STATE, {"state": DONE, "key": task.key, "seconds": 1.0})
    measured, problems = measured_cells(tmp_path, plan)
    assert [one.rows[0]["extractor"] for one in measured] == ["classify word=R, logits", "classify word=S, logits"]
    assert not problems and measured[0].groups == measured[1].groups != ""
    for one in measured:
        one.rows[0]["extractor"] = None  # as eval.utility: the classifiers are what is compared
    arms = arms_of(plan, measured)
    found = arms.difference("S", "R", next(iter(arms.columns)))
    assert 0.01 < found.low < found.high < 0.03  # the draws of either vary by 0.1
