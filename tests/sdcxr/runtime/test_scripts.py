"""Console scripts: every command has one, and its name leads to that command's main."""

import sys
import tomllib
from pathlib import Path

import pytest

from sdcxr.runtime import scripts

ROOT = Path(__file__).parents[3]
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
BY_NAME = sorted(name for name, target in SCRIPTS.items() if target == "sdcxr.runtime.scripts:main")


def commands() -> set[str]:
    """Modules of data_prep and eval that run with `python -m`."""
    paths = [*(ROOT / "data_prep").glob("*.py"), *(ROOT / "eval").glob("*.py"), *ROOT.glob("*/*/__main__.py")]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in paths
        if 'if __name__ == "__main__"' in path.read_text()
    }


def test_every_command_has_a_script_of_its_name():
    assert {scripts.command_of(name).__module__ for name in BY_NAME} == commands()


def test_training_and_generation_have_scripts_too():
    assert SCRIPTS.keys() - set(BY_NAME) == {"sdcxr-train", "sdcxr-generate", "sdcxr-fit-projection", "sdcxr-ablate"}


def test_help_shows_the_scripts_name(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["/usr/bin/sdcxr-prep-nih14", "--help"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)  # a script has none, unlike `python -m pytest`
    with pytest.raises(SystemExit) as stopped:
        scripts.main()
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("usage: sdcxr-prep-nih14 ")
