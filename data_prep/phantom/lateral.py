"""Lateral view of a phantom as optical thickness; the patient faces the image's left."""

import numpy as np

from data_prep.phantom.anatomy import SIDES, SULCUS, Anatomy, Array, cardiothoracic_ratio, effusion_height
from data_prep.phantom.canvas import Grid, Sheet, curve

ZONE_V = {"upper": -0.2, "mid": -0.04, "lower": 0.13}


def lateral_thickness(anatomy: Anatomy, grid: Grid, rng: np.random.Generator) -> Array:
    """Optical thickness of a lateral phantom on the canvas: both lungs superposed, heart in front, spine behind."""
    build, findings = anatomy.build, anatomy.findings
    u, v = grid.u[None, :], grid.v[:, None]
    span = 0.185 + 0.24 * (cardiothoracic_ratio(anatomy) - 0.4)  # half the heart's length
    heart_u, heart_v = -0.27 + span * 0.80, build.dome - span * 0.68
    tilted = u - heart_u + np.float32(0.35) * (v - heart_v)
    heart = np.clip(1 - np.square(tilted / (0.78 * span)) - np.square((v - heart_v) / span), 0, 1)
    air, below = _air(anatomy, grid)
    air = air * (1 - 0.7 * np.clip(4 * heart, 0, 1))
    fluff = grid.clouds(rng, 40)
    if findings.edema:
        air = air * (1 - (0.25 + 0.35 * findings.edema) * np.exp(-np.square(u / 0.2)) * np.exp(-np.square(v / 0.22)))
    for name, radius in (("consolidation", 0.10), ("lesion", 0.036)):
        if severity := max(getattr(findings, name)):
            zone_v = ZONE_V[getattr(findings, f"{name}_zone")]
            distance = (np.square(u - 0.10) + np.square(v - zone_v)) / radius**2
            air = air * (1 - (0.35 + 0.3 * severity) * np.clip(2 - 2 * distance + 0.3 * fluff, 0, 1))
    markings = _vessels(grid, rng) + np.float32(0.06) * fluff + np.float32(0.05) * grid.clouds(rng, 90)
    thickness = _body(grid) * (2.5 + 0.35 * build.adiposity) - np.float32(1.8 - 0.2 * build.adiposity) * air
    thickness += air * markings + 0.3 * heart * (1 - below) + 0.7 * below
    thickness += _bones(anatomy, grid) * (1 - 0.7 * below)
    airway = Sheet(grid)
    airway.line(np.array([-0.03, 0.045]), np.array([-0.64, -0.10]), 0.032, 100)
    thickness -= 0.9 * airway.layer(0.005)
    if findings.pacemaker or findings.tube or findings.line:
        thickness += 2.6 * _devices(anatomy, grid, heart_u, heart_v).layer()
    return thickness.astype(np.float32, copy=False)


def _body(grid: Grid) -> Array:
    """Thickness of the soft tissue: trunk, neck and raised arms."""
    sheet = Sheet(grid)
    u = [-0.12, -0.15, -0.24, -0.34, -0.38, -0.385, -0.37, 0.40, 0.43, 0.42, 0.36, 0.22, 0.13]
    v = [-0.7, -0.46, -0.38, -0.26, -0.08, 0.1, 0.7, 0.7, 0.15, -0.1, -0.3, -0.46, -0.7]
    sheet.polygon(np.array(u), np.array(v), 255)
    sheet.polygon(np.array([-0.42, -0.1, 0.2, -0.05, -0.3]), np.array([-0.7, -0.7, -0.40, -0.28, -0.34]), 255)
    return sheet.trunk(0.008, 0.04)


