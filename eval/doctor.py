"""Check an installation: compute numbers with known answers, without data, weights or network access.

    python -m eval.doctor

Exit code 1 if a number is off; the libraries that it depends on are then named with their versions.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from eval.extractors.base import installed_version
from eval.known_answers import KNOWN_ANSWERS, KnownAnswer
from sdcxr.runtime.cli import run


@dataclass
class DoctorConfig:
    """What to show."""

    quiet: bool = False
    """Show only numbers that are off."""


@dataclass(frozen=True)
class Outcome:
    """The computed number of a known answer."""

    answer: KnownAnswer
    found: float
    problem: str | None = None
    """The error, if there is no number."""
    absent: tuple[str, ...] = ()
    """Libraries that are not installed, if it was not computed for that reason."""

    @property
    def right(self) -> bool:
        """Whether the number is the known one; true if libraries are absent."""
        if self.absent:
            return True
        if self.problem:
            return False
        expected = self.answer.expected
        if math.isnan(expected):
            return math.isnan(self.found)
        return abs(self.found - expected) <= self.answer.tolerance


def main(config: DoctorConfig) -> int:
    started = time.perf_counter()
    outcomes = [examine(answer) for answer in KNOWN_ANSWERS]
    print(table([outcome for outcome in outcomes if not (config.quiet and outcome.right)]))
    wrong = [outcome for outcome in outcomes if not outcome.right]
    taken = sum(not outcome.absent for outcome in outcomes)
    print(f"{taken - len(wrong)} of {taken} numbers are right ({time.perf_counter() - started:.1f} s)")
    if wrong:
        print(f"off: {suspects(wrong)}. Install the versions of constraints.txt, or report what is printed here.")
    return 1 if wrong else 0


def examine(answer: KnownAnswer) -> Outcome:
    """Compute a number if its libraries are installed; any error of a library is an outcome, too."""
    absent = tuple(name for name in answer.libraries if not installed_version(name))
    if absent:
        return Outcome(answer, math.nan, absent=absent)
    try:
        return Outcome(answer, float(answer.compute()))
    except Exception as error:  # another version of a library may fail in any way
        return Outcome(answer, math.nan, f"{type(error).__name__}: {' '.join(str(error).split())[:60]}")


def suspects(wrong: Sequence[Outcome]) -> str:
    """The libraries that the wrong numbers depend on with their versions, the most frequent first."""
    names = [outcome.answer.libraries[-1] for outcome in wrong]
    ordered = sorted(dict.fromkeys(names), key=lambda name: -names.count(name))
    return ", ".join(f"{name} {installed_version(name)} ({names.count(name)} wrong)" for name in ordered)


def table(outcomes: Sequence[Outcome]) -> str:
    """Outcomes as text: name, expected, found, ok, libraries."""
    lines = [f"{'check':44}{'expected':>14}{'found':>14}  {'ok':5}libraries"]
    for outcome in outcomes:
        answer = outcome.answer
        if outcome.absent:
            lines.append(f"{answer.name:44}{'':>28}  {'–':5}not installed: {', '.join(outcome.absent)}")
            continue
        libraries = ", ".join(f"{name} {installed_version(name)}" for name in answer.libraries)
        lines.append(
            f"{answer.name:44}{answer.expected:>14.7g}{outcome.found:>14.7g}  {'yes' if outcome.right else 'NO':5}"
            + (outcome.problem or libraries)
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
