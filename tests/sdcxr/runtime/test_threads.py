"""All cores under `accelerate launch`, unless the user said otherwise."""

import subprocess
import sys

import pytest

CORES = "import os; print(len(os.sched_getaffinity(0)))"
THREADS = (
    "from sdcxr.runtime.threads import use_all_cores; use_all_cores(); import torch; print(torch.get_num_threads())"
)
LAUNCHED = {"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1"}


def printed(code: str, **environment: str) -> int:
    clean = {"PATH": "/usr/bin:/bin"} | environment
    return int(
        subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True).stdout
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "all_cores"),
    [
        (LAUNCHED, True),
        (LAUNCHED | {"MKL_NUM_THREADS": "1"}, False),
        (LAUNCHED | {"LOCAL_WORLD_SIZE": "64"}, False),
        ({"OMP_NUM_THREADS": "1"}, False),
    ],
)
def test_threads_used(environment: dict[str, str], all_cores: bool) -> None:
    assert printed(THREADS, **environment) == (printed(CORES) if all_cores else 1)
