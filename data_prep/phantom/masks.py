"""Masks of a frontal phantom: lungs, heart, localised findings, as they lie on the film."""

from dataclasses import replace

import numpy as np

from data_prep.phantom.anatomy import Anatomy, Array
from data_prep.phantom.canvas import Grid
from data_prep.phantom.frontal import masks as silhouettes
from data_prep.phantom.overlays import drawn_opacities, lost_air
from data_prep.phantom.render import collimate, lay

STRUCTURES = ("lungs", "heart", "finding")
TOP_OF_HEART = -0.06  # v; vessels above


def film_masks(anatomy: Anatomy, resolution_px: int, rng: np.random.Generator) -> dict[str, Array]:
    """Masks by structure, uint8 of the radiograph's shape, 255 inside.

    - `lungs`: within the pleurae, beside the mediastinum and above the diaphragm, fluid and free air included;
    - `heart`: from its base to the diaphragm;
    - `finding`: effusion, pneumothorax, consolidation, atelectasis and nodule together. Edema has no border.

    Args:
        anatomy: of a frontal view.
        resolution_px: shorter side of the image in pixels.
        rng: of the same seed as that of `render`.
    """
    structure, _ = rng.spawn(2)
    *_, opacity = structure.spawn(3)
    grid = Grid(resolution_px)
    dry = replace(anatomy, findings=replace(anatomy.findings, edema=0.0))
    outline, parts = silhouettes(dry, grid)
    v = grid.v[:, None]
    lungs = (parts.lungs > 0.02) & (parts.heart < 0.5)
    diaphragm = np.where(grid.u < 0, outline.diaphragm["right"], outline.diaphragm["left"])[None, :]
    heart = (parts.heart > 0.5) & (v > TOP_OF_HEART) & (v < diaphragm)
    finding = np.zeros_like(lungs)
    # In the order of `frontal_thickness`, which draws from the same generator.
    if (sheet := drawn_opacities(dry, outline, grid, opacity)) is not None:
        finding |= sheet.layer(0.002) > 0.25
    if (lost := lost_air(dry, outline, grid, opacity)) is not None:
        finding |= lost > 0.4
    for silhouette in (*parts.fluid.values(), *parts.free_air.values()):
        finding |= silhouette > 0.5
    drawn = dict(zip(STRUCTURES, (lungs, heart, finding & lungs), strict=True))
    return {name: _on_film(mask, anatomy, resolution_px) for name, mask in drawn.items()}


def _on_film(mask: Array, anatomy: Anatomy, resolution_px: int) -> Array:
    film = (lay(mask.astype(np.float32), anatomy.acquisition, resolution_px) > 0.5).astype(np.uint8) * 255
    collimate(film, anatomy.acquisition)
    return film
