"""Tasks of cells: shared prefixes, keys, names, and what commands refuse."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ablation.cells import EMBEDDED, Plan, folder_name, plan_grid
from ablation.grid import SEED, parse_grid, read_grid
from sdcxr.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path for path in (ROOT / "configs" / "grids").glob("*.yaml") if path.name != "common.yaml")
STAGES = {
    "prepare": {"command": "stub"},
    "train": {"command": "stub", "flags": {"data": "${prepare}"}},
    "evaluate": {"command": "stub", "flags": {"data": "${train}"}},
}


def plan_of(**content):
    return plan_grid(parse_grid({"stages": STAGES, **content}))


def n_tasks(plan) -> dict[str, int]:
    stages = [task.stage for task in plan.tasks.values()]
    return {stage: stages.count(stage) for stage in plan.grid.stages}


def test_equal_prefixes_are_shared(stub):
    plan = plan_of(axes={"train.value": [1, 2], "evaluate.word": ["a", "b", "c"]})
    assert len(plan.cells) == 6 and n_tasks(plan) == {"prepare": 1, "train": 2, "evaluate": 6}
    assert [task.name for task in plan.tasks.values()][:3] == ["", "value=1", "value=1,word=a"]


def test_tasks_come_after_what_they_need(stub):
    plan = plan_of(axes={"train.value": [1, 2], "prepare.seed": [0, 1]})
    seen: set[str] = set()
    for key, task in plan.tasks.items():
        assert set(task.needs) <= seen
        seen.add(key)


def test_a_default_given_or_left_out_is_the_same_task(stub):
    left_out, given_ = plan_of(axes={"train.seed": [1]}), plan_of(axes={"train.seed": [1], "train.value": [0]})
    assert set(left_out.tasks) == set(given_.tasks)


def test_more_values_leave_the_keys_of_the_others(stub):
    before = plan_of(axes={"train.value": [1, 2]})
    after = plan_of(axes={"train.value": [1, 2, 3]}, seeds={"values": [0, 1], "flags": ["train.seed"]})
    assert set(before.tasks) < set(after.tasks)


def test_stages_that_a_cell_does_not_build_on_are_not_run(stub):
    plan = plan_of(axes={"x": {"tuned": {"train.value": 1}, "original": {"evaluate.data": "somewhere"}}})
    assert [list(cell.tasks) for cell in plan.cells] == [["prepare", "train", "evaluate"], ["evaluate"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"axes": {"x": {"a": {"train.value": 1}, "b": {"train.value": 1.0}}}}, "are the same commands"),
        ({"axes": {"train.value": ["much"]}}, "train.value: expected float, got 'much'"),
        ({"axes": {"train.seed": [True]}}, "train.seed: expected int, got True"),
        ({"axes": {"train.data": ["${trian}"]}}, "is no stage"),
        ({"axes": {"prepare.data": ["${evaluate}"]}}, "in a circle"),
        ({"axes": {"x": {"a": {"train.seed": 1}}, "train.seed": [2]}}, "is set by two axes"),
    ],
)
def test_mistakes_name_the_cell(stub, content, message):
    with pytest.raises(UserError, match=r"^(cell|the cells) ") as error:
        plan_of(**content)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"baseline": {"train.value": 1}}, "baseline: 2 cells are train.value=1: name the value of each axis"),
        (
            {"exclude": [{"train.value": 1}], "baseline": {"train.value": 1}},
            "baseline: no cell is train.value=1: name the value of each axis",
        ),
    ],
)
def test_a_baseline_is_one_cell(stub, content, message):
    with pytest.raises(UserError) as error:
        plan_of(axes={"train.value": [1, 2], "train.word": ["a", "b"]}, **content)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ({"metric": "aurok"}, "unknown metric in metrics: aurok (did you mean auroc"),
        ({"metric": "auroc", "lable": "macro"}, "unknown column in metrics: lable (did you mean label"),
    ],
)
def test_metrics_that_no_evaluation_has_are_refused_before_anything_runs(metric, message):
    stages = {"evaluate": {"command": "eval", "flags": {"real": "r", "synthetic": "s"}}}
    content = {"stages": stages, "axes": {"evaluate.seed": [0]}, "metrics": [metric]}
    with pytest.raises(UserError) as error:
        plan_grid(parse_grid(content))
    assert message in str(error.value)


def test_what_a_command_refuses_is_found_before_anything_runs():
    stages = {"train": {"flags": {"data": "x"}}}
    with pytest.raises(UserError, match="cell tune=unt: train: --tune unt: use unet"):
        plan_grid(parse_grid({"stages": stages, "axes": {"train.tune": ["unet", "unt"]}}))
    with pytest.raises(UserError, match="missing --prompts"):
        plan_grid(parse_grid({"stages": {"generate": {"flags": {"model": "x"}}}, "axes": {"generate.seed": [0]}}))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    values=st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True),
    words=st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=3, unique=True),
    data=st.randoms(use_true_random=False),
)
def test_keys_are_of_the_values_and_not_of_their_order(stub, values, words, data):
    """Any order of values and axes gives the same tasks; as many as there are different prefixes."""
    axes = {"train.value": values, "evaluate.word": words}
    plan = plan_of(axes=axes)
    shuffled = [(name, data.sample(list(v), len(v))) for name, v in reversed(axes.items())]
    assert set(plan_of(axes=dict(shuffled)).tasks) == set(plan.tasks)
    assert n_tasks(plan) == {"prepare": 1, "train": len(values), "evaluate": len(values) * len(words)}
    assert len({folder_name(task) for task in plan.tasks.values()}) == len(plan.tasks)


def shipped(path: Path, scale: str | None) -> Plan:
    grid = read_grid(path, scale)
    raw = [stage.name for stage in grid.stages.values() if stage.command == "data_prep.mimic_cxr"]
    paths = {"images": "/data/mimic", "reports": "/data/mimic/reports.zip"}
    data = [] if scale else [f"{stage}.{flag}={value}" for stage in raw for flag, value in paths.items()]
    return plan_grid(read_grid(path, scale, data))


@pytest.mark.parametrize("scale", [None, "demo"])
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_grids_plan(path, scale):
    plan = shipped(path, scale)
    assert len(plan.cells) > 1
    assert plan.grid.baseline and plan.grid.source and plan.grid.title
    axes = {name: axis for name, axis in plan.grid.axes.items() if name != SEED}
    assert not [(name, label) for name, axis in axes.items() for label, one in axis.choices.items() if not one.source]
    if scale:  # no network: every base and encoder is embedded
        flags = [value for task in plan.tasks.values() for value in task.flags.values() if isinstance(value, str)]
        assert not [value for value in flags if any(owner in value for owner in ("StanfordAIMI", "CompVis", "openai"))]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_copies_are_searched_among_the_images_that_trained(path):
    plan = shipped(path, None)
    for cell in plan.cells:
        data, searched = (plan.tasks[cell.tasks[s]].flags if s in cell.tasks else {} for s in ("train", "evaluate"))
        assert not data or not searched or searched["train"] == f"{data['data']}/train"


@pytest.mark.parametrize("scale", [None, "demo"])
def test_every_arm_of_augmentation_has_the_same_budget_and_real_judges(scale):
    plan = shipped(ROOT / "configs" / "grids" / "augmentation.yaml", scale)
    arms = {}
    for cell in plan.cells:
        keys, trainings = [cell.tasks["utility"]], []
        for key in keys:
            keys += plan.tasks[key].needs
        for task in (plan.tasks[key] for key in dict.fromkeys(keys)):
            if task.flags.get("tune") == "classifier":
                trainings.append(task.flags)
        same = ("data", "labels", "findings", "max_train_samples")
        data = {tuple(one.get(name) for name in same) for one in trainings}
        recipe = {(one["train_batch_size"], one["learning_rate"], one["resolution"]) for one in trainings}
        assert len(data) == len(recipe) == 1
        last = [one for one in trainings if one.get("load_best_model_at_end")]
        assert len(last) == 1 and last[0]["max_train_steps"] // last[0]["checkpointing_steps"] == 5
        steps = sum(one["max_train_steps"] for one in trainings)
        arms.setdefault(cell.assignment["arm"], set()).add((steps, *data, *recipe, plan.tasks[keys[0]].flags["real"]))
    assert list(arms) == ["R", "S", "R+S", "S→R", "R×2", "5S"]
    assert len({tuple(found) for found in arms.values()}) == 1  # one budget, one recipe, one test split for all


def test_the_grid_of_methods_has_all_of_them():
    from sdcxr.tuning.registry import METHODS

    grid = read_grid(ROOT / "configs" / "grids" / "peft.yaml")
    assert set(grid.axes["method"].choices) == set(METHODS) - {"toy"}


def test_values_of_a_scale_have_the_source_of_their_namesake(stub):
    axes = {"x": {"a": {"train.value": 1, "source": "a paper"}, "b": {"source": "b paper"}}}
    demo = {"axes": {"x": {"a": {"train.value": 2}, "b": {"source": "ours"}, "c": {"train.value": 3}}}}
    stages = {"train": {"command": "stub"}}
    grid = parse_grid({"stages": stages, "axes": axes, "scales": {"demo": demo}}, "demo")
    assert [one.source for one in grid.axes["x"].choices.values()] == ["a paper", "ours", ""]


@pytest.mark.slow
def test_ten_thousand_cells_plan_in_ten_seconds_and_500_mb(tmp_path):
    """With the real commands and their checks, in a process of its own; also to where the first command would start."""
    grid = tmp_path / "grid.yaml"
    values = ", ".join(f"{i / 1e6:g}" for i in range(1, 1001))
    seeds = ", ".join(map(str, range(10)))
    grid.write_text(
        "stages:\n  train: {flags: {data: D, max_train_steps: 10}}\n"
        '  generate: {flags: {model: "${train}", prompts: P}}\n'
        '  evaluate: {command: eval, flags: {real: R, synthetic: "${generate}"}}\n'
        f"axes: {{train.learning_rate: [{values}]}}\nseeds: [{seeds}]\n"
    )
    script = (
        "import re, sys, time\nfrom pathlib import Path\nfrom ablation.cells import plan_grid\n"
        "from ablation.grid import read_grid\nfrom ablation.local import Local\nfrom ablation.runner import Runner\n"
        "started = time.process_time()\nplan = plan_grid(read_grid(Path(sys.argv[1])))\nplanned = time.process_time()\n"
        "Runner(Path(sys.argv[2]), plan, Local(2))\nready = time.process_time()\n"
        # Not ru_maxrss, which a process takes over from its parent.
        "peak = int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) / 1024\n"
        "print(len(plan.cells), len(plan.tasks), planned - started, ready - planned, peak)\n"
    )
    command = [sys.executable, "-c", script, str(grid), str(tmp_path / "out")]
    shown = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    cells, tasks, plan_seconds, start_seconds, megabytes = map(float, shown.stdout.split())
    assert (cells, tasks) == (10_000, 30_000)
    assert plan_seconds + start_seconds < 10 and megabytes < 500, shown.stdout


def test_the_embedded_base_is_no_stage(stub):
    plan = plan_of(axes={"evaluate.data": [f"${{{EMBEDDED}}}", "x"]})
    assert [task.flags["data"] for task in plan.tasks.values()] == ["${embedded}", "x"]
