"""Grid files: what they say, and what is refused in one line."""

from pathlib import Path

import pytest

from ablation.cells import expand
from ablation.grid import parse_grid, read_grid
from sdcxr.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
STAGES = {"prepare": {"command": "stub"}, "train": {"command": "stub", "flags": {"data": "${prepare}"}}}


def grid_of(scale=None, settings=(), **content):
    return parse_grid({"stages": STAGES, **content}, scale, settings)


def labels(grid) -> list[tuple[str, ...]]:
    return [tuple(cell.values()) for cell in expand(grid)]


@pytest.mark.parametrize(
    ("content", "cells"),
    [
        ({"axes": {"train.value": [1, 2], "train.word": ["a", "b"]}}, ["1a", "1b", "2a", "2b"]),
        (
            {"axes": {"train.value": [1, 2], "train.word": ["a", "b"]}, "zip": [["train.value", "train.word"]]},
            ["1a", "2b"],
        ),
        ({"axes": {"train.value": [1, 2, 3]}, "exclude": [{"train.value": [1, 3]}]}, ["2"]),
        (
            {"axes": {"train.value": [1, 2]}, "exclude": [{"train.value": 1}], "include": [{"train.value": 1}]},
            ["2", "1"],
        ),
        ({"axes": {"train.value": [1]}, "seeds": {"values": [0, 7], "flags": ["train.seed"]}}, ["10", "17"]),
        ({"axes": {"x": {"a": {"train.value": 3}, "b": {}}}}, ["a", "b"]),
    ],
)
def test_cells_of_axes(stub, content, cells):
    assert ["".join(cell) for cell in labels(grid_of(**content))] == cells


def test_included_cells_have_all_seeds(stub):
    grid = grid_of(
        axes={"x": {"a": {}, "b": {"train.value": 1}}, "train.word": ["u", "v"]},
        exclude=[{"x": "a"}],
        include=[{"x": "a"}],
        seeds={"values": [0, 1], "flags": ["train.seed"]},
    )
    assert labels(grid) == [("b", "u", "0"), ("b", "u", "1"), ("b", "v", "0"), ("b", "v", "1"), ("a", "0"), ("a", "1")]


def test_a_scale_is_over_the_file_and_set_over_both(stub):
    content = {
        "axes": {"train.word": ["a", "b"]},
        "scales": {"demo": {"axes": {"train.word": ["c"]}, "flags": {"train.value": 2, "prepare.value": 1}}},
    }
    grid = grid_of("demo", ["train.value=5e-1"], **content)
    assert labels(grid) == [("c",)]
    assert grid.stages["train"].flags == {"data": "${prepare}", "value": "5e-1"}
    assert grid.stages["prepare"].flags == {"value": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"axis": {}}, "unknown key axis (did you mean axes?)"),
        ({"axes": {"train.valeu": [1]}}, "no flag --valeu (did you mean value?)"),
        ({"axes": {"trian.value": [1]}}, "unknown stage in trian.value: trian (did you mean train?)"),
        ({"axes": {"value": [1]}}, "expected stage.flag"),
        ({"axes": {"train.value": []}}, "has no values"),
        ({"axes": {"train.value": [1, 1.0]}}, "given twice"),
        ({"axes": {"x": {1: {"train.value": 1}, "1": {"train.value": 2}}}}, "axes.x: 1 is given twice"),
        ({"axes": {"train.word": ["a"]}, "seeds": {"values": [1, 1.0], "flags": ["train.seed"]}}, "different numbers"),
        ({"axes": {"train.output_dir": ["x"]}}, "the runner sets it"),
        ({"stages": {"a": {"command": "evil.fid"}}}, "unknown command evil.fid"),
        ({"stages": {"a": {"command": "eval.fdi"}}}, "did you mean eval.fid"),
        ({"stages": {"a": {"command": "os"}}}, "unknown command os"),
        ({"baseline": {"size": 1}}, "unknown axis in baseline: size"),
        ({"axes": {"train.value": [1]}, "exclude": [{"train.value": 2}]}, "unknown value of train.value in exclude: 2"),
        ({"stages": {}}, "stages: is empty"),
        ({"axes": {"train.value": 3}}, "expected a list, got 3"),
    ],
)
def test_mistakes_are_one_line(stub, content, message):
    with pytest.raises(UserError) as error:
        grid_of(**content)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"axes": {"train.value": [1]}, "exclude": [{"train.value": 1}]}, "leaves no cells"),
        ({"axes": {"train.value": [1]}, "include": [{"train.value": 1}]}, "is there twice"),
        (
            {"axes": {"train.value": [1, 2], "train.seed": [1]}, "zip": [["train.value", "train.seed"]]},
            "as many values",
        ),
        ({}, "has no cells"),
    ],
)
def test_grids_without_or_with_repeated_cells_are_refused(stub, content, message):
    with pytest.raises(UserError, match=message):
        expand(grid_of(**content))


@pytest.mark.parametrize("text", ["a: [", "- 1", "!!python/object/apply:os.system ['true']"])
def test_files_that_are_no_grid(tmp_path, text):
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        read_grid(tmp_path / "grid.yaml")
    assert "grid.yaml" in str(error.value) and "\n" not in str(error.value)


def test_a_setting_of_an_axis_is_refused(stub):
    with pytest.raises(UserError, match="is set by the axis"):
        grid_of(settings=["train.value=3"], axes={"train.value": [1, 2]})


@pytest.mark.parametrize("value", ["[a", "{", "a: b: c"])
def test_a_setting_that_is_no_yaml_is_one_line(stub, value):
    with pytest.raises(UserError, match="the value is not YAML") as error:
        grid_of(settings=[f"train.word={value}"], axes={"train.value": [1]})
    assert "\n" not in str(error.value)


def test_named_values_are_found_by_what_the_file_calls_them(stub):
    grid = grid_of(axes={"x": {2.0: {"train.value": 1}, True: {"train.value": 2}}}, baseline={"x": 2.0})
    assert list(grid.axes["x"].choices) == ["2", "true"] and grid.baseline == {"x": "2"}
