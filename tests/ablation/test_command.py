"""The command on folders and files that it cannot use: one line each."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ablation import command
from ablation.command import main
from ablation.config import AblateConfig
from sdcxr.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
GRID = """
stages:
  train: {command: stub}
  evaluate: {command: stub, flags: {data: "${train}"}}
axes: {train.value: [1, 2]}
"""


@pytest.fixture
def grid(stub, tmp_path) -> Path:
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    return path


def held(folder: Path) -> subprocess.Popen:
    """A process that holds a folder as a runner does."""
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom sdcxr.io.locks import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    holder = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, env=environment)
    assert holder.stdout.readline()
    return holder


@pytest.mark.parametrize("changed", [False, True])
def test_a_second_runner_on_a_folder_is_refused(grid, stub, tmp_path, changed):
    """Also with a grid that was changed meanwhile: the running one goes on as it was read."""
    holder = held(tmp_path / "out")
    try:
        if changed:
            grid.write_text(GRID.replace("[1, 2]", "[1, 2, 3]"))
        with pytest.raises(UserError, match=r"out is in use by another command \(process \d+ on .*\): wait until"):
            main(AblateConfig(str(grid), str(tmp_path / "out")))
    finally:
        holder.kill()
        holder.wait()
    assert not stub.exists()


def test_a_folder_that_cannot_be_written(grid, tmp_path, monkeypatch, capsys):
    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(sys, "argv", ["ablate.py", "--grid", str(grid), "--output_dir", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        command.entry()
    assert ended.value.code == 2
    assert f"no permission for {tmp_path}/out: Permission denied" in capsys.readouterr().err


def test_a_file_in_place_of_the_folder(grid, tmp_path, monkeypatch, capsys):
    (tmp_path / "out").touch()
    monkeypatch.setattr(sys, "argv", ["ablate.py", "--grid", str(grid), "--output_dir", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        command.entry()
    assert ended.value.code == 2
    assert f"{tmp_path}/out is a file, but a folder is needed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "stages: is empty"),
        ("stages: {train: {command: stub}}", "the grid has no cells"),
        (
            GRID.replace("train.value", "train.valeu"),
            "train.valeu: stub_command has no flag --valeu (did you mean value?)",
        ),
        (GRID + "include: [{train.value: 1}]", "the cell train.value=1 is there twice"),
        (GRID + "baseline: {train.value: 3}", "unknown value of train.value in baseline: 3 (known: 1, 2)"),
    ],
)
def test_mistakes_name_the_file(grid, tmp_path, text, message):
    grid.write_text(text)
    with pytest.raises(UserError) as error:
        main(AblateConfig(str(grid), str(tmp_path / "out")))
    assert str(error.value).startswith(f"{grid}: ") and message in str(error.value)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_scores_that_cannot_be_read_are_a_line_and_the_others_are_published(grid, tmp_path, capsys):
    """The stub writes no scores at all."""
    started = time.time()
    assert main(AblateConfig(str(grid), str(tmp_path / "out"), jobs=2)) == 1
    text = capsys.readouterr().out
    assert text.count("has no scores that can be read: delete ") == 2 and "no cell is measured yet" in text
    assert time.time() - started < 60


def test_tables_of_an_earlier_grid_are_not_taken_for_this_one(grid, stub, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.html").touch()
    grid.write_text(GRID + "flags: {train.fail: true}\n")
    assert main(AblateConfig(str(grid), str(tmp_path / "out"), jobs=2)) == 1
    assert "no cell is measured yet; report.html: of an earlier call" in capsys.readouterr().out