def _air(anatomy: Anatomy, grid: Grid) -> tuple[Array, Array]:
    """Air of both lungs superposed, 0 to 1, and the mask of the abdomen."""
    build, findings = anatomy.build, anatomy.findings
    u, v = grid.u, grid.v[:, None]
    sheet = Sheet(grid)
    front = curve([-0.03, -0.16, -0.25, -0.285, -0.29, -0.29], 14), curve([build.apex, -0.27, -0.14, 0.0, 0.2, 0.5], 14)
    back = curve([0.30, 0.32, 0.31, 0.27, 0.21, 0.13], 14), curve([0.5, 0.2, 0.0, -0.16, -0.28, build.apex + 0.01], 14)
    rim_u, rim_v = np.concatenate([front, back], axis=1)
    sheet.polygon(rim_u, rim_v, 255)
    pleurae = sheet.layer(0.016)
    air, below = np.zeros_like(pleurae), np.zeros_like(pleurae)
    for side in SIDES:
        dome = build.dome + (build.dome_step if side == "left" else 0.0) - 0.07 * (findings.atelectasis.on(side) > 0)
        behind, before = np.clip((u + 0.08) / 0.36, 0, 1.2), np.clip((-0.08 - u) / 0.2, 0, 2)
        half = grid.soft((dome + SULCUS * behind**2 + 0.035 * before**2).astype(np.float32)[None, :] - v, 0.006)
        below += (1 - half) * pleurae / 2
        if severity := findings.effusion.on(side):
            # Fluid collects posteriorly first and rises along both walls.
            height = effusion_height(severity) * (dome + SULCUS - build.apex)
            level = dome + SULCUS - height * (0.75 + 0.25 * np.square(np.clip(u / 0.3, -1, 1)))
            half = half * (1 - grid.soft(v - level.astype(np.float32)[None, :], 0.03))
        air += half / 2
    return pleurae * air, below


def _vessels(grid: Grid, rng: np.random.Generator) -> Array:
    """Optical thickness of the vessels: branches from the hila in three segments."""
    sheet = Sheet(grid)
    n = 46
    heading = rng.uniform(-np.pi, np.pi, n)
    start = np.stack([rng.normal(0.02, 0.02, n), rng.normal(-0.03, 0.03, n)])
    reach = rng.uniform(0.04, 0.11, n)
    for width, value in ((0.009, 160), (0.0065, 130), (0.0045, 110)):
        end = start + reach * np.stack([np.cos(heading), np.sin(heading)])
        sheet.segments(np.stack([start[0], end[0]], 1), np.stack([start[1], end[1]], 1), np.full(n, width), value)
        start, heading = end, heading + rng.normal(0, 0.35, n)
    return np.float32(0.6) * sheet.layer(0.002)


def _bones(anatomy: Anatomy, grid: Grid) -> Array:
    """Optical thickness of spine, sternum, ribs and scapulae."""
    build = anatomy.build
    sheet = Sheet(grid)
    for i in range(10):
        turn = np.linspace(0, 1, 10)
        start = build.apex + 0.02 + i * build.rib_gap
        for shift in (0.0, 0.012):
            sheet.line(0.30 - 0.52 * turn, start + shift + 0.20 * turn**1.4, 0.008, 50)
    sheet.line(np.array([0.12, 0.22, 0.30]), np.array([-0.36, -0.25, -0.05]), 0.012, 75)
    for i in range(14):
        at = -0.55 + 0.078 * i
        middle = 0.235 + 0.055 * np.cos(3.2 * (at - 0.05))
        sheet.polygon(middle + 0.034 * np.array([-1, 1, 1, -1]), at + 0.064 * np.array([0, 0.1, 1, 0.95]), 115)
        sheet.line(middle + 0.034 * np.array([-1, 1]), at + 0.064 * np.array([0, 0.1]), 0.004, 165)
    sheet.line(np.array([-0.19, -0.285, -0.315, -0.315]), np.array([-0.31, -0.16, 0.0, 0.10]), 0.018, 120)
    return np.float32(0.75) * sheet.layer(0.003)


def _devices(anatomy: Anatomy, grid: Grid, heart_u: float, heart_v: float) -> Sheet:
    """A sheet of the devices, seen from the side."""
    findings = anatomy.findings
    sheet = Sheet(grid)
    if findings.pacemaker:
        sheet.line(np.array([-0.32, -0.26]), np.array([-0.22, -0.30]), 0.018, 255)
        sheet.line(
            curve([-0.29, -0.14, -0.02, 0.01, heart_u]), curve([-0.26, -0.30, -0.2, -0.03, heart_v + 0.06]), 0.006, 230
        )
    if findings.tube:
        sheet.line(np.array([-0.03, 0.03]), np.array([-0.64, -0.17]), 0.012, 150)
    if findings.line:
        sheet.line(curve([-0.06, -0.03, -0.01, 0.0]), curve([-0.50, -0.3, -0.15, 0.0]), 0.0075, 210)
    return sheet
