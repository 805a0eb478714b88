"""Commands: how they answer to wrong flags, to Ctrl-C and to a full disk, and that their help is cheap."""

import errno
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from sdcxr.io.files import atomic, write_text
from sdcxr.runtime import cli
from sdcxr.runtime.errors import UserError, os_error_behind

ROOT = Path(__file__).parents[3]


@dataclass
class Settings:
    """Settings of a test."""

    images: str
    """Folder of images."""
    views: str = "PA"
    """Views kept."""
    split: Literal["folder", "official"] = "folder"
    """How to split."""
    workers: int = 0
    """Processes."""
    rate: float | None = None
    """A rate."""


def command(config: Settings) -> int:
    print(config)
    return 3 if config.views == "three" else 0


def outcome(capfd: pytest.CaptureFixture[str], *argv: str, main: Any = command) -> tuple[Any, str, str]:
    """Exit code, stdout and stderr of a command."""
    with pytest.raises(SystemExit) as stopped:
        cli.run(main, list(argv))
    out, err = capfd.readouterr()
    return stopped.value.code, out, err


def refusal(capfd: pytest.CaptureFixture[str], *argv: str, main: Any = command) -> str:
    """The one line on stderr of a command that is refused."""
    code, out, err = outcome(capfd, *argv, main=main)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    return err


def test_flags_become_the_dataclass_and_the_return_value_the_exit_code(capfd):
    code, out, _ = outcome(capfd, "--images", "a b", "--views=three", "--rate", "5e-5", "--workers", "2")
    assert code == 3
    assert out == "Settings(images='a b', views='three', split='folder', workers=2, rate=5e-05)\n"


def test_unknown_flag_names_the_nearest(capfd):
    assert "unknown flag or key: image (did you mean --images?)" in refusal(capfd, "--images", "a", "--image", "b")


def test_unknown_flag_far_from_all_points_to_the_help(capfd):
    assert "unknown flag or key: zzzzz (see --help)" in refusal(capfd, "--images", "a", "--zzzzz", "1")


def test_missing_flag_is_named(capfd):
    assert refusal(capfd) == "error: missing --images\n"


@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [
        ("--workers", "many", "int"),
        ("--rate", "fast", "float"),
        ("--split", "patient", "one of 'folder', 'official', got patient"),
    ],
)
def test_wrong_value_names_flag_value_and_kind(capfd, flag, value, expected):
    line = refusal(capfd, "--images", "a", flag, value)
    assert flag in line and value in line and expected in line


def test_config_file_is_overridden_by_flags(capfd, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("images: from file\nworkers: 4\nrate: 5e-5\n")
    code, out, _ = outcome(capfd, "--config", str(file), "--workers", "2")
    assert code == 0
    assert out == "Settings(images='from file', views='PA', split='folder', workers=2, rate=5e-05)\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("imagse: a\n", "unknown flag or key: imagse (did you mean --images?)"),
        ("images: [\n", "while parsing a flow"),
        ("workers: many\n", "--workers: expected int, got many"),
        ("- a\n", "is not YAML with flags and values"),
        ("", "is not YAML with flags and values"),
    ],
)
def test_wrong_config_file_is_one_line_with_its_name(capfd, tmp_path, content, message):
    file = tmp_path / "config.yaml"
    file.write_text(content)
    assert f"error: {file}: {message}" in refusal(capfd, "--images", "a", "--config", str(file))


def test_a_wrong_choice_lists_the_choices(capfd):
    assert "--split: expected one of 'folder', 'official', got random" in refusal(
        capfd, "--images", "a", "--split", "random"
    )


