"""From a phantom's anatomy to a frontal radiograph: thicknesses along the beam, exposure, tone.

The picture is composed upright on a canvas a little larger than the film, as optical thickness; then the film is laid over
it (rotation, scale, shift), exposed (Beer and Lambert's law with scatter and quantum noise), and toned like MIMIC-CXR-JPG,
whose images are histogram-equalised. Only numpy and Pillow.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from data_prep.phantom_anatomy import (
    SIDES,
    SIGN,
    Acquisition,
    Anatomy,
    Array,
    Outline,
    Side,
    Zone,
    fluid_surface,
    pleural_border,
)

CANVAS = 1.24  # side of the canvas, in units of the film's shorter side
ZONE_AT: dict[Zone, tuple[float, float]] = {
    "upper": (0.22, 0.5),
    "mid": (0.5, 0.55),
    "lower": (0.8, 0.5),
}  # down, across


class Grid:
    """The canvas: its size in pixels, and u and v along its columns and rows."""

    def __init__(self, resolution_px: int):
        self.px = 1 / resolution_px
        self.size = round(CANVAS * resolution_px)
        axis = (np.arange(self.size, dtype=np.float32) + 0.5 - self.size / 2) * self.px
        self.u, self.v = axis, axis

    def smooth(self, distance: Array, width: float) -> Array:
        """0 to 1 as `distance` passes from outside (negative) to inside, over `width` or at least two pixels."""
        return np.clip(distance / max(width, 2 * self.px) + 0.5, 0, 1)


class Sheet:
    """A layer to draw shapes on at twice the canvas's resolution, in u and v."""

    def __init__(self, grid: Grid):
        self.grid = grid
        self.image = Image.new("L", (2 * grid.size, 2 * grid.size))
        self.draw = ImageDraw.Draw(self.image)
        self.per_unit = 2 / grid.px

    def at(self, u: Array | float, v: Array | float) -> list[tuple[float, float]]:
        """Pixel coordinates of points."""
        x = np.atleast_1d((np.asarray(u) + CANVAS / 2) * self.per_unit)
        y = np.atleast_1d((np.asarray(v) + CANVAS / 2) * self.per_unit)
        return list(zip(x.tolist(), y.tolist(), strict=True))

    def polygon(self, u: Array, v: Array, value: int) -> None:
        """Fill a polygon."""
        self.draw.polygon(self.at(u, v), fill=value)

    def line(self, u: Array, v: Array, width: float, value: int) -> None:
        """A line of the given width, at least one pixel of the sheet."""
        self.draw.line(self.at(u, v), fill=value, width=max(1, round(width * self.per_unit)), joint="curve")

    def ellipse(self, u: float, v: float, half_u: float, half_v: float, value: int) -> None:
        """Fill an upright ellipse."""
        self.draw.ellipse(self.at(u - half_u, v - half_v) + self.at(u + half_u, v + half_v), fill=value)

    def layer(self, blur: float = 0.0) -> Array:
        """The layer on the canvas, 0 to 1, blurred by a Gaussian of that standard deviation."""
        image = self.image.reduce(2)
        if blur / self.grid.px > 0.3:
            image = image.filter(ImageFilter.GaussianBlur(blur / self.grid.px))
        return np.asarray(image, dtype=np.float32) * np.float32(1 / 255)


class Masks(NamedTuple):
    """The silhouettes of a frontal phantom on a canvas, each 0 to 1."""

    lungs: dict[
        Side, Array
    ]  # where there is air, outside the mediastinum and above the diaphragm; air and fluid included
    fluid: dict[Side, Array]
    air: dict[Side, Array]  # pleural air
    heart: Array  # heart and mediastinum
    thorax: Array  # within the rib cage


