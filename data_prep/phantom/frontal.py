"""Frontal view of a phantom as optical thickness: body, bones, lungs, vessels, heart, findings."""

from typing import NamedTuple

import numpy as np

from data_prep.phantom.anatomy import SIDES, SIGN, Anatomy, Array, Outline, Side, fluid_surface, pleural_border
from data_prep.phantom.canvas import Grid, Sheet
from data_prep.phantom.overlays import devices, drawn_opacities, lost_air


class Masks(NamedTuple):
    """Silhouettes of a frontal phantom on a canvas, each 0 to 1."""

    lungs: Array  # thickness of air within the pleurae, outside the mediastinum and above the diaphragm
    heart: Array  # heart and mediastinum
    thorax: Array  # within the rib cage
    fluid: dict[Side, Array]
    free_air: dict[Side, Array]  # outside a collapsed lung


def masks(anatomy: Anatomy, grid: Grid) -> tuple[Outline, Masks]:
    """Outlines and silhouettes of a frontal phantom."""
    build, findings = anatomy.build, anatomy.findings
    outline = Outline(anatomy, grid.u, grid.v)
    v = grid.v[:, None]
    u = grid.u[None, :] - outline.midline[:, None]
    x = np.abs(u)
    right = u < 0
    off = u - outline.shift[:, None]
    reach = np.where(off < 0, outline.mediastinum["right"][:, None], outline.mediastinum["left"][:, None])
    heart = grid.soft(reach - np.abs(off), 0.008)
    thorax = grid.soft(outline.thorax[:, None] - x, 0.006)
    inner, width = outline.medial[:, None], np.maximum(outline.thorax - outline.medial, 1e-3)[:, None]
    across = (x - inner) / width
    lungs = np.square(np.clip(2 * across - 1, -1, 1))
    lungs *= lungs
    lungs = np.sqrt(1 - lungs)
    lungs *= np.clip(width / 0.05, 0, 1)
    floor = np.where(grid.u < outline.midline.mean(), outline.diaphragm["right"], outline.diaphragm["left"])
    lungs *= grid.soft(floor[None, :] - v, 0.006)
    lungs *= 1 - heart
    fluid, free_air = {}, {}
    for side in SIDES:
        own = right if side == "right" else ~right
        if severity := findings.effusion.on(side):
            surface = fluid_surface(outline, build, side, severity, grid.u)
            fluid[side] = grid.soft(v - surface[None, :], 0.03) * thorax * own
        if severity := findings.pneumothorax.on(side):
            border = pleural_border(outline, build, side, severity, grid.v)[:, None]
            free_air[side] = grid.soft((across - border) * width, 0.004) * own
    return outline, Masks(lungs, heart, thorax, fluid, free_air)


