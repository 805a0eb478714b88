"""report.html of a grid: what it shows, and how a browser takes that of 200 cells."""

import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ablation.cells import Plan, output_value, plan_grid, task_folder, task_output
from ablation.grid import parse_grid
from ablation.plots import numbers_of, positions, tick_labels
from ablation.report import METHODS, profiles, sample_matrix, trade_off, unsurpassed, write_report
from ablation.results import Arms, arms_of, measured_cells
from ablation.runner import STATE
from eval.metrics.bootstrap import Interval, bootstrap_counts
from eval.scores import finite_or_none, score_row, write_scores
from eval.summary.steps import KEPT
from sdcxr.io.files import write_json
from sdcxr.io.manifest import write_metadata
from tests.eval.summary.test_html import BROWSER, measured, parse

PROMPTS = 10
COUNTS = np.array(list(bootstrap_counts(PROMPTS, 100, seed=0)))
IMPRESSIONS = ("Small left pleural effusion with adjacent atelectasis, unchanged.", "No acute cardiopulmonary process.")


def images_in(folder: Path, name: str, seed: int) -> None:
    """A dataset or samples folder of noise, the same ids in each."""
    folder.mkdir(parents=True)
    generator, rows = np.random.default_rng(seed), []
    for i in range(PROMPTS):
        file = f"s{i:03d}{name}.png"
        Image.fromarray(generator.integers(0, 255, (64, 64), np.uint8).repeat(2, 0).repeat(2, 1)).save(folder / file)
        rows.append({"file_name": file, "text": IMPRESSIONS[i % 2] + f" Case {i}.", "dicom_id": f"s{i:03d}"})
        if name:
            rows[-1] |= {"id": rows[-1].pop("dicom_id"), "seed": 0, "scheduler": "pndm"}
    write_metadata(folder, pd.DataFrame(rows))


def grid_done(root: Path, axes: dict, seeds: int = 2, **content) -> Plan:
    """A grid whose every task is done: real images, samples, and scores with draws."""
    if not (root / "real").is_dir():
        images_in(root / "real", "", 99)
    stages = {
        "train": {"command": "stub"},
        "generate": {"command": "stub", "flags": {"data": "${train}"}},
        "evaluate": {"command": "eval", "flags": {"real": str(root / "real"), "synthetic": "${generate}"}},
    }
    about = {"values": list(range(seeds)), "flags": ["train.seed"]}
    plan = plan_grid(parse_grid({"stages": stages, "axes": axes, "seeds": about, **content}))
    levels = {name: i for i, name in enumerate(dict.fromkeys(plan.arm_name(cell) for cell in plan.cells))}
    level_of = {cell.tasks["evaluate"]: levels[plan.arm_name(cell)] for cell in plan.cells}
    for i, (key, task) in enumerate(plan.tasks.items()):
        folder = task_folder(root, task)
        if task.stage == "generate":
            images_in(task_output(root, task), "_0", i)
        elif task.stage == "evaluate":
            scores(task_output(root, task), 0.5 + 0.4 * level_of[key] / len(levels), i)
        else:
            output_value(root, task).mkdir(parents=True)
            (output_value(root, task) / "value.json").touch()
        write_json(folder / STATE, {"state": "done", "key": key, "seconds": 1.0})
    return plan