def masks(anatomy: Anatomy, grid: Grid) -> tuple[Outline, Masks]:
    """The outlines and silhouettes of a frontal phantom."""
    build, findings = anatomy.build, anatomy.findings
    outline = Outline(anatomy, grid.u, grid.v)
    v = grid.v[:, None]
    u = grid.u[None, :] - outline.midline[:, None].astype(np.float32)
    lungs, fluid, air = {}, {}, {}
    reach = np.where(u < 0, outline.mediastinum["right"][:, None], outline.mediastinum["left"][:, None])
    heart = grid.smooth(reach.astype(np.float32) - np.abs(u), 0.008)
    thorax = grid.smooth(outline.thorax[:, None].astype(np.float32) - np.abs(u), 0.006)
    for side in SIDES:
        x = u * np.float32(SIGN[side])
        inner, outer = outline.medial[:, None], np.maximum(outline.thorax, outline.medial + 1e-3)[:, None]
        inner, outer = inner.astype(np.float32), outer.astype(np.float32)
        across = (x - inner) / (outer - inner)
        round_off = np.square(np.square(np.clip(2 * across - 1, -1, 1)))
        floor = outline.diaphragm[side][None, :].astype(np.float32)
        lungs[side] = np.sqrt(1 - round_off) * grid.smooth(floor - v, 0.006) * (1 - heart)
        if severity := findings.effusion.on(side):
            surface = fluid_surface(outline, build, side, severity, grid.u)[None, :].astype(np.float32)
            fluid[side] = grid.smooth(v - surface, 0.035) * (x > 0) * thorax
        if severity := findings.pneumothorax.on(side):
            border = pleural_border(outline, build, side, severity, grid.v)[:, None].astype(np.float32)
            air[side] = grid.smooth((across - border) * (outer - inner), 0.004) * (x > 0)
    return outline, Masks(lungs, fluid, air, heart, thorax)


