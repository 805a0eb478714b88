"""Anatomy of a phantom: body build, findings, acquisition, and the outlines of thorax, heart and diaphragm.

Lengths are fractions of the image's shorter side. The origin is the centre of the image, u grows to the image's right
(the patient's LEFT), v grows downwards. The patient's RIGHT is on the image's LEFT, as on every chest radiograph.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

Array = np.ndarray
Side = Literal["right", "left"]
Zone = Literal["upper", "mid", "lower"]
View = Literal["PA", "AP", "LATERAL", "LL"]
SIDES: tuple[Side, Side] = ("right", "left")
ZONES: tuple[Zone, Zone, Zone] = ("upper", "mid", "lower")
SULCUS = 0.115  # depth of the costophrenic angle below the dome
SIGN: dict[Side, float] = {"right": -1.0, "left": 1.0}  # of u


class Sides(NamedTuple):
    """Severity on each side of the patient: 0 is absent, up to 1."""

    right: float = 0.0
    left: float = 0.0

    def on(self, side: Side) -> float:
        """The severity on one side."""
        return self.right if side == "right" else self.left


NEITHER = Sides()


@dataclass(frozen=True)
class Build:
    """Body build of a patient, the same in all of the patient's studies."""

    half_width: float  # of the rib cage, inside
    apex: float  # v of the lungs' top
    dome: float  # v of the right hemidiaphragm at full inspiration
    dome_step: float  # how much lower the left one is
    wall: float  # thickness of the chest wall
    neck: float  # half-width of the neck
    shoulder: float  # v of the shoulders
    heart_share: float  # share of the heart's width on the patient's left
    normal_ratio: float  # cardiothoracic ratio without cardiomegaly
    knob: float  # protrusion of the aortic knob
    breast: float  # size, 0 for none
    spine_bow: float  # sideways bow of the spine
    rib_gap: float  # between neighbouring ribs
    rib_phase: float
    clavicle_slope: float
    bone: float  # density of the ribs, about 1
    adiposity: float  # 0 thin to 1 thick: brighter images of less contrast


@dataclass(frozen=True)
class Findings:
    """Findings and devices of a study. Severities: 0 is absent, then mild, moderate and severe up to 1."""

    cardiomegaly: float = 0.0
    effusion: Sides = NEITHER
    pneumothorax: Sides = NEITHER
    consolidation: Sides = NEITHER
    consolidation_zone: Zone = "lower"
    edema: float = 0.0
    atelectasis: Sides = NEITHER
    lesion: Sides = NEITHER
    lesion_zone: Zone = "mid"
    pacemaker: Side | None = None
    tube: bool = False
    line: Side | None = None

    @property
    def normal(self) -> bool:
        """No finding of heart, lungs or pleura; devices do not count."""
        pairs = (self.effusion, self.pneumothorax, self.consolidation, self.atelectasis, self.lesion)
        return not (self.cardiomegaly or self.edema or any(severity for pair in pairs for severity in pair))


@dataclass(frozen=True)
class Acquisition:
    """How one image was taken."""

    view: View = "PA"
    inspiration: float = 1.0  # 0 shallow to 1 full
    rotation_degrees: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    aspect: float = 1.0  # height / width
    exposure: float = 0.0  # of the tone curve, -1 dark to 1 bright
    noise: float = 0.5
    scatter: float = 0.03  # share of the open beam that reaches every point of the film; lowers contrast where dense
    collimation: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # black border left, top, right, bottom
    marker: Side | None = "left"

    @property
    def frontal(self) -> bool:
        """PA or AP."""
        return self.view in ("PA", "AP")


@dataclass(frozen=True)
class Anatomy:
    """Everything that determines one image, except texture and noise."""

    build: Build
    findings: Findings
    acquisition: Acquisition


def grade(severity: float) -> int:
    """0, 1 or 2: mild/small, moderate, severe/large."""
    return min(2, int(severity * 3))


def cardiothoracic_ratio(anatomy: Anatomy) -> float:
    """Width of the heart over the inner width of the thorax, as drawn; more than 0.5 is cardiomegaly."""
    severity = anatomy.findings.cardiomegaly
    if severity > 0:
        return 0.545 + 0.155 * severity
    magnified = 0.025 if anatomy.acquisition.view == "AP" else 0.0  # the heart lies far from the detector
    return anatomy.build.normal_ratio + magnified


def effusion_height(severity: float) -> float:
    """Height of the fluid at the lateral wall, as a fraction of the height of the lung."""
    return 0.16 + 0.56 * severity if severity else 0.0


def pneumothorax_width(severity: float) -> float:
    """Width of the pleural air at mid-height, as a fraction of the width of the lung."""
    return 0.17 + 0.50 * severity if severity else 0.0


