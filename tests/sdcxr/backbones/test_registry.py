"""Loading and saving a backbone: silent, also in a process that has not imported the libraries yet."""

import subprocess
import sys
from pathlib import Path

import pytest

LOAD = """
import sys
from pathlib import Path
from sdcxr import backbones
backbones.save(backbones.load(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.slow  # torch and diffusers once more
def test_loading_and_saving_print_nothing(micro_base, tmp_path):
    command = [sys.executable, "-c", LOAD, str(micro_base), str(tmp_path / "again")]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=root, check=True)
    assert (done.stdout, done.stderr) == ("", "")
