"""Sampled findings: their shares, how many come together, and in which combinations."""

import numpy as np
import pytest

from data_prep.phantom.anatomy import Findings, Sides
from data_prep.phantom.sampling import sample_findings
from data_prep.phantom.truth import FLAGS, flags

KINDS = ("cardiomegaly", "edema", "effusion", "pneumothorax", "consolidation", "atelectasis", "lesion")


@pytest.fixture(scope="module")
def drawn() -> list[Findings]:
    rng = np.random.default_rng(0)
    return [sample_findings(rng) for _ in range(3000)]


def kinds(findings: Findings) -> set[str]:
    """The kinds of finding that are present; both sides are one."""
    values = {name: getattr(findings, name) for name in KINDS}
    return {name for name, value in values.items() if (any(value) if isinstance(value, Sides) else value)}


def test_findings_come_in_their_usual_shares(drawn: list[Findings]) -> None:
    share = {name: float(np.mean([flags(one)[name] for one in drawn])) for name in FLAGS}
    assert 0.30 < np.mean([one.normal for one in drawn]) < 0.40
    assert 0.20 < share["Cardiomegaly"] < 0.30
    for side in ("Right", "Left"):
        assert 0.14 < share[f"{side} Effusion"] < 0.22 and 0.09 < share[f"{side} Pneumothorax"] < 0.15
    for name in ("Edema", "Right Lesion", "Left Consolidation", "Left Atelectasis", "Pacemaker", "Tube", "Line"):
        assert 0.03 < share[name] < 0.10


def test_up_to_three_kinds_of_finding_come_together_and_mostly_one_or_two(drawn: list[Findings]) -> None:
    counts = np.bincount([len(kinds(one)) for one in drawn])
    assert len(counts) == 4 and counts.min() > 0
    assert counts[1] + counts[2] > 0.8 * counts[1:].sum()


def test_no_finding_hides_another(drawn: list[Findings]) -> None:
    for one in drawn:
        assert not (one.pneumothorax.right and one.pneumothorax.left)
        for side in ("right", "left"):
            in_lung = [name for name in ("consolidation", "atelectasis", "lesion") if getattr(one, name).on(side)]
            assert len([*in_lung, *[n for n in ("effusion", "pneumothorax") if getattr(one, n).on(side)]]) <= 1
