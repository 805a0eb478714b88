"""Training beside other busy processes: images/s of the tiny base with 0, 1 and 2 loops of `while :; do :; done`.

    python benchmarks/shared_machine.py                                 # before and now
    python benchmarks/shared_machine.py --spin_counts 0,300,1000,3000   # and a thread per core that spins so long

"before" is a thread per core and libgomp's own waiting, "now" as many threads as find a free core. Every run is a
train.py of its own, the settings in turn within each round, so that slow changes of the machine's speed reach them
all. Let nothing else run meanwhile.
"""

import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from levers import full
from train_throughput import RESULTS, ThroughputConfig, hardware, measure, write_base, write_noise

from sdcxr.io.files import write_json
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.threads import available_cores

BUSY_LOOP = ["sh", "-c", "while :; do :; done"]
FIXED = {"OMP_NUM_THREADS": str(available_cores())}  # a number that the user sets stays
BEFORE = FIXED | {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"}  # what the libraries do by themselves


@dataclass
class SharedMachineConfig:
    """Measure training on a shared machine."""

    rounds: int = 3
    """times everything is run; the medians count"""
    steps: int = 20
    """optimizer steps that count in a run; a multiple of 5"""
    most_competitors: int = 2
    """busy processes beside it at most"""
    spin_counts: str = ""
    """values of GOMP_SPINCOUNT to measure as well, separated by commas"""
    output: Path = RESULTS / "shared_machine.json"
    """JSON file to write"""

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.most_competitors < 0:
            raise UserError("--rounds must be at least 1, --most_competitors at least 0")
        if not all(count.isdigit() for count in self.spin_counts.split(",") if self.spin_counts):
            raise UserError(f"--spin_counts {self.spin_counts}: give numbers separated by commas")


def main(config: SharedMachineConfig) -> int:
    """Measure, print a table, and write."""
    counts = config.spin_counts.split(",") if config.spin_counts else []
    settings = {"before": BEFORE, "now": {}} | {f"GOMP_SPINCOUNT={n}": FIXED | {"GOMP_SPINCOUNT": n} for n in counts}
    what = ThroughputConfig("tiny", 128, "unet+text", 16, config.steps, device="cpu")
    row, numbers = full("cpu", 16), range(config.most_competitors + 1)
    speeds: dict[tuple[str, int], list[float]] = {(name, n): [] for n in numbers for name in settings}
    with tempfile.TemporaryDirectory(prefix="shared-machine-") as folder:
        base, data, work = (Path(folder) / name for name in ("base", "data", "run"))
        write_base("tiny", base)
        write_noise(data, 128)
        for number in range(config.rounds):
            for name, n in speeds:
                with competitors(n):
                    speed = measure(what, row, base, data, work, settings[name])["images_per_s"]
                print(f"round {number + 1}: {name}, beside {n}: {speed:.1f} images/s", flush=True)
                speeds[name, n].append(speed)
    rows = [summary(name, [speeds[name, n] for n in numbers], speeds["before", 0]) for name in settings]
    print("\n" + table(rows))
    config.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(config.output, {"hardware": hardware("cpu"), "steps": config.steps, "settings": rows})
    return 0


@contextmanager
def competitors(n: int) -> Iterator[None]:
    """Processes that take what they get of n cores."""
    processes = [subprocess.Popen(BUSY_LOOP) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def summary(name: str, speeds: list[list[float]], before: list[float]) -> dict[str, Any]:
    """Medians beside 0, 1, … processes, and those of the ratios within a round to the own idle and the one before."""
    idle = [ratio(rounds, speeds[0]) for rounds in speeds]
    return {
        "setting": name,
        "images_per_s": [statistics.median(rounds) for rounds in speeds],
        "share_of_idle": idle,
        "idle_to_before": ratio(speeds[0], before),
        "rounds": speeds,
    }


def ratio(these: list[float], those: list[float]) -> float:
    """Median of the ratios within each round."""
    return statistics.median(a / b for a, b in zip(these, those, strict=True))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: images/s, in brackets the share of the idle speed."""
    beside = [f"beside {n}" for n in range(1, len(rows[0]["images_per_s"]))]
    lines = ["| | " + " | ".join(["idle", *beside]) + " |", "|-|" + "-:|" * (1 + len(beside))]
    for row in rows:
        cells = [f"{row['images_per_s'][0]:.1f} ({row['idle_to_before']:.2f} × before)"]
        shares = zip(row["images_per_s"][1:], row["share_of_idle"][1:], strict=True)
        cells += [f"{speed:.1f} ({share:.0%})" for speed, share in shares]
        lines.append(f"| {row['setting']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