def scores(folder: Path, level: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    hard = np.random.default_rng(0).normal(0, 0.1, PROMPTS)
    rows = []
    for metric, value in (("auroc", level), ("average_precision", level - 0.2), ("kid", 1 - level)):
        values = value + hard + generator.normal(0, 0.02, PROMPTS)
        interval = Interval(values.mean() - 0.05, values.mean() + 0.05, COUNTS @ values / PROMPTS)
        about = {"images": "synthetic", "n_synthetic": PROMPTS, "n_real": PROMPTS}
        label = None if metric == "kid" else "macro"
        rows.append(score_row(metric, float(values.mean()), interval, label=label, **about))
    (folder / KEPT).mkdir(parents=True)
    write_json(folder / KEPT / "all.json", {"rows": finite_or_none(rows), "about": {"step": "classifier"}})
    write_scores(folder / "scores.json", [row | {"step": "classifier"} for row in rows])


def report_of(root: Path, plan: Plan, prompts: bool = False) -> tuple[Path, Arms]:
    cells, problems = measured_cells(root, plan)
    assert not problems
    arms = arms_of(plan, cells)
    write_report(root / "report.html", plan, arms, arms.differences(), cells, prompts)
    return root / "report.html", arms


AXES = {
    "train.value": [100, 1000, 12500, 60000],
    "part": {"unet": {"train.word": "u"}, "text": {"train.word": "t"}},
}


def test_the_page_needs_nothing_else_and_has_all_sections(stub, tmp_path):
    plan = grid_done(tmp_path, AXES, baseline={"train.value": 100, "part": "unet"})
    page, arms = report_of(tmp_path, plan)
    text = page.read_text()
    checker = parse(text)
    assert checker.outside == [] and checker.anchors <= checker.targets
    assert checker.targets >= {"values", "ranks", "differences", "axes", "plots", "pictures", "cells", "methods"}
    assert "Small left pleural" not in text and METHODS[2][:40] in text
    assert checker.tags.count("img") == (1 + len(arms.cells)) * 8


def test_the_sample_matrix_has_the_same_prompts_down_the_cells(stub, tmp_path):
    plan = grid_done(tmp_path, AXES)
    _, arms = report_of(tmp_path, plan)
    (section,) = sample_matrix(tmp_path, plan, arms, prompts=True)
    assert section.matrix.header[0] == "Small left pleural effusion with adjacent atelectasis, unchanged. Case 0."
    assert [name for name, _ in section.matrix.rows] == ["real image of the prompt", *arms.cells]
    for _, row in section.matrix.rows:
        assert [one.name.rpartition(", ")[2] for one in row] == [f"s{i:03d}" for i in (0, 1, 2, 3, 5, 6, 7, 8)]
    shutil.rmtree(next(iter(arms.cells["value 100, part unet"].values())).samples)
    (section,) = sample_matrix(tmp_path, plan, arms, prompts=False)
    assert section.matrix.header[0] == "s000" and len(section.matrix.rows) == 8
    assert "Without images, which are gone: value 100, part unet." in section.texts


def test_prompts_are_shown_only_where_all_cells_are_of_phantoms(stub, tmp_path):
    """One cell on phantoms does not show the text of the others' patients."""
    images_in(tmp_path / "phantoms" / "test", "", 99)
    write_json(tmp_path / "phantoms" / "prep.json", {"phantom": True})
    plan = grid_done(
        tmp_path, {"evaluate.real": [str(tmp_path / "real"), str(tmp_path / "phantoms" / "test")]}, seeds=1
    )
    page, _ = report_of(tmp_path, plan)
    assert "Small left pleural" not in page.read_text()
    plan = grid_done(tmp_path, {"evaluate.real": [str(tmp_path / "phantoms" / "test")], "train.value": [1, 2]}, seeds=1)
    page, _ = report_of(tmp_path, plan)
    assert "Small left pleural" in page.read_text()


def test_results_stay_when_the_samples_are_deleted(stub, tmp_path):
    """Which prompts are behind the draws is kept: else the pairs of differences would be lost."""
    plan = grid_done(tmp_path, AXES, baseline={"train.value": 100, "part": "unet"})
    before = report_of(tmp_path, plan)[1].differences()
    shutil.rmtree(tmp_path / "generate")
    assert report_of(tmp_path, plan)[1].differences() == before


def test_what_is_not_measured_is_a_note_of_the_tables(stub, tmp_path):
    plan = grid_done(tmp_path, {"train.value": [1, 2]}, baseline={"train.value": 1}, metrics=[{"metric": "fd"}])
    base = next(cell for cell in plan.cells if plan.arm_name(cell) == plan.baseline)
    for cell in (base, plan.cells[-1]):
        (task_folder(tmp_path, plan.tasks[cell.tasks["evaluate"]]) / STATE).unlink()
    arms = arms_of(plan, measured_cells(tmp_path, plan)[0])
    assert arms.missing == ["no score is metric: fd", "2 of 4 cells are measured"]
    other = next(cell for cell in plan.cells if cell != base and plan.arm_name(cell) == plan.baseline)
    (task_folder(tmp_path, plan.tasks[other.tasks["evaluate"]]) / STATE).unlink()
    arms = arms_of(plan, measured_cells(tmp_path, plan)[0])
    assert arms.missing[1:] == ["no differences: the baseline, 1, is not measured", "1 of 4 cells are measured"]


def test_what_an_earlier_attempt_kept_and_the_last_left_out_is_no_result(stub, tmp_path):
    """A step that can no longer be done is not in scores.json; its rows still lie beside the others."""
    plan = grid_done(tmp_path, {"train.value": [1]}, seeds=1)
    output = task_output(tmp_path, plan.tasks[plan.cells[0].tasks["evaluate"]])
    old = score_row("retrieval", 0.9, label=None, images="synthetic", n_synthetic=9, n_real=9)
    write_json(output / KEPT / "retrieval.json", {"rows": [old], "about": {"step": "retrieval"}})
    write_json(
        output / KEPT / "classifier-of-before.json",
        {"rows": [old | {"metric": "auroc", "label": "macro"}], "about": {"step": "classifier"}},
    )
    ((cell,), _) = measured_cells(tmp_path, plan)
    assert [row["metric"] for row in cell.rows] == ["auroc", "average_precision", "kid"]
    assert all(row["draws"] is not None for row in cell.rows)


def test_a_baseline_that_failed_is_a_note(stub, tmp_path):
    plan = grid_done(tmp_path, AXES, baseline={"train.value": 100, "part": "unet"})
    for cell in plan.cells:
        if plan.arm_name(cell) == plan.baseline:
            shutil.rmtree(task_folder(tmp_path, plan.tasks[cell.tasks["evaluate"]]))
    page, arms = report_of(tmp_path, plan)
    assert arms.differences() == []
    assert "no differences: the baseline, value 100, part unet, is not measured" in page.read_text()


def test_a_metric_has_a_plot_against_each_axis(stub, tmp_path):
    plan = grid_done(tmp_path, AXES)
    _, arms = report_of(tmp_path, plan)
    cards = profiles(plan, arms)
    assert [card.title for card in cards][:2] == ["AUROC ↑ by value", "average precision ↑ by value"]
    assert len(cards) == 2 * 3 and cards[0].svg.count("<polyline") == 2 and cards[3].svg.count("<polyline") == 0
    assert cards[0].svg.count("<circle") == cards[3].svg.count("<circle") == 8


def test_places_of_numbers_and_words():
    assert (
        numbers_of(["1", "1e-5"]) == [1.0, 1e-5]
        and numbers_of(["1", "all"]) is None
        and numbers_of(["1", "1.0"]) is None
    )
    near, joined = positions(["1", "2", "4"])
    assert joined and (near[2] - near[0]) == pytest.approx(3 * (near[1] - near[0]))
    wide, _ = positions(["1", "10", "100"])
    assert (wide[2] - wide[0]) == pytest.approx(2 * (wide[1] - wide[0]))
    words, joined = positions(["b", "a", "c"])
    assert not joined and words == sorted(words)


def test_labels_of_an_axis_do_not_run_into_each_other():
    labels = [f"a-very-long-name-{i}" for i in range(12)]
    places = positions(labels)[0]
    texts = re.findall(r'x="([\d.]+)"[^>]*>([^<]+)<', "".join(tick_labels(labels, places)))
    ends = [(float(x) - 3.3 * len(text), float(x) + 3.3 * len(text)) for x, text in texts]
    assert all(first[1] <= second[0] + 0.1 for first, second in pairwise(ends))


def test_of_many_cells_the_unsurpassed_have_names(stub, tmp_path):
    plan = grid_done(tmp_path, {"train.value": list(range(16))}, seeds=1)
    _, arms = report_of(tmp_path, plan)
    card = trade_off(arms)
    assert len(card.points) == 16 and 1 <= sum(bool(one.name) for one in card.points) < 16


def test_unsurpassed_in_two_measures(stub):
    from ablation.estimates import estimate

    def both(x, y):
        return tuple(estimate([value], [np.zeros(0)], None) for value in (x, y))

    keys = [(None, None, "auroc"), (None, None, "kid")]  # higher, and lower, is better
    found = {"a": both(0.9, 0.2), "b": both(0.8, 0.1), "c": both(0.8, 0.3), "d": both(0.9, 0.2)}
    assert unsurpassed(found, keys) == {"a", "b", "d"}


@pytest.mark.slow
@pytest.mark.external
@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
def test_a_report_of_200_cells_in_a_browser(stub, tmp_path):
    """It opens in under 2 s, and nothing runs over its edges on a desktop or a phone."""
    axes = {"train.value": [2**i for i in range(10)], "train.word": [f"method-{i}" for i in range(10)]}
    baseline = {"train.value": 1, "train.word": "method-0"}
    plan = grid_done(tmp_path, axes, title="A grid of 200 cells", baseline=baseline)
    assert len(plan.cells) == 200
    page, _ = report_of(tmp_path, plan)
    for width in (1440, 390):
        (tmp_path / str(width)).mkdir()
        found = measured(page, width, tmp_path / str(width))
        assert found["width"] <= width and found["images"] == 21 * 8
        assert found["plots"] == found["all"] == 6 + 4 and found["spill"] == []
    times = [load_seconds(page, tmp_path / f"profile{i}") for i in range(3)]
    assert min(times) < 2.0, times


def load_seconds(page: Path, profile: Path) -> float:
    """From the start of loading to the end of the layout, as the browser measures it in a frame of another page."""
    frame = profile.with_suffix(".html")
    frame.write_text(
        f'<pre id="out"></pre><script>const start = performance.now();</script><iframe id="f" src="{page.as_uri()}" '
        'width="1440" height="900"></iframe><script>document.getElementById("f").onload = event => {'
        "const height = event.target.contentDocument.documentElement.scrollHeight;"  # waits for the layout
        'document.getElementById("out").textContent = height > 900 ? performance.now() - start : ""; };</script>'
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--disable-dev-shm-usage"]
    flags += [f"--user-data-dir={profile}", "--window-size=1500,1000", "--dump-dom"]
    shown = subprocess.run([BROWSER, *flags, frame.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return float(re.search(r'<pre id="out">(.+?)</pre>', shown.stdout)[1]) / 1000
