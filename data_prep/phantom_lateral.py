"""The lateral view of a phantom: the patient looks to the image's left."""

import numpy as np

from data_prep.phantom_anatomy import SIDES, Anatomy, Array, cardiothoracic_ratio, effusion_height
from data_prep.phantom_render import Grid, Sheet, clouds


def lateral_thickness(anatomy: Anatomy, grid: Grid, rng: np.random.Generator) -> Array:
    """Optical thickness of a lateral phantom on the canvas: both lungs over each other, heart in front, spine behind."""
    build, findings = anatomy.build, anatomy.findings
    u, v = grid.u[None, :], grid.v[:, None]
    chest = Sheet(grid)
    outline = np.array(
        [
            [-0.16, -0.7],
            [-0.17, -0.42],
            [-0.33, -0.30],
            [-0.37, 0.0],
            [-0.36, 0.7],
            [0.38, 0.7],
            [0.40, 0.1],
            [0.36, -0.25],
        ]
        + [[0.20, -0.45], [0.10, -0.7]]
    )
    chest.polygon(outline[:, 0], outline[:, 1], 255)
    lung = Sheet(grid)
    airway = np.array(
        [[-0.02, build.apex], [-0.17, -0.24], [-0.265, -0.05], [-0.275, 0.5], [0.29, 0.5], [0.305, 0.1], [0.27, -0.12]]
        + [[0.17, build.apex + 0.01]]
    )
    lung.polygon(airway[:, 0], airway[:, 1], 255)
    air = lung.layer(0.022)
    solid = np.zeros_like(air)
    for side in SIDES:
        dome = build.dome + (0.0 if side == "right" else build.dome_step) - 0.07 * (findings.atelectasis.on(side) > 0)
        floor = dome + 0.13 * np.clip((u + 0.06) / 0.36, 0, 1) ** 2 + 0.03 * np.clip((-0.06 - u) / 0.2, 0, 2) ** 2
        half = grid.smooth(floor - v, 0.006)
        if severity := findings.effusion.on(side):  # collects behind first
            bottom = dome + 0.13
            level = bottom - effusion_height(severity) * (bottom - build.apex) * (
                0.72 + 0.28 * (np.clip(u, -0.3, 0.3) / 0.3) ** 2
            )
            half = half * (1 - grid.smooth(v - level, 0.03))
        air = air * (0.5 + 0.5 * half) if side == "right" else air * (half + 0.25) / 1.25
    size = cardiothoracic_ratio(anatomy)
    span = 0.20 + 0.26 * (size - 0.4)
    heart_u, heart_v = -0.265 + span * 0.78, build.dome - span * 0.72
    distance = np.sqrt(((u - heart_u + 0.25 * (v - heart_v)) / (0.75 * span)) ** 2 + ((v - heart_v) / span) ** 2)
    heart = grid.smooth(1 - distance, 0.10)
    air *= 1 - 0.62 * heart
    if findings.edema:
        air *= 1 - 0.45 * findings.edema * np.exp(-((u / 0.2) ** 2) - (v / 0.22) ** 2)
    fluff = clouds(grid, rng, 40)
    for pair, zone, radius in (
        (findings.consolidation, findings.consolidation_zone, 0.10),
        (findings.lesion, findings.lesion_zone, 0.035),
    ):
        if severity := max(pair):
            at_v = {"upper": -0.2, "mid": -0.04, "lower": 0.14}[zone]
            bump = np.clip(2 - 2 * (((u - 0.12) / radius) ** 2 + ((v - at_v) / radius) ** 2) + 0.3 * fluff, 0, 1)
            air *= 1 - (0.3 + 0.3 * severity) * bump
    bone = Sheet(grid)
    for i in range(13):
        at = -0.5 + 0.078 * i
        middle = 0.255 + 0.05 * np.cos(3.2 * (at - 0.05)) - 0.03
        bone.polygon(middle + 0.034 * np.array([-1, 1, 1, -1]), at + 0.064 * np.array([0, 0.1, 1, 0.95]), 200)
    for i in range(9):
        turn = np.linspace(0, 1, 10)
        start = build.apex + 0.02 + i * build.rib_gap
        bone.line(0.27 - 0.5 * turn, start + 0.19 * turn**1.4, 0.011, 60)
    bone.line(np.array([-0.20, -0.30, -0.315]), np.array([-0.28, -0.10, 0.12]), 0.022, 120)
    tree = Sheet(grid)
    for heading in rng.uniform(-np.pi, np.pi, 42):
        reach = rng.uniform(0.08, 0.24)
        bend = heading + rng.normal(0, 0.3)
        end_u, end_v = 0.03 + 0.5 * reach * np.cos(heading), -0.03 + 0.5 * reach * np.sin(heading)
        tree.line(np.array([0.03, end_u]), np.array([-0.03, end_v]), 0.009, 150)
        far = np.array([end_u, end_u + reach * np.cos(bend)]), np.array([end_v, end_v + reach * np.sin(bend)])
        tree.line(*far, 0.005, 110)
    metal = Sheet(grid)
    if findings.pacemaker:
        metal.line(np.array([-0.30, -0.26]), np.array([-0.24, -0.16]), 0.02, 255)
        metal.line(np.array([-0.28, -0.05, 0.0, heart_u]), np.array([-0.24, -0.22, -0.05, heart_v + 0.05]), 0.005, 230)
    if findings.tube:
        metal.line(np.array([-0.02, 0.03]), np.array([-0.64, -0.17]), 0.014, 150)
    if findings.line:
        metal.line(np.array([-0.04, -0.03, -0.01]), np.array([-0.5, -0.2, 0.0]), 0.006, 200)
    airway_shadow = Sheet(grid)
    airway_shadow.line(np.array([-0.03, 0.045]), np.array([-0.64, -0.10]), 0.032, 100)
    thickness = chest.layer(0.01) * (3.0 + 0.35 * build.adiposity + 0.4 * np.clip(v + 0.1, 0, 0.6)) - 2.0 * air + solid
    thickness += 0.55 * bone.layer(0.003) + np.clip(air, 0, 1) * (
        0.7 * tree.layer(0.003) + 0.05 * clouds(grid, rng, 80)
    )
    return thickness - 0.5 * airway_shadow.layer(0.005) + 2.4 * metal.layer(0.001)