def clouds(grid: Grid, rng: np.random.Generator, cells: int) -> Array:
    """Smooth noise of mean 0 and deviation about 1, with about `cells` bumps across the canvas."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    return np.asarray(coarse.resize((grid.size, grid.size), Image.Resampling.BICUBIC)) * np.float32(1.3)


def body(anatomy: Anatomy, grid: Grid) -> Array:
    """Thickness of the soft tissue along the beam: about 1 in the trunk, 0 in the air around."""
    build = anatomy.build
    sheet = Sheet(grid)
    side = build.half_width + build.wall
    shoulder = build.shoulder
    trunk = [(build.neck, -0.7), (build.neck, -0.50), (build.neck + 0.05, -0.445), (0.3, shoulder - 0.03)]
    trunk += [(0.45, shoulder), (0.56, shoulder + 0.05), (0.56, -0.16), (side + 0.015, -0.13), (side, 0.0)]
    trunk += [(side + 0.005, 0.2), (side + 0.02, 0.7)]
    u, v = np.array(trunk).T
    sheet.polygon(np.concatenate([u, -u[::-1]]), np.concatenate([v, v[::-1]]), 255)
    hang = side + 0.05 if anatomy.acquisition.view == "AP" else side + 0.09
    arm_u = np.array([0.42, 0.52, 0.62, 0.66, 0.70, hang + 0.08, hang, side + 0.03])
    arm_v = np.array([shoulder, shoulder + 0.02, shoulder + 0.09, -0.1, 0.7, 0.7, 0.1, -0.15])
    for sign in (-1, 1):
        sheet.polygon(sign * arm_u, arm_v, 225)
    sharp = sheet.layer(0.006)
    small = Image.fromarray((sharp * 255).astype(np.uint8)).resize((96, 96), Image.Resampling.BOX)
    wide = small.filter(ImageFilter.GaussianBlur(0.045 * 96 / CANVAS)).resize(
        (grid.size, grid.size), Image.Resampling.BICUBIC
    )
    return sharp * (0.25 + 0.75 * np.asarray(wide, dtype=np.float32) / 255)


def bones(anatomy: Anatomy, outline: Outline, grid: Grid) -> Array:
    """Optical thickness of ribs, clavicles, scapulae, humeri and spine."""
    build = anatomy.build
    behind, before, spine = Sheet(grid), Sheet(grid), Sheet(grid)
    turn = np.linspace(0, np.pi / 2, 14)
    for sign in (-1.0, 1.0):
        for i in range(10):
            start = build.apex - 0.03 + (i + build.rib_phase) * build.rib_gap
            drop = 0.035 + 0.007 * i
            wall = float(outline.thorax_at(build, np.array(max(start + drop, build.apex + 0.012))))
            u = 0.03 + (wall + 0.004 - 0.03) * np.sin(turn)
            v = start - 0.016 * np.sin(2 * turn) + drop * (1 - np.cos(turn)) ** 1.3
            _band(behind, sign * u, v, 0.0075 + 0.0005 * i, 150)
        for i in range(7):
            start = build.apex + 0.055 + (i + build.rib_phase) * build.rib_gap
            wall = float(outline.thorax_at(build, np.array(start)))
            end = wall * (0.38 + 0.05 * i)
            u = end + (wall - end) * np.cos(turn)
            _band(before, sign * u, start + (0.06 + 0.014 * i) * np.sin(turn), 0.0095, 110)
        u = np.linspace(0.035, 0.40, 16)
        bend = np.sin((u - 0.035) / 0.365 * 2 * np.pi)
        v = build.apex + 0.065 - build.clavicle_slope * (u - 0.035) + 0.013 * bend
        _band(before, sign * u, v, 0.0105, 190)
        socket_v = build.shoulder + 0.075
        blade = np.array(
            [[0.43, socket_v - 0.03], [0.455, socket_v + 0.02], [0.385, 0.0], [0.36, -0.02], [0.40, socket_v]]
        )
        behind.polygon(sign * (blade[:, 0] + build.half_width - 0.36), blade[:, 1], 95)
        before.ellipse(sign * 0.52, socket_v, 0.043, 0.05, 170)
        before.line(sign * np.array([0.525, 0.58]), np.array([socket_v, 0.3]), 0.05, 150)
    for i in range(20):
        v0 = -0.62 + i * 0.062
        middle = build.spine_bow * np.cos(3 * v0)
        half = 0.03 + 0.0006 * i
        u = middle + half * np.array([-1, 1, 0.86, 1, -1, -0.86])
        spine.polygon(u, v0 + 0.052 * np.array([0, 0, 0.5, 1, 1, 0.5]), 210)
        spine.ellipse(middle, v0 + 0.03, 0.006, 0.014, 255)
    return 0.55 * behind.layer(0.0022) + 0.5 * before.layer(0.0028) + 0.6 * spine.layer(0.004)


def _band(sheet: Sheet, u: Array, v: Array, half: float, value: int) -> None:
    """A flat bone along a curve, with denser borders."""
    du, dv = np.gradient(u), np.gradient(v)
    length = np.hypot(du, dv)
    nu, nv = -dv / length * half, du / length * half
    sheet.polygon(np.concatenate([u + nu, (u - nu)[::-1]]), np.concatenate([v + nv, (v - nv)[::-1]]), int(0.68 * value))
    sheet.line(u + nu, v + nv, 0.003, value)
    sheet.line(u - nu, v - nv, 0.003, value)


def vessels(anatomy: Anatomy, outline: Outline, grid: Grid, rng: np.random.Generator) -> Array:
    """Optical thickness of hila and vessels: trees that leave the hila, divide, and thin out."""
    build, findings = anatomy.build, anatomy.findings
    sheet = Sheet(grid)
    for side in SIDES:
        sign = SIGN[side]
        lung_height = outline.dome[side] - build.apex
        squeeze = 1 - 0.62 * findings.pneumothorax.on(side)  # the tree of a collapsed lung is drawn together
        n = 10
        hilum_v = -0.035 - (0.015 if side == "left" else 0)
        heading = np.linspace(-1.35, 1.45, n) + rng.normal(0, 0.09, n)  # from up over lateral to down
        u, v = np.full(n, 0.075), hilum_v + 0.05 * np.sin(heading)
        length = np.where(heading > 0.4, 0.30, 0.27) * lung_height * rng.uniform(0.8, 1.2, n)
        upper = 0.0075 if findings.edema else 0.005  # redistribution of the flow to the upper lobes
        width = np.where(heading > 0.2, 0.0085, upper) * rng.uniform(0.8, 1.2, n)
        for generation in range(4):
            end_u = u + length * np.cos(heading)
            end_v = v + length * np.sin(heading)
            value = (215, 185, 150, 120)[generation]
            for a, b, c, d, w in zip(u, v, end_u, end_v, width, strict=True):
                across = np.array([a, c]) * squeeze + 0.05 * (1 - squeeze)
                sheet.line(sign * across, np.array([b, d]), float(w), value)
            u, v = np.repeat(end_u, 2), np.repeat(end_v, 2)
            n = len(u)
            fork = np.tile([-0.33, 0.33], n // 2) + rng.normal(0, 0.14, n)
            heading = np.repeat(heading, 2) + fork
            length = np.repeat(length, 2) * rng.uniform(0.5, 0.85, n)
            width = np.repeat(width, 2) * 0.66
        for _ in range(5):
            blob_u, blob_v = rng.uniform(0.065, 0.10), hilum_v + rng.uniform(-0.04, 0.05)
            sheet.ellipse(sign * blob_u, blob_v, 0.012, 0.016, 200)
    return 0.8 * sheet.layer(0.0022)


def _lung_point(anatomy: Anatomy, outline: Outline, side: Side, zone: Zone) -> tuple[float, float]:
    """The middle of a lung zone."""
    down, across = ZONE_AT[zone]
    v = anatomy.build.apex + down * (outline.dome[side] + 0.03 - anatomy.build.apex)
    wall = float(outline.thorax_at(anatomy.build, np.array(v)))
    inner = float(np.interp(v, np.linspace(-CANVAS / 2, CANVAS / 2, len(outline.medial)), outline.mediastinum[side]))
    inner = min(inner, 0.6 * wall)
    return SIGN[side] * (inner + across * (wall - inner)), v


def opacities(anatomy: Anatomy, outline: Outline, grid: Grid, rng: np.random.Generator) -> tuple[Array | None, Sheet]:
    """What fills the air: the share of air lost to consolidation and edema, and a sheet of bands, lines and nodules."""
    findings = anatomy.findings
    lost: Array | None = None
    sheet = Sheet(grid)
    u, v = grid.u[None, :], grid.v[:, None]
    fluff = clouds(grid, rng, 28) * 0.5 + clouds(grid, rng, 60) * 0.35
    jitter = rng.uniform(-1, 1, (8, 4))
    for i, side in enumerate(SIDES):
        if severity := findings.consolidation.on(side):
            at_u, at_v = _lung_point(anatomy, outline, side, findings.consolidation_zone)
            at_u, at_v = at_u + 0.02 * jitter[i, 0], at_v + 0.02 * jitter[i, 1]
            radius = 0.085 + 0.065 * severity
            bump = 1.9 - 2.4 * (np.square((u - at_u) / radius) + np.square((v - at_v) / (radius * 1.15)))
            patch = 0.82 * np.clip(bump + 0.55 * fluff, 0, 1) * (u * SIGN[side] > 0)
            lost = patch if lost is None else np.maximum(lost, patch)
        if findings.atelectasis.on(side):
            for k in range(1 + (findings.atelectasis.on(side) > 0.3) + (findings.atelectasis.on(side) > 0.66)):
                at_v = outline.dome[side] - 0.022 - 0.036 * k + 0.006 * jitter[2 + i, k]
                x = np.linspace(0.42 - 0.05 * k, 0.93 - 0.06 * k, 9) * anatomy.build.half_width
                bow = 0.012 * (1 - np.square(np.linspace(-1, 1, 9)))
                sheet.line(SIGN[side] * x, at_v + (0.16 + 0.1 * jitter[2 + i, 3]) * (x - x.mean()) - bow, 0.013, 175)
        if severity := findings.lesion.on(side):
            at_u, at_v = _lung_point(anatomy, outline, side, findings.lesion_zone)
            at_u, at_v = at_u + 0.03 * jitter[4 + i, 0], at_v + 0.03 * jitter[4 + i, 1]
            radius = 0.024 + 0.028 * severity
            for shrink, value in ((1.0, 150), (0.85, 190), (0.65, 215)):
                sheet.ellipse(at_u, at_v, shrink * radius, shrink * radius * (1 + 0.12 * jitter[4 + i, 2]), value)
        if findings.edema:
            for k in range(6):  # Kerley B lines: short, at right angles to the lateral wall, at the bases
                at_v = outline.dome[side] - 0.02 - 0.022 * k
                x = float(outline.thorax_at(anatomy.build, np.array(at_v))) - np.array([0.008, 0.05])
                sheet.line(SIGN[side] * x, np.array([at_v, at_v - 0.004]), 0.003, int(90 + 100 * findings.edema))
    if findings.edema:
        haze = np.zeros_like(fluff)
        for sign in (-1, 1):
            haze += np.exp(-(np.square((u - sign * 0.13) / 0.115) + np.square((v - 0.02) / 0.17)))
        haze = (0.36 + 0.42 * findings.edema) * np.clip(haze * (1 + 0.33 * fluff) * 1.2 + 0.16, 0, 1)
        lost = haze if lost is None else 1 - (1 - lost) * (1 - haze)
    return lost, sheet


def devices(anatomy: Anatomy, outline: Outline, grid: Grid) -> Sheet | None:
    """A sheet of what is made of metal or marked with it: pacemaker and leads, endotracheal tube, central line."""
    build, findings = anatomy.build, anatomy.findings
    if not (findings.pacemaker or findings.tube or findings.line):
        return None
    sheet = Sheet(grid)
    turn = np.linspace(0, 1, 18)
    atrium = -outline.mediastinum["right"].max() * 0.45
    if side := findings.pacemaker:
        sign = SIGN[side]
        u, v = sign * 0.275, build.apex + 0.155
        sheet.draw.rounded_rectangle(
            sheet.at(u - 0.042, v - 0.036) + sheet.at(u + 0.042, v + 0.036), radius=0.02 * sheet.per_unit, fill=255
        )
        sheet.line(u + np.array([-0.03, 0.03]), np.array([v - 0.016, v - 0.016]), 0.004, 190)
        for tip_u, tip_v in ((0.5 * outline.mediastinum["left"].max(), outline.dome["left"] - 0.03), (atrium, 0.06)):
            knots_u = [u, sign * 0.16, -0.045, -0.055, tip_u]
            knots_v = [v - 0.036, build.apex + 0.07, -0.15, 0.0, tip_v]
            lead_u = smooth_steps_param(turn, knots_u)
            sheet.line(lead_u, smooth_steps_param(turn, knots_v), 0.005, 235)
    if findings.tube:
        for offset, value in ((-0.0085, 120), (0.0085, 120), (0.0, 215)):
            sheet.line(np.array([offset, offset]), np.array([-0.64, -0.185]), 0.0045, value)
    if side := findings.line:
        sign = SIGN[side]
        knots_u = [sign * 0.105, sign * 0.085, -0.05 if side == "right" else 0.02, -0.055, -0.055]
        line_v = smooth_steps_param(turn, [-0.48, -0.38, -0.24, -0.12, 0.0])
        sheet.line(smooth_steps_param(turn, knots_u), line_v, 0.0065, 215)
    return sheet


def smooth_steps_param(turn: Array, knots: list[float]) -> Array:
    """A quadratic B-spline-like curve through evenly spaced `knots`, at 0 ≤ `turn` ≤ 1."""
    dense = np.interp(turn, np.linspace(0, 1, len(knots)), knots)
    inner = (dense[:-4] + 2 * dense[1:-3] + 3 * dense[2:-2] + 2 * dense[3:-1] + dense[4:]) / 9
    return np.concatenate([dense[:2], inner, dense[-2:]])


def frontal_thickness(anatomy: Anatomy, grid: Grid, rng: np.random.Generator) -> Array:
    """Optical thickness of a frontal phantom on the canvas."""
    build, findings = anatomy.build, anatomy.findings
    texture, trees, opacity = rng.spawn(3)
    outline, parts = masks(anatomy, grid)
    air = parts.lungs["right"] + parts.lungs["left"]
    markings = (
        vessels(anatomy, outline, grid, trees) + 0.045 * clouds(grid, texture, 90) + 0.03 * clouds(grid, texture, 45)
    )
    lost, sheet = opacities(anatomy, outline, grid, opacity)
    solid = sheet.layer(0.002)
    if lost is not None:
        air = air * (1 - lost)
        solid = solid + 0.15 * lost
    for side in SIDES:
        if side in parts.fluid:
            air = air * (1 - 0.97 * parts.fluid[side])
            solid = solid + 0.14 * parts.fluid[side]
        if side in parts.air:
            free = parts.air[side]
            collapse = 0.10 + 0.30 * findings.pneumothorax.on(side)
            own = parts.lungs[side] > 0.02
            air = air * np.where(own, free * 1.22 + (1 - free) * (1 - collapse), 1)
            markings = markings * (1 - free)
            edge = free * (1 - free) * 4 * own
            solid = solid + 0.42 * edge
    v = grid.v[:, None]
    thickness = body(anatomy, grid) * (2.55 + 0.35 * build.adiposity + 0.5 * np.clip(v + 0.2, 0, 0.7))
    thickness = thickness - (1.72 - 0.2 * build.adiposity) * air
    thickness += np.clip(air, 0, 1) * markings + np.clip(parts.thorax, 0, 1) * solid
    thickness += bones(anatomy, outline, grid)
    thickness += 0.25 * parts.heart * np.exp(-np.square((v - 0.1) / 0.25))
    thickness -= trachea_and_stomach(anatomy, outline, grid, texture)
    if build.breast:
        thickness += breasts(build.breast, build.half_width, grid)
    if (metal := devices(anatomy, outline, grid)) is not None:
        thickness += 2.6 * metal.layer(0.001)
    return thickness


def trachea_and_stomach(anatomy: Anatomy, outline: Outline, grid: Grid, rng: np.random.Generator) -> Array:
    """Optical thickness that the airway and the stomach's air take away."""
    sheet = Sheet(grid)
    sheet.line(np.array([0.004, -0.004]), np.array([-0.64, -0.13]), 0.030, 120)
    for sign in (-1, 1):
        sheet.line(np.array([-0.004, sign * 0.055]), np.array([-0.135, -0.075]), 0.02, 75)
    size = rng.uniform(0.2, 1)
    if size > 0.4:
        sheet.ellipse(0.17, outline.dome["left"] + 0.055, 0.05 * size + 0.02, 0.022 * size + 0.01, 150)
    return sheet.layer(0.006)


