"""Findings and devices of a frontal phantom: consolidation, edema, atelectasis, nodules, metal."""

import numpy as np

from data_prep.phantom.anatomy import SIDES, SIGN, Anatomy, Array, Outline, Side, Zone
from data_prep.phantom.canvas import Grid, Sheet, curve

ZONE_AT: dict[Zone, tuple[float, float]] = {"upper": (0.24, 0.5), "mid": (0.5, 0.55), "lower": (0.8, 0.52)}


def lung_point(anatomy: Anatomy, outline: Outline, side: Side, zone: Zone) -> tuple[float, float]:
    """u and v of the centre of a lung zone, at the fractions of height and width that ZONE_AT gives."""
    down, across = ZONE_AT[zone]
    v = anatomy.build.apex + down * (outline.dome[side] + 0.03 - anatomy.build.apex)
    wall = float(outline.thorax_at(anatomy.build, np.array(v)))
    inner = min(float(np.interp(v, outline.v, outline.mediastinum[side])), 0.6 * wall)
    return SIGN[side] * (inner + across * (wall - inner)), v


def lost_air(anatomy: Anatomy, outline: Outline, grid: Grid, rng: np.random.Generator) -> Array | None:
    """Share of the lungs' air that consolidation and edema replace, on the canvas; None without either."""
    findings = anatomy.findings
    offsets = rng.uniform(-0.02, 0.02, (2, 2))
    if not (findings.edema or any(findings.consolidation)):
        return None
    u, v = grid.u[None, :], grid.v[:, None]
    fluff = grid.clouds(rng, 28) * np.float32(0.5) + grid.clouds(rng, 60) * np.float32(0.35)
    lost = np.zeros_like(fluff)
    for side, (off_u, off_v) in zip(SIDES, offsets, strict=True):
        if severity := findings.consolidation.on(side):
            at_u, at_v = lung_point(anatomy, outline, side, findings.consolidation_zone)
            radius = 0.09 + 0.065 * severity
            distance = np.square((u - at_u - off_u) / radius) + np.square((v - at_v - off_v) / (1.15 * radius))
            patch = 0.85 * np.clip(1.45 - 1.55 * distance + 0.6 * fluff, 0, 1) * (u * SIGN[side] > 0)
            lost = np.maximum(lost, patch.astype(np.float32))
    if findings.edema:
        middle = np.exp(-np.square((v - 0.02) / 0.20))
        wings = sum(np.exp(-np.square((u - sign * 0.14) / 0.13)) * middle for sign in (-1, 1))
        haze = (0.58 + 0.37 * findings.edema) * np.clip(wings * (1.15 + 0.4 * fluff) + 0.15, 0, 1)
        lost = (1 - (1 - lost) * (1 - haze)).astype(np.float32)
    return lost


def drawn_opacities(anatomy: Anatomy, outline: Outline, grid: Grid, rng: np.random.Generator) -> Sheet | None:
    """Sheet of atelectatic bands, nodules and septal lines; None without any."""
    findings = anatomy.findings
    jitter = rng.uniform(-1, 1, (2, 5))
    if not (findings.edema or any(findings.atelectasis) or any(findings.lesion)):
        return None
    sheet = Sheet(grid)
    for side, (a, b, c, d, e) in zip(SIDES, jitter, strict=True):
        sign = SIGN[side]
        if severity := findings.atelectasis.on(side):
            for k in range(2 + (severity > 0.5)):
                height = outline.dome[side] - 0.028 - (0.040 + 0.004 * b) * k
                heart = float(np.interp(height, outline.v, outline.mediastinum[side]))
                half_width = anatomy.build.half_width
                x = np.linspace(max((0.40 - 0.03 * k) * half_width, heart), (0.96 - 0.03 * k) * half_width, 9)
                tilt = (0.15 + 0.12 * a) * (x - x.mean()) - 0.014 * (1 - np.square(np.linspace(-1, 1, 9)))
                sheet.line(sign * x, height + tilt, 0.011 + 0.005 * severity, 235)
        if severity := findings.lesion.on(side):
            at_u, at_v = lung_point(anatomy, outline, side, findings.lesion_zone)
            at_u, at_v = at_u + 0.03 * c, at_v + 0.03 * d
            radius = 0.026 + 0.030 * severity
            for shrink, value in ((1.0, 150), (0.85, 195), (0.65, 220)):
                sheet.ellipse(at_u, at_v, shrink * radius, shrink * radius * (1 + 0.12 * e), value)
        if findings.edema:
            # Kerley B lines: short, at right angles to the lateral wall, at the bases.
            for k in range(6):
                height = outline.dome[side] - 0.01 - 0.022 * k
                wall = float(outline.thorax_at(anatomy.build, np.array(height)))
                ends = sign * (wall - np.array([0.008, 0.052]))
                sheet.line(ends, np.array([height, height - 0.004]), 0.004, int(100 + 110 * findings.edema))
    return sheet


def devices(anatomy: Anatomy, outline: Outline, grid: Grid) -> Sheet | None:
    """Sheet of pacemaker and leads, endotracheal tube and central line; None without a device."""
    build, findings = anatomy.build, anatomy.findings
    if not (findings.pacemaker or findings.tube or findings.line):
        return None
    sheet = Sheet(grid)
    if side := findings.pacemaker:
        sign = SIGN[side]
        u, v = sign * 0.27, build.apex + 0.15
        sheet.box(u, v, 0.045, 0.038, 255)
        ventricle = (0.55 * float(outline.mediastinum["left"].max()), outline.dome["left"] - 0.035)
        atrium = (-0.5 * float(outline.mediastinum["right"].max()), 0.05)
        for tip_u, tip_v in (ventricle, atrium):
            lead_u = curve([u, sign * 0.17, -0.045, -0.06, tip_u])
            sheet.line(lead_u, curve([v - 0.036, build.apex + 0.06, -0.16, 0.0, tip_v]), 0.006, 235)
    if findings.tube:
        for offset, value in ((-0.0095, 130), (0.0095, 130), (0.0, 225)):
            sheet.line(np.array([offset, offset]), np.array([-0.64, -0.185]), 0.005, value)
    if side := findings.line:
        sign = SIGN[side]
        line_u = curve([sign * 0.11, sign * 0.09, -0.05 if side == "right" else 0.015, -0.056, -0.056])
        sheet.line(line_u, curve([-0.50, -0.38, -0.24, -0.12, 0.0]), 0.0075, 225)
    return sheet