def smooth_steps(v: Array, knots: list[tuple[float, float]], width: float) -> Array:
    """A smoothed polyline through `knots` (v, value), evaluated at evenly spaced `v`."""
    values = np.interp(v, [at for at, _ in knots], [value for _, value in knots])
    n = max(3, int(width / (v[1] - v[0])) | 1)
    kernel = np.hanning(n + 2)[1:-1]
    padded = np.pad(values, n // 2, mode="edge")
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")


class Outline:
    """Frontal outlines as functions of v or u, on the rows or columns of a grid.

    Attributes:
        thorax: inner half-width of the rib cage per row.
        medial: distance of the lungs' medial border from the midline, per row.
        mediastinum: extent of heart and vessels from the midline, per side and row.
        diaphragm: v of each hemidiaphragm per column.
        midline: u of the midline per row, which follows the spine.
        shift: how far a large pneumothorax or effusion pushes the mediastinum off the midline, per row.
    """

    def __init__(self, anatomy: Anatomy, u: Array, v: Array):
        build, findings = anatomy.build, anatomy.findings
        self.widest = 0.13
        self.v = v
        self.thorax = self.thorax_at(build, v).astype(np.float32)
        near_apex = np.clip((build.apex + 0.10 - v) / 0.10, 0, 1)
        self.medial = (0.04 + 0.085 * (1 - np.sqrt(1 - near_apex**2))).astype(np.float32)
        push = 0.05 * max(0.0, findings.pneumothorax.right - 0.55) - 0.05 * max(0.0, findings.pneumothorax.left - 0.55)
        push += 0.06 * max(0.0, findings.effusion.right - 0.6) - 0.06 * max(0.0, findings.effusion.left - 0.6)
        self.midline = (build.spine_bow * np.cos(3 * v)).astype(np.float32)
        self.shift = (push * np.exp(-((v / 0.3) ** 2))).astype(np.float32)
        self.dome = {side: self._dome(anatomy, side) for side in SIDES}
        self.diaphragm = {side: self._diaphragm(build, side, u) for side in SIDES}
        self.mediastinum = self._mediastinum(anatomy, v)

    def thorax_at(self, build: Build, v: Array) -> Array:
        """Inner half-width of the rib cage at v, 0 above the apex."""
        above = np.clip((self.widest - v) / (self.widest - build.apex), 0, 1)
        below = np.clip((v - self.widest) / 0.5, 0, 1)
        return build.half_width * np.sqrt(1 - above**2.3) * (1 - 0.3 * below**2)

    @staticmethod
    def _dome(anatomy: Anatomy, side: Side) -> float:
        build, findings = anatomy.build, anatomy.findings
        v = build.dome - 0.10 * (1 - anatomy.acquisition.inspiration)
        v += build.dome_step if side == "left" else 0.0
        v -= 0.075 * (findings.atelectasis.on(side) > 0)
        return v + 0.05 * max(0.0, findings.pneumothorax.on(side) - 0.4)

    def _diaphragm(self, build: Build, side: Side, u: Array) -> Array:
        peak = 0.48 * build.half_width
        x = u * SIGN[side]
        lateral = np.clip((x - peak) / (build.half_width - peak), 0, 1.3)
        medial = np.clip((peak - x) / peak, 0, 1.5)
        return (self.dome[side] + SULCUS * lateral**2.3 + 0.025 * medial**2).astype(np.float32)

    def _mediastinum(self, anatomy: Anatomy, v: Array) -> dict[Side, Array]:
        build = anatomy.build
        width = cardiothoracic_ratio(anatomy) * 2 * build.half_width
        reach_left = width * build.heart_share
        reach_right = width - reach_left
        floor = self.dome["right"]
        vena_cava, top, knob = 0.062, -0.06, -0.165
        right = [(-0.6, 0.045), (-0.3, 0.05), (-0.2, vena_cava), (top, vena_cava), (top + 0.05, 0.75 * reach_right)]
        right += [(floor - 0.10, reach_right), (floor + 0.05, 0.95 * reach_right), (0.6, 0.8 * reach_right)]
        floor = self.dome["left"]
        left = [(-0.6, 0.045), (-0.25, 0.05), (knob - 0.03, 0.06), (knob, 0.06 + build.knob)]
        left += [(knob + 0.03, 0.06 + 0.6 * build.knob), (-0.10, 0.06), (-0.055, 0.082), (-0.02, 0.45 * reach_left)]
        left += [(floor - 0.13, 0.88 * reach_left), (floor - 0.05, reach_left), (floor + 0.03, 0.97 * reach_left)]
        left += [(0.6, 0.7 * reach_left)]
        reaches: dict[Side, Array] = {}
        for side, knots, reach in zip(SIDES, (right, left), (reach_right, reach_left), strict=True):
            # Vessels above have small bulges, heart chambers below are round: less and more smoothing.
            chamber = np.clip((v + 0.05) / 0.08, 0, 1)
            rounded = (1 - chamber) * smooth_steps(v, knots, 0.045) + chamber * smooth_steps(v, knots, 0.12)
            heart = v > -0.03  # restore the widest point, which defines the ratio and which smoothing made smaller
            blend = np.clip((v + 0.03) / 0.1, 0, 1)
            rounded *= 1 + blend * (reach / rounded[heart].max() - 1)
            reaches[side] = rounded.astype(np.float32)
        return reaches


def pleural_border(outline: Outline, build: Build, side: Side, severity: float, v: Array) -> Array:
    """Border of the collapsed lung per row, as a fraction of the distance from the medial to the lateral border."""
    width = pneumothorax_width(severity)
    cap = np.exp(-np.clip(v - build.apex - 0.02, 0, 2) / (0.05 + 0.12 * severity))  # free air collects at the apex
    foot = np.clip((outline.dome[side] - v) / 0.3, 0, 1)  # and thins out towards the diaphragm
    return (1 - np.clip(width * (0.45 + 0.55 * foot) + (1 - width) * cap, 0, 1)).astype(np.float32)


def fluid_surface(outline: Outline, build: Build, side: Side, severity: float, u: Array) -> Array:
    """v of an effusion's upper surface per column: a meniscus that climbs the lateral wall."""
    bottom = outline.dome[side] + SULCUS
    height = effusion_height(severity) * (bottom - build.apex)
    across = np.clip(u * SIGN[side] / build.half_width, 0, 1)
    return (bottom - height * (0.66 + 0.34 * across**3)).astype(np.float32)