def breasts(size: float, half_width: float, grid: Grid) -> Array:
    """Optical thickness of the breasts: fullest at their lower fold."""
    sheet = Sheet(grid)
    for sign in (-1, 1):
        sheet.ellipse(sign * 0.62 * half_width, 0.10 + 0.03 * size, 0.13 + 0.03 * size, 0.14 + 0.02 * size, 255)
    slope = np.clip((grid.v[:, None] + 0.02) / 0.25, 0, 1)
    return (0.2 + 0.25 * size) * sheet.layer(0.005) * slope


def expose(thickness: Array, acquisition: Acquisition, resolution_px: int, rng: np.random.Generator) -> Array:
    """Lay the film over the canvas, expose and tone it: uint8 of shape (H, W), the shorter side `resolution_px`."""
    height = round(resolution_px * max(acquisition.aspect, 1.0))
    width = round(resolution_px * max(1 / acquisition.aspect, 1.0))
    angle = np.deg2rad(acquisition.rotation_degrees)
    cosine, sine = np.cos(angle) / acquisition.scale, np.sin(angle) / acquisition.scale
    middle = len(thickness) / 2
    du, dv = (part * resolution_px for part in acquisition.shift)
    matrix = (cosine, sine, middle - cosine * (width / 2 + du) - sine * (height / 2 + dv))
    matrix += (-sine, cosine, middle + sine * (width / 2 + du) - cosine * (height / 2 + dv))
    film = Image.fromarray(thickness.astype(np.float32, copy=False))
    film = film.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=0.0)
    scatter = 0.022
    received = np.exp(-np.maximum(np.asarray(film), 0.0)) + np.float32(scatter)
    grain = rng.standard_normal(received.shape, dtype=np.float32) * np.float32(0.004 + 0.010 * acquisition.noise)
    density = grain / np.sqrt(received) - np.log(received)
    levels = np.clip((density + 0.05) * (1023 / 3.9), 0, 1023).astype(np.int32)
    counts = np.bincount(levels.ravel(), minlength=1024)
    rank = np.cumsum(counts) / counts.sum()
    # Equalising in full would spend half of the greys on the abdomen, so it is mixed with the straight density.
    share = 0.42
    tone = (1 - share) * np.linspace(0, 1, 1024) ** 1.15 + share * rank ** (1.0 - 0.25 * acquisition.exposure)
    lowest, highest = tone[levels.min()], tone[levels.max()]
    curve = np.clip((tone - lowest) / (highest - lowest), 0, 1) ** (1 - 0.2 * acquisition.exposure)
    picture = np.round(255 * curve).astype(np.uint8)[levels]
    _mark(picture, acquisition, resolution_px)
    _collimate(picture, acquisition)
    return picture


