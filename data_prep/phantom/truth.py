"""Ground truth of a phantom: findings, grades, and measurements on its silhouettes."""

import numpy as np

from data_prep.phantom.anatomy import SIDES, SULCUS, Anatomy, Array, Findings, Side, grade
from data_prep.phantom.canvas import Grid
from data_prep.phantom.frontal import masks

FLAGS = (
    "Cardiomegaly",
    *(f"{side} {name}" for name in ("Effusion", "Pneumothorax", "Consolidation") for side in ("Right", "Left")),
    "Edema",
    *(f"{side} {name}" for name in ("Atelectasis", "Lesion") for side in ("Right", "Left")),
    *("Pacemaker", "Tube", "Line"),
)
_SIZED = (*(f"{side}_effusion_height" for side in SIDES), *(f"{side}_pneumothorax_width" for side in SIDES))
MEASURED = ("cardiothoracic_ratio", *_SIZED)
_MEASURED_AT_PX = 256
_SIZES = ("small", "moderate", "large")
_DEGREES = ("mild", "moderate", "severe")


def flags(findings: Findings) -> dict[str, int]:
    """0 or 1 for each of FLAGS."""
    values = {}
    for flag in FLAGS:
        *side, name = flag.lower().split()
        severity = getattr(findings, name)
        values[flag] = int(bool(getattr(severity, side[0]) if side else severity))
    return values


def truth(anatomy: Anatomy) -> dict[str, object]:
    """One row of phantom-truth.csv without its ids: flags, measurements, grades, zones, sides of devices.

    Measurements come from the silhouettes of the frontal view (empty for a lateral one): `cardiothoracic_ratio`; per
    side `<side>_effusion_height`, height of the fluid at the lateral wall over the height of the lung, and
    `<side>_pneumothorax_width`, width of the pleural air over the width of the lung at mid-height.
    """
    findings = anatomy.findings
    measured = _measured(anatomy) if anatomy.acquisition.frontal else dict.fromkeys(MEASURED)
    row: dict[str, object] = {MEASURED[0]: measured[MEASURED[0]], **flags(findings), **measured}
    for name in ("cardiomegaly", "edema"):
        severity = getattr(findings, name)
        row[f"{name}_grade"] = _DEGREES[grade(severity)] if severity else ""
    for side in SIDES:
        for name in ("effusion", "pneumothorax"):
            severity = getattr(findings, name).on(side)
            row[f"{side}_{name}_grade"] = _SIZES[grade(severity)] if severity else ""
    row["consolidation_zone"] = findings.consolidation_zone if any(findings.consolidation) else ""
    row["lesion_zone"] = findings.lesion_zone if any(findings.lesion) else ""
    return row | {"pacemaker_side": findings.pacemaker or "", "line_side": findings.line or ""}


def _measured(anatomy: Anatomy) -> dict[str, float | None]:
    grid = Grid(_MEASURED_AT_PX)
    outline, parts = masks(anatomy, grid)
    level = (grid.v > -0.1) & (grid.v < outline.dome["left"] + 0.02)
    ratio = round(_width(parts.heart[level]) / _width(parts.thorax), 4)
    heights = [_effusion_height(anatomy, parts.fluid.get(side), outline.dome[side], grid) for side in SIDES]
    widths = [_air_width(anatomy, parts.free_air.get(side), parts.lungs, grid, side) for side in SIDES]
    return dict(zip(MEASURED, (ratio, *heights, *widths), strict=True))


def _width(mask: Array) -> int:
    """Columns from the leftmost to the rightmost pixel of a mask."""
    columns = np.flatnonzero((mask > 0.5).any(axis=0))
    return int(columns[-1] - columns[0] + 1)


def _effusion_height(anatomy: Anatomy, fluid: Array | None, dome: float, grid: Grid) -> float:
    if fluid is None:
        return 0.0
    top = grid.v[np.flatnonzero((fluid > 0.5).any(axis=1))[0]]
    angle = dome + SULCUS
    return round(float((angle - top) / (angle - anatomy.build.apex)), 4)


def _air_width(anatomy: Anatomy, air: Array | None, lungs: Array, grid: Grid, side: Side) -> float:
    if air is None:
        return 0.0
    middle = int(np.argmin(np.abs(grid.v - (anatomy.build.apex + 0.12) / 2)))
    inside = (lungs[middle] > 0.1) & ((grid.u < 0) == (side == "right"))
    return round(float((air[middle][inside] > 0.5).mean()), 4)