def frontal_thickness(anatomy: Anatomy, grid: Grid, rng: np.random.Generator) -> Array:
    """Optical thickness of a frontal phantom on the canvas (float32)."""
    build, findings = anatomy.build, anatomy.findings
    texture, trees, opacity = rng.spawn(3)
    outline, parts = masks(anatomy, grid)
    v = grid.v[:, None]
    below = np.where(grid.u < 0, outline.diaphragm["right"], outline.diaphragm["left"])[None, :]
    abdomen = grid.soft(v - below, 0.012)
    flank = grid.soft(outline.thorax[:, None] + np.float32(0.5 * build.wall) - np.abs(grid.u), build.wall)
    air, solid = parts.lungs, np.zeros_like(parts.lungs)
    markings = vessels(anatomy, outline, grid, trees)
    markings += np.float32(0.06) * grid.clouds(texture, 90) + np.float32(0.035) * grid.clouds(texture, 40)
    if (sheet := drawn_opacities(anatomy, outline, grid, opacity)) is not None:
        solid += 0.8 * sheet.layer(0.002) * (1 - 0.9 * parts.heart)
    if (lost := lost_air(anatomy, outline, grid, opacity)) is not None:
        air = air * (1 - lost)
        solid += 0.12 * lost
    for side, free in parts.free_air.items():
        inside = parts.lungs > 0.02
        collapse = 0.15 + 0.35 * findings.pneumothorax.on(side)
        own = (grid.u < 0) if side == "right" else (grid.u > 0)
        air = np.where(inside & own, air * (free * 1.25 + (1 - free) * (1 - collapse)), air)
        markings *= 1 - free
        solid += 0.45 * (4 * free * (1 - free)) * inside  # the visceral pleura, edge on
    dense = abdomen + 0.5 * parts.heart
    if lost is not None:
        dense += 0.6 * lost
    for fluid in parts.fluid.values():
        solid = solid * (1 - fluid) + 0.6 * fluid * (1 - parts.heart)
        air = air * (1 - fluid)
        dense += fluid
    np.multiply(markings, air, out=markings)
    tissue = 2.5 + 0.35 * build.adiposity + 0.35 * np.clip(v + 0.1, 0, 0.5)
    thickness = body(anatomy, grid) * tissue
    thickness += parts.thorax * solid * (1 - abdomen) + markings - np.float32(1.75 - 0.2 * build.adiposity) * air
    # Scatter hides the ribs where the body is dense.
    thickness += build.bone * _ribs(anatomy, outline, grid) * (1 - 0.85 * np.minimum(dense, 1))
    thickness += _spine(anatomy, grid) * (1 - 0.4 * abdomen) + _heart(outline, grid, parts) * (1 - abdomen)
    thickness += np.float32(0.75) * abdomen * flank
    thickness -= _airway_and_stomach(outline, grid, texture)
    if build.breast:
        thickness += _breasts(build.breast, build.half_width, grid) * (1 - np.minimum(dense + 0.4 * parts.heart, 1))
    if (metal := devices(anatomy, outline, grid)) is not None:
        thickness += 2.8 * metal.layer()
    return thickness


def body(anatomy: Anatomy, grid: Grid) -> Array:
    """Thickness of the soft tissue along the beam: about 1 in the trunk, 0 in the air around it."""
    build = anatomy.build
    side, shoulder = build.half_width + build.wall, build.shoulder
    spread = 0.10 if anatomy.acquisition.view == "AP" else 0.20  # of the arms
    sheet = Sheet(grid, coarse=True)
    arm = [(0.40, shoulder + 0.01), (0.52, shoulder + 0.01), (0.62, shoulder + 0.09), (0.75, -0.1), (0.95, 0.7)]
    arm += [(side + spread + 0.09, 0.7), (side + 0.4 * spread + 0.02, 0.12), (side + 0.005, -0.07)]
    u, v = np.array(arm).T
    for sign in (-1, 1):
        sheet.polygon(sign * u, v, 205)
    trunk = [(build.neck + 0.01, -0.7), (build.neck, -0.52), (build.neck + 0.03, -0.46), (0.22, shoulder - 0.05)]
    trunk += [(0.36, shoulder - 0.015), (0.47, shoulder), (0.52, shoulder + 0.06), (0.49, -0.16), (side + 0.01, -0.06)]
    trunk += [(side, 0.03), (side + 0.003, 0.2), (side + 0.015, 0.7)]
    u, v = np.array(trunk).T
    sheet.polygon(np.concatenate([u, -u[::-1]]), np.concatenate([v, v[::-1]]), 255)
    return sheet.trunk(0.006, 0.05)


def _heart(outline: Outline, grid: Grid, parts: Masks) -> Array:
    """Optical thickness of the heart, largest in the middle."""
    v = grid.v[:, None]
    across = np.square(np.clip(np.abs(grid.u[None, :]) / np.maximum(outline.mediastinum["left"], 0.08)[:, None], 0, 1))
    depth = np.float32(0.30) + np.float32(0.45) * np.exp(-np.square((v - 0.12) / 0.2))
    return parts.heart * (1 - 0.75 * across) * depth


