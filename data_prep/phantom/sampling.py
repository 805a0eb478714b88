"""Random sampling of phantoms: body build per patient, findings per study, acquisition per image."""

from typing import Any

import numpy as np

from data_prep.phantom.anatomy import SIDES, ZONES, Acquisition, Build, Findings, Side, Sides, View

ABNORMAL = 0.66  # share of studies with a finding
# Probability of each finding in those, per side where it has sides. Implausible combinations are sampled again, which
# leaves cardiomegaly in 25 % of all studies, effusion in 17 % and pneumothorax in 11 % per side, others in about 5 %.
SHARE = {
    "cardiomegaly": 0.36,
    "effusion": 0.39,
    "pneumothorax": 0.38,
    "consolidation": 0.17,
    "edema": 0.22,
    "atelectasis": 0.17,
    "lesion": 0.16,
}
DEVICE_SHARE = {"pacemaker": 0.06, "tube": 0.06, "line": 0.07}


def sample_build(rng: np.random.Generator) -> Build:
    """The body build of a patient."""
    female = rng.random() < 0.5
    half_width = rng.uniform(0.33, 0.375)
    return Build(
        half_width=half_width,
        apex=rng.uniform(-0.365, -0.325),
        dome=rng.uniform(0.205, 0.265),
        dome_step=rng.uniform(0.012, 0.03),
        wall=rng.uniform(0.045, 0.11),
        neck=rng.uniform(0.095, 0.13),
        shoulder=rng.uniform(-0.40, -0.35),
        heart_share=rng.uniform(0.64, 0.70),
        normal_ratio=rng.uniform(0.385, 0.455),
        knob=rng.uniform(0.01, 0.035),
        breast=rng.uniform(0.2, 1.0) if female else 0.0,
        spine_bow=rng.uniform(-0.008, 0.008),
        rib_gap=rng.uniform(0.056, 0.064),
        rib_phase=rng.uniform(-0.4, 0.4),
        clavicle_slope=rng.uniform(0.12, 0.30),
        bone=rng.uniform(0.75, 1.25),
        adiposity=rng.random(),
    )


def sample_findings(rng: np.random.Generator) -> Findings:
    """The findings of a study: none in about a third of studies, otherwise mostly one or two, at most three."""
    devices = _devices(rng)
    if rng.random() > ABNORMAL:
        return Findings(**devices)
    while True:
        drawn: dict[str, Any] = {"consolidation_zone": _pick(rng, ZONES), "lesion_zone": _pick(rng, ZONES)}
        for name in ("cardiomegaly", "edema"):
            drawn[name] = _severity(rng) if rng.random() < SHARE[name] else 0.0
        for name in ("effusion", "pneumothorax", "consolidation", "atelectasis", "lesion"):
            drawn[name] = Sides(*(_severity(rng) if rng.random() < SHARE[name] else 0.0 for _ in SIDES))
        findings = Findings(**drawn, **devices)
        if not findings.normal and _plausible(findings):
            return findings


def _plausible(findings: Findings) -> bool:
    """Whether all findings can be seen: none hides another, and at most three kinds come together."""
    if findings.pneumothorax.right and findings.pneumothorax.left:
        return False
    lung = (findings.consolidation, findings.atelectasis, findings.lesion)
    for side in SIDES:
        in_lung = sum(pair.on(side) > 0 for pair in lung)
        if in_lung > 1 or (findings.pneumothorax.on(side) and (in_lung or findings.effusion.on(side))):
            return False
        if in_lung and findings.effusion.on(side):
            return False
    lower = (findings.consolidation_zone, "lower", findings.lesion_zone)
    behind_heart = any(pair.left and zone == "lower" for pair, zone in zip(lung, lower, strict=True))
    if findings.cardiomegaly > 0.4 and behind_heart:
        return False
    pairs = (findings.effusion, findings.pneumothorax, *lung)
    if findings.edema and any(any(pair) for pair in (findings.pneumothorax, *lung)):
        return False
    count = (findings.cardiomegaly > 0) + (findings.edema > 0) + sum(any(pair) for pair in pairs)
    return count <= 3


def _devices(rng: np.random.Generator) -> dict[str, Any]:
    pacemaker: Side | None = None
    if rng.random() < DEVICE_SHARE["pacemaker"]:
        pacemaker = "left" if rng.random() < 0.7 else "right"
    tube = bool(rng.random() < DEVICE_SHARE["tube"])
    line: Side | None = None
    if rng.random() < DEVICE_SHARE["line"]:
        line = "right" if rng.random() < 0.7 else "left"
    return {"pacemaker": pacemaker, "tube": tube, "line": line}


def _severity(rng: np.random.Generator) -> float:
    """Mild in a fifth, moderate and severe in two fifths each; never close to the limit between two grades."""
    third = int(rng.choice(3, p=[0.2, 0.4, 0.4]))
    return float((third + rng.uniform(0.08, 0.92)) / 3)


def _pick(rng: np.random.Generator, values: tuple[Any, ...]) -> Any:
    return values[int(rng.integers(len(values)))]


def sample_acquisition(rng: np.random.Generator, view: View) -> Acquisition:
    """The acquisition of an image of this view."""
    bedside = view == "AP"
    lateral = view in ("LATERAL", "LL")
    border = np.where(rng.random(4) < 0.08, rng.uniform(0.005, 0.045, 4), 0.0)
    marker: Side = "left" if rng.random() < 0.6 else "right"
    return Acquisition(
        view=view,
        inspiration=float(rng.uniform(0.1, 0.7) if bedside else rng.uniform(0.65, 1.0)),
        rotation_degrees=float(rng.normal(0, 2.2 if bedside else 1.0)),
        scale=float(rng.uniform(0.98, 1.13)),
        shift=(float(rng.normal(0, 0.014)), float(rng.normal(0, 0.014))),
        aspect=float(rng.choice([1.0, 1.2, 1 / 1.2], p=[0.6, 0.2, 0.2])),
        exposure=float(rng.uniform(-1, 1)),
        noise=float(rng.uniform(0.5, 1.0) if bedside else rng.uniform(0.1, 0.6)),
        scatter=float(rng.uniform(0.03, 0.08) if bedside else rng.uniform(0.02, 0.04)),
        collimation=(float(border[0]), float(border[1]), float(border[2]), float(border[3])),
        marker=None if lateral or rng.random() < 0.1 else marker,
    )
