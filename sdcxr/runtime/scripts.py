"""Console scripts: `sdcxr-eval-fid` runs eval/fid.py and `sdcxr-prep-openi` data_prep/openi.py, from any folder.

pip installs one script for each line under `[project.scripts]` in pyproject.toml. They all call `main`, which finds the
module by the name of the script.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from sdcxr.runtime.cli import Main, run

PACKAGES = {"prep": "data_prep", "eval": "eval"}


def command_of(script: str) -> Main:
    """The `main` of the module that a script is named after; of a package, that of its `__main__`."""
    _, package, *words = script.split("-")
    name = ".".join([PACKAGES[package], *(["_".join(words)] if words else [])])
    module = import_module(name)
    if hasattr(module, "__path__"):
        module = import_module(f"{name}.__main__")
    command: Main = module.main
    return command


def main() -> NoReturn:
    """Run the command that the called script is named after."""
    run(command_of(Path(sys.argv[0]).stem))