def _ribs(anatomy: Anatomy, outline: Outline, grid: Grid) -> Array:
    """Optical thickness of ribs, clavicles, scapulae and humeri."""
    build = anatomy.build
    behind, before = Sheet(grid), Sheet(grid)  # of one side; the other is its mirror image
    turn = np.linspace(0, np.pi / 2, 14)
    nth = np.arange(10)[:, None]
    start = build.apex - 0.015 + (nth + build.rib_phase) * build.rib_gap
    drop = 0.04 + 0.008 * nth
    wall = outline.thorax_at(build, np.maximum(start + drop, build.apex + 0.015))
    u = 0.03 + (wall - 0.026) * np.sin(turn)
    _bands(behind, u, start - 0.014 * np.sin(2 * turn) + drop * (1 - np.cos(turn)) ** 1.3, 0.0075 + 0.0004 * nth, 165)
    nth = nth[:7]
    start = build.apex + 0.06 + (nth + build.rib_phase) * build.rib_gap
    wall = outline.thorax_at(build, start)
    end = wall * (0.40 + 0.05 * nth)
    _bands(before, end + (wall - end) * np.cos(turn), start + (0.06 + 0.015 * nth) * np.sin(turn), 0.0095, 120)
    u = np.linspace(0.035, 0.42, 16)
    wave = np.sin((u - 0.035) / 0.385 * 2 * np.pi)
    v = build.apex + 0.07 - build.clavicle_slope * (u - 0.035) + 0.013 * wave
    _bands(before, u[None], v[None], 0.0105, 200)
    socket = build.shoulder + 0.075
    u = np.array([0.46, 0.45, 0.375, 0.355, 0.345, 0.39]) + build.half_width - 0.35
    v = np.array([socket - 0.02, socket + 0.05, 0.0, -0.01, -0.1, socket])
    behind.polygon(u, v, 55)
    behind.line(u[1:4], v[1:4], 0.009, 120)
    before.ellipse(0.52, socket + 0.01, 0.043, 0.05, 150)
    before.line(np.array([0.53, 0.66]), np.array([socket + 0.02, 0.3]), 0.05, 130)
    one = np.float32(0.66) * behind.layer(0.002) + np.float32(0.5) * before.layer(0.003)
    return one + one[:, ::-1]


def _spine(anatomy: Anatomy, grid: Grid) -> Array:
    """Optical thickness of the vertebrae."""
    sheet = Sheet(grid)
    for i in range(20):
        v = -0.62 + i * 0.062
        middle = anatomy.build.spine_bow * np.cos(3 * v)
        half = 0.03 + 0.0006 * i
        u = middle + half * np.array([-1, 1, 0.84, 1, -1, -0.84])
        sheet.polygon(u, v + 0.053 * np.array([0, 0, 0.5, 1, 1, 0.5]), 190)
        sheet.ellipse(middle, v + 0.03, 0.006, 0.014, 255)
    return np.float32(0.42) * sheet.layer(0.005)


def _bands(sheet: Sheet, u: Array, v: Array, half: Array | float, value: int) -> None:
    """Draw flat bones of half-width `half` along curves, one per row of u and v, with denser borders."""
    du, dv = np.gradient(u, axis=1), np.gradient(v, axis=1)
    scale = half / np.hypot(du, dv)
    for rib in zip(u + dv * scale, v - du * scale, u - dv * scale, v + du * scale, strict=True):
        upper_u, upper_v, lower_u, lower_v = rib
        rim = np.concatenate([upper_u, lower_u[::-1]]), np.concatenate([upper_v, lower_v[::-1]])
        sheet.polygon(*rim, int(0.68 * value))
        sheet.line(upper_u, upper_v, 0.003, value)
        sheet.line(lower_u, lower_v, 0.003, value)