def _mark(picture: Array, acquisition: Acquisition, resolution_px: int) -> None:
    """Burn in the side marker: an L near the patient's left, an R near the right."""
    if acquisition.marker is None:
        return
    strokes: list[tuple[int, int]] = [(0, 0), (0, 6), (4, 6)]
    if acquisition.marker == "right":
        strokes = [(0, 6), (0, 0), (3, 0), (4, 1), (4, 2), (3, 3), (0, 3), (2, 3), (4, 6)]
    unit = resolution_px / 256 * 1.7
    glyph = Image.new("L", (round(7 * unit * 2), round(9 * unit * 2)))
    points = [((x + 1.5) * unit * 2, (y + 1.5) * unit * 2) for x, y in strokes]
    ImageDraw.Draw(glyph).line(points, fill=255, width=max(1, round(2.2 * unit)))
    stamp = np.asarray(glyph.reduce(2))
    height, width = stamp.shape
    top = round(0.07 * resolution_px)
    left = (
        round(0.05 * resolution_px)
        if acquisition.marker == "right"
        else round(picture.shape[1] - 0.05 * resolution_px - width)
    )
    corner = picture[top : top + height, left : left + width]
    np.maximum(corner, stamp, out=corner)


def _collimate(picture: Array, acquisition: Acquisition) -> None:
    """Black out the borders that the beam did not reach."""
    height, width = picture.shape
    left, top, right, bottom = acquisition.collimation
    picture[:, : round(left * width)] = 0
    picture[: round(top * height)] = 0
    picture[:, width - round(right * width) :] = 0
    picture[height - round(bottom * height) :] = 0


def render(anatomy: Anatomy, resolution_px: int, rng: np.random.Generator) -> Array:
    """A phantom's radiograph.

    Args:
        anatomy: build, findings and acquisition.
        resolution_px: the picture's shorter side in pixels.
        rng: draws texture and noise; with the same seed, two anatomies share everything in which they do not differ.

    Returns:
        uint8 array of shape (height, width), the patient's right on the image's left.
    """
    grid = Grid(resolution_px)
    structure, film = rng.spawn(2)
    if anatomy.acquisition.frontal:
        thickness = frontal_thickness(anatomy, grid, structure)
    else:
        from data_prep.phantom_lateral import lateral_thickness

        thickness = lateral_thickness(anatomy, grid, structure)
    return expose(thickness, anatomy.acquisition, resolution_px, film)
