"""Do the numbers come out right on this installation? Known results, without data, weights or a network.

    python -m eval.doctor

Exit code 1 where one is off; then the libraries that it depends on are named with their versions.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from eval.known_answers import KNOWN_ANSWERS, KnownAnswer
from sdcxr.runtime.cli import run


@dataclass
class DoctorConfig:
    """Nothing to set but what is shown."""

    quiet: bool = False
    """Show only what is off."""


@dataclass(frozen=True)
class Finding:
    """What came of a vector."""

    vector: KnownAnswer
    found: float
    problem: str | None = None
    """Why there is no number."""
    absent: tuple[str, ...] = ()
    """Libraries that are not installed: then it was not computed."""

    @property
    def right(self) -> bool:
        """Whether the number is the known one; a vector that was not computed counts as right."""
        if self.absent:
            return True
        if self.problem:
            return False
        expected = self.vector.expected
        if math.isnan(expected):
            return math.isnan(self.found)
        return abs(self.found - expected) <= self.vector.tolerance


def main(config: DoctorConfig) -> int:
    started = time.perf_counter()
    findings = [examine(vector) for vector in KNOWN_ANSWERS]
    print(table([finding for finding in findings if not (config.quiet and finding.right)]))
    wrong = [finding for finding in findings if not finding.right]
    taken = sum(not finding.absent for finding in findings)
    print(f"{taken - len(wrong)} of {taken} numbers are right ({time.perf_counter() - started:.1f} s)")
    if wrong:
        print(f"off: {suspects(wrong)}. Install the versions of constraints.txt, or report what is printed here.")
    return 1 if wrong else 0


def examine(vector: KnownAnswer) -> Finding:
    """Compute a vector where its libraries are installed. Whatever a library raises is a finding, too."""
    absent = tuple(name for name in vector.libraries if not installed(name))
    if absent:
        return Finding(vector, math.nan, absent=absent)
    try:
        return Finding(vector, float(vector.compute()))
    except Exception as error:  # a library that drifted may fail in any way
        return Finding(vector, math.nan, f"{type(error).__name__}: {' '.join(str(error).split())[:60]}")


def suspects(wrong: Sequence[Finding]) -> str:
    """The libraries that the wrong numbers depend on, those of most of them first, with their versions."""
    names = [finding.vector.libraries[-1] for finding in wrong]
    ordered = sorted(dict.fromkeys(names), key=lambda name: -names.count(name))
    return ", ".join(f"{name} {installed(name)} ({names.count(name)} wrong)" for name in ordered)


def installed(name: str) -> str | None:
    """The version of a distribution, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def table(findings: Sequence[Finding]) -> str:
    """Check, expected, found, ok, and the libraries that it depends on."""
    lines = [f"{'check':44}{'expected':>14}{'found':>14}  {'ok':5}libraries"]
    for finding in findings:
        vector = finding.vector
        if finding.absent:
            lines.append(f"{vector.name:44}{'':>28}  {'–':5}not installed: {', '.join(finding.absent)}")
            continue
        libraries = ", ".join(f"{name} {installed(name)}" for name in vector.libraries)
        lines.append(
            f"{vector.name:44}{vector.expected:>14.7g}{finding.found:>14.7g}  {'yes' if finding.right else 'NO':5}"
            + (finding.problem or libraries)
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