def vessels(anatomy: Anatomy, outline: Outline, grid: Grid, rng: np.random.Generator) -> Array:
    """Optical thickness of hila and vessels: trees that branch from the hila and taper towards the chest wall."""
    build, findings = anatomy.build, anatomy.findings
    sheet = Sheet(grid)
    for side in SIDES:
        sign = SIGN[side]
        squeeze = 1 - 0.62 * findings.pneumothorax.on(side)  # the vessels of a collapsed lung are closer together
        hilum = -0.03 - (0.02 if side == "left" else 0.0)
        n = 12
        heading = np.linspace(-1.35, 1.5, n) + rng.normal(0, 0.12, n)  # from upwards over lateral to downwards
        start = np.stack([np.full(n, 0.07), hilum + 0.07 * np.sin(heading)])
        length = np.where(heading > 0.3, 0.19, 0.16) * (outline.dome[side] - build.apex) * rng.uniform(0.7, 1.3, n)
        upper = 0.0085 if findings.edema else 0.0055  # cephalization: edema shifts the flow to the upper lobes
        width = np.where(heading > 0.2, 0.0085, upper) * rng.uniform(0.8, 1.2, n)
        for value in (200, 180, 150, 120, 95):
            end = start + length * np.stack([np.cos(heading), np.sin(heading)])
            u = np.stack([start[0], end[0]], axis=1) * squeeze + 0.05 * (1 - squeeze)
            sheet.segments(sign * u, np.stack([start[1], end[1]], axis=1), width, value)
            # Each end divides in two; the smaller branch turns off more.
            start, n = np.repeat(end, 2, axis=1), 2 * n
            turn = np.tile([-0.22, 0.5], n // 2) * np.repeat(rng.choice([-1.0, 1.0], n // 2), 2)
            heading = np.repeat(heading, 2) + turn + rng.normal(0, 0.17, n)
            length = np.repeat(length, 2) * np.tile([0.92, 0.7], n // 2) * rng.uniform(0.75, 1.1, n)
            width = np.repeat(width, 2) * np.tile([0.78, 0.6], n // 2)
        for off_u, off_v in rng.uniform((-0.018, -0.045), (0.018, 0.055), (7, 2)):
            sheet.ellipse(sign * (0.082 + off_u), hilum + off_v, 0.011, 0.016, 190)
    return np.float32(0.62) * sheet.layer(0.0015)


def _airway_and_stomach(outline: Outline, grid: Grid, rng: np.random.Generator) -> Array:
    """Optical thickness to subtract for the air in trachea, bronchi and stomach."""
    sheet = Sheet(grid, coarse=True)
    sheet.line(np.array([0.004, -0.004]), np.array([-0.64, -0.13]), 0.030, 110)
    for sign in (-1, 1):
        sheet.line(np.array([-0.004, sign * 0.06]), np.array([-0.135, -0.075]), 0.02, 70)
    size, off = rng.uniform(0.2, 1), rng.uniform(-0.03, 0.03)
    if size > 0.45:
        sheet.ellipse(0.16 + off, outline.dome["left"] + 0.05, 0.05 * size + 0.02, 0.022 * size + 0.01, 150)
        sheet.ellipse(0.20 + off, outline.dome["left"] + 0.07, 0.03 * size + 0.01, 0.018 * size + 0.01, 120)
    return np.float32(1.3) * sheet.layer(0.008)


def _breasts(size: float, half_width: float, grid: Grid) -> Array:
    """Optical thickness of the breasts, largest at the inframammary fold."""
    sheet = Sheet(grid, coarse=True)
    sheet.ellipse(0.66 * half_width, 0.10 + 0.03 * size, 0.14 + 0.03 * size, 0.14 + 0.02 * size, 255)
    fold = np.clip((grid.v[:, None] + 0.04) / 0.25, 0, 1)
    one = np.float32(0.12 + 0.2 * size) * sheet.layer(0.004) * fold
    return one + one[:, ::-1]