def test_wrong_flag_beside_a_config_file_is_not_the_files(capfd, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("images: a\n")
    assert "config.yaml" not in refusal(capfd, "--config", str(file), "--wrokers", "2")


def test_help_fits_the_terminal_but_commands_keep_their_lines(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(
        sys.modules[__name__], "__doc__", "A sentence of words. " * 8 + "\n\n    " + "command " * 12 + "#\n\nEnd.\n"
    )
    _, out, _ = outcome(capfd, "--help")
    lines = out.split("options:")[0].splitlines()
    assert "    " + "command " * 12 + "#" in lines and "End." in lines
    assert max(len(line) for line in lines if not line.startswith("    ")) <= 60


def test_missing_config_file_is_one_line(capfd, tmp_path):
    assert "nowhere.yaml" in refusal(capfd, "--images", "a", "--config", str(tmp_path / "nowhere.yaml"))


def test_printed_config_is_taken_again(capfd, tmp_path):
    code, out, _ = outcome(capfd, "--images", "a", "--rate", "1e-6", "--print_config")
    assert code == 0 and "images: a" in out
    file = tmp_path / "config.yaml"
    file.write_text(out)
    assert "rate=1e-06" in outcome(capfd, "--config", str(file))[1]


def raising(error: BaseException) -> Any:
    def main(config: Settings) -> int:
        raise error

    return main


def test_user_error_is_one_line_even_where_its_cause_had_several(capfd):
    line = refusal(capfd, "--images", "a", main=raising(UserError("no table (line 1\nline 2\n)")))
    assert line == "error: no table (line 1 line 2 )\n"


def test_ctrl_c_is_exit_code_130(capfd):
    code, _, err = outcome(capfd, "--images", "a", main=raising(KeyboardInterrupt()))
    assert code == 130 and "run the same command again" in err and "Traceback" not in err


def test_full_disk_is_one_line(capfd):
    error = OSError(errno.ENOSPC, "No space left on device", "/runs/a")
    assert "no space left on the disk while writing /runs/a" in refusal(capfd, "--images", "a", main=raising(error))


def test_a_disk_that_takes_no_more_is_one_line_where_safetensors_tells_it(capfd, tmp_path):
    """It wraps what the system says in an exception of its own."""

    def main(config: Settings) -> int:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            save_file({"a": np.zeros(1000)}, tmp_path / "a.safetensors")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        return 0

    assert "limit on the size of a file" in refusal(capfd, "--images", "a", main=main)
    full = os_error_behind(SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert full is not None and full.errno == errno.ENOSPC
    assert os_error_behind(SafetensorError("Error while deserializing header: HeaderTooLarge")) is None


def test_missing_right_is_one_line(capfd):
    assert "/etc/x" in refusal(capfd, "--images", "a", main=raising(PermissionError(errno.EACCES, "no", "/etc/x")))


@pytest.mark.parametrize("error", [ValueError("ours"), OSError(errno.EIO, "broken disk")])
def test_our_own_mistakes_keep_their_traceback(error):
    with pytest.raises(type(error)):
        cli.run(raising(error), ["--images", "a"])


def commands() -> list[list[str]]:
    """Every entry point of the repository."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for room in ("sdcxr", "data_prep", "eval")
        for path in sorted((ROOT / room).rglob("*.py"))
        if 'if __name__ == "__main__"' in path.read_text()
    ]
    scripts = [path.name for path in sorted(ROOT.glob("*.py")) if 'if __name__ == "__main__"' in path.read_text()]
    return [[script] for script in scripts] + [["-m", module] for module in modules]


HEAVY = {"torch", "transformers", "diffusers", "pydicom", "torchvision", "accelerate"}


@pytest.mark.slow
def test_every_command_answers_help_without_heavy_imports():
    """One process after the other: `python -X importtime` lists what the interpreter imported, to the very end."""
    assert ["train.py"] in commands() and ["-m", "data_prep.phantom"] in commands()
    for words in commands():
        run = subprocess.run(
            [sys.executable, "-X", "importtime", *words, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert run.returncode == 0, run.stderr[-2000:]
        assert "usage:" in run.stdout, words
        assert "--output" in run.stdout or words == ["-m", "eval.doctor"], words  # which writes nothing
        imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in run.stderr.splitlines()}
        assert not imported & HEAVY, f"{words} imports {imported & HEAVY}"


def test_a_pipe_between_our_own_processes_that_breaks_is_not_silent():
    with pytest.raises(BrokenPipeError):
        cli.run(raising(BrokenPipeError(errno.EPIPE, "a worker died")), ["--images", "a"])


def test_output_that_nobody_reads_is_no_success():
    code = (
        "from dataclasses import dataclass; from sdcxr.runtime.cli import run\n@dataclass\nclass C:\n    a: int = 0\n"
        "def main(c: C) -> None:\n    print('x', flush=True)\nrun(main)"
    )
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, timeout=60)
    os.close(write)
    assert (run.returncode, run.stderr) == (141, b"")


def test_help_into_a_closed_pipe_is_quiet():
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run(
        [sys.executable, "generate.py", "--help"], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(write)
    assert "Traceback" not in run.stderr


def save_arrays(file: Path) -> None:
    with atomic(file) as temporary:
        save_file({"a": np.zeros(9)}, temporary)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.mkdir(parents=True, exist_ok=True),
        lambda path: os.makedirs(path, exist_ok=True),  # noqa: PTH103 (as libraries do)
        lambda path: write_text(path, "[]"),
        save_arrays,
    ],
    ids=["mkdir", "makedirs", "text", "safetensors"],
)
def test_what_cannot_be_made_is_one_line_with_its_own_name_whatever_the_reason(capfd, tmp_path, write):
    (tmp_path / "round").symlink_to(tmp_path / "round")

    def main(config: Settings) -> None:
        write(tmp_path / "round" / "out")

    line = refusal(capfd, "--images", "a", main=main)
    assert line.endswith("round/out cannot be created: Too many levels of symbolic links: give another name\n")


@dataclass
class Switches:
    """Settings of another test."""

    fast: bool = False
    """A switch."""
    compiled: bool | None = None
    """A switch whose default depends."""
    workers: int = 0
    """Processes."""


def command_with_switches(config: Switches) -> None: ...


@pytest.mark.parametrize(
    ("words", "fast", "compiled"),
    [
        (["--fast"], True, None),
        (["--fast", "--compiled"], True, True),
        (["--fast", "false", "--compiled", "--workers", "2"], False, True),
        (["--compiled", "false", "--fast", "true"], True, False),
        (["--fast=true"], True, None),
        ([], False, None),
    ],
)
def test_a_switch_needs_no_value(words, fast, compiled):
    settings = cli.parse(command_with_switches, words)
    assert (settings.fast, settings.compiled) == (fast, compiled)


@dataclass
class Renamed:
    """Settings of which two have had other names."""

    DEPRECATED: ClassVar[dict[str, str]] = {"clip": "image_text_model", "quick": "fast"}
    image_text_model: str | None = None
    """A model."""
    fast: bool = False
    """A switch."""
    rate: float = 0.0
    """A rate."""


def command_with_new_names(config: Renamed) -> None:
    print(config.image_text_model, config.fast)


@pytest.mark.parametrize("words", [("--clip", "a", "--image_text_model", "b"), ("--image_text_model=b", "--clip=a")])
def test_old_and_new_name_of_a_flag_together_are_refused(capsys, words):
    with pytest.raises(SystemExit) as stopped:
        cli.run(command_with_new_names, list(words))
    assert stopped.value.code == 2
    assert "error: --clip is the old name of --image_text_model: give one of the two" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--clip", "RUN", "--quick"],
        ["--clip=RUN", "--quick=true"],
    ],
)
def test_a_deprecated_flag_works_and_says_its_new_name(capfd, words):
    code, out, err = outcome(capfd, *words, main=command_with_new_names)
    assert (code, out) == (None, "RUN True\n")
    assert "--clip is now --image_text_model; the old name goes in 0.3\n" in err and err.count("\n") == 2


def test_a_value_that_looks_like_a_deprecated_name_stays(capfd):
    assert outcome(capfd, "--image_text_model", "clip", main=command_with_new_names)[1:] == ("clip False\n", "")


def test_deprecated_keys_of_a_config_file_work_and_are_named_with_the_file(capfd, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("clip: from file\nquick: true\n")
    _, out, err = outcome(capfd, "--config", str(file), main=command_with_new_names)
    assert out == "from file True\n"
    assert f"{file}: clip is now image_text_model; the old name goes in 0.3\n" in err
    _, out, _ = outcome(capfd, "--config", str(file), "--image_text_model", "RUN", main=command_with_new_names)
    assert out == "RUN True\n"
    file.write_text("quick: perhaps\n")
    assert "--fast: expected bool, got perhaps" in outcome(capfd, "--config", str(file), main=command_with_new_names)[2]
    file.write_text("clip: a\nimage_text_model: b\n")
    code, _, err = outcome(capfd, "--config", str(file), main=command_with_new_names)
    assert code == 2 and err.endswith(f"error: {file}: clip and image_text_model are one setting: remove clip\n")


def test_deprecated_names_are_in_no_help_and_no_printed_config(capfd):
    for word in ("--help", "--print_config"):
        out = outcome(capfd, "--clip", "RUN", word, main=command_with_new_names)[1]
        assert "image_text_model" in out and "clip" not in out


def test_of_several_processes_one_warns(capfd, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert outcome(capfd, "--clip", "RUN", main=command_with_new_names)[2] == ""


def test_a_command_leaves_the_processes_it_was_started_with(tmp_path):
    """Threads of gloo that are alive when Python ends abort it now and then."""
    script = """
import atexit, sys, torch.distributed as d
from dataclasses import dataclass
from sdcxr.runtime import cli, processes
@dataclass
class Settings:
    "None."
def main(config: Settings) -> int:
    assert processes.processes().num_processes == 1 and d.get_backend() == "gloo"
    return 3
d.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
atexit.register(lambda: print("open" if d.is_initialized() else "closed"))
cli.run(main, [])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "store")], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stdout) == (3, "closed\n"), done.stderr
