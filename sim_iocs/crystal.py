"""A crystal with a known truth, seen by a Pilatus: intensity model, then counting.

The expected counts of a pixel are evaluated from where it looks in reciprocal space, never by
tracing rays; then they are drawn from a Poisson distribution::

    expected = beam · exposure · [polarization · solid angle · I(h, T) + air(q)]

I(h, T) has Bragg peaks; superlattice peaks at the R point (half, half, half) whose intensity is the
square of an order parameter that vanishes at Tc; critical scattering around the same points;
thermal diffuse scattering around the Bragg points.

This module carries its own few lines of diffraction geometry and shares none with the product: it
is the witness. Laboratory frame of NeXus: z along the beam downstream, y up, x = y × z. Reciprocal
vectors are in Å⁻¹ without 2π. The goniometer turns the crystal by R = omega · chi · phi.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

SHAPES = {"100K": (195, 487), "300K": (619, 487), "1M": (1043, 981), "2M": (1679, 1475)}
"""Rows and columns of each size of a Pilatus."""

PIXEL = 0.172  # mm, of a Pilatus
MODULE_ROWS, GAP_ROWS = 195, 17
MODULE_COLUMNS, GAP_COLUMNS = 487, 7
GAP, BAD, CUTOFF = -1, -2, 1048500

WAVELENGTH = 0.7  # Å
DISTANCE = 100.0  # mm
# beam centre, pixels (fast, slow) from the corner of pixel (0, 0): off to one side on small ones
BEAM_CENTRE = {
    "100K": (48.3, 101.6),
    "300K": (48.3, 309.4),
    "1M": (490.2, 517.8),
    "2M": (737.4, 832.1),
}


@dataclass(frozen=True, slots=True)
class Kind:
    """Another kind of detector: modules and gaps (rows, columns), as Dectris draws them.

    ``seam`` is from where to where, in columns from a module's middle, two pieces of CdTe meet;
    ``centre`` is where the beam meets the panel, pixels (fast, slow).
    """

    shape: tuple[int, int]
    pixel: float  # mm
    module: tuple[int, int]
    gap: tuple[int, int]
    centre: tuple[float, float]
    seam: tuple[int, int] = (0, 0)


KINDS = {
    **{
        name: Kind(shape, PIXEL, (MODULE_ROWS, MODULE_COLUMNS), (GAP_ROWS, GAP_COLUMNS), centre)
        for (name, shape), centre in zip(SHAPES.items(), BEAM_CENTRE.values(), strict=True)
    },
    "300K-W": Kind((195, 1475), PIXEL, (195, 487), (17, 7), (231.7, 97.2)),
    "Pilatus4 260K": Kind((530, 513), 0.150, (255, 513), (20, 7), (61.4, 270.8)),
    "Eiger 1M": Kind((1065, 1030), 0.075, (514, 1030), (37, 10), (120.6, 533.1)),
    "Eiger2 CdTe 500K": Kind((512, 1028), 0.075, (512, 1028), (38, 12), (140.3, 250.9), (-1, 1)),
    "Eiger2 1M-W": Kind((512, 2068), 0.075, (512, 1028), (38, 12), (281.2, 260.4)),
}  # fmt: skip
"""Every detector that the crystal can be seen with; IOCs offer the sizes of a Pilatus."""

FAST, SLOW = (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)
AXES = {"phi": (0.0, 1.0, 0.0), "chi": (0.0, 0.0, 1.0), "omega": (0.0, 1.0, 0.0)}
"""Goniometer axes at zero, innermost first."""

LATTICE = 4.186  # Å, cubic
ORIENTATION = ((0.36, -0.48, 0.80), 37.0)  # about this axis, by degrees
TC, BETA, NU = 150.0, 0.33, 0.63
SUPERLATTICE = (0.5, 0.5, 0.5)

MOSAIC = 0.0040  # Å⁻¹, standard deviation of a peak in reciprocal space
DIFFUSE_CORE = 0.035  # Å⁻¹, the thermal diffuse scattering does not rise inside this
BRAGG, RPOINT, THERMAL, CRITICAL = 2.0e6, 1.5e4, 1.6e-2, 1.0e-1  # counts/s, as at solid angle 1
AIR, AIR_RANGE, FLAT = 60.0, 0.12, 3.0  # counts/s, Å⁻¹, counts/s
BEAMSTOP = 2.2  # mm, radius of its shadow
POLARIZATION = 0.99


@dataclass(frozen=True, slots=True)
class Exposure:
    """What the sample and the beam were during one exposure.

    ``angles`` are (phi, chi, omega) in degrees at its begin and at its end; ``beam`` is 1 for
    100 mA and an open shutter; ``series`` and ``number`` only seed the counting; ``shift`` is how
    far the panel was moved in x and y, mm.
    """

    number: int = 0
    angles: Any = ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    seconds: float = 0.1
    temperature: float = 300.0
    beam: float = 1.0
    series: int = 0
    shift: Any = (0.0, 0.0)


def turn(axis: tuple[float, float, float], degrees: float) -> NDArray[np.float64]:
    """Rotate about a unit vector, right-handed (Rodrigues)."""
    x, y, z = axis
    a = math.radians(degrees)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + math.sin(a) * cross + (1.0 - math.cos(a)) * cross @ cross


def goniometer(phi: float, chi: float, omega: float) -> NDArray[np.float64]:
    """R, which takes a vector of the crystal at zero angles to the laboratory."""
    return turn(AXES["omega"], omega) @ turn(AXES["chi"], chi) @ turn(AXES["phi"], phi)


def orientation() -> NDArray[np.float64]:
    """UB of the crystal, Å⁻¹ without 2π."""
    axis, degrees = ORIENTATION
    length = math.sqrt(sum(v * v for v in axis))
    return turn(tuple(v / length for v in axis), degrees) / LATTICE  # type: ignore[arg-type]


def order_parameter_squared(temperature: float) -> float:
    """(1 − T/Tc)^2β below Tc, nothing above."""
    return max(1.0 - temperature / TC, 0.0) ** (2.0 * BETA)


def debye_waller(q_squared: Any, temperature: float) -> Any:
    """exp(−B s²/2) with B = 0.2 + 0.003 T Å², s = 1/d in Å⁻¹."""
    return np.exp(-0.5 * (0.2 + 0.003 * temperature) * q_squared)


def inverse_correlation_length(temperature: float) -> float:
    """Width of the critical scattering, Å⁻¹."""
    return 0.012 + 0.35 * abs(temperature / TC - 1.0) ** NU


def module_mask(shape: tuple[int, int], kind: Kind = KINDS["100K"]) -> NDArray[np.bool_]:
    """Mark the gaps between modules, of a Pilatus or another kind."""
    (module_rows, module_columns), (gap_rows, gap_columns) = kind.module, kind.gap
    rows = np.arange(shape[0]) % (module_rows + gap_rows) >= module_rows
    columns = np.arange(shape[1]) % (module_columns + gap_columns) >= module_columns
    first = module_columns // 2 + kind.seam[0]
    for seam in range(first, shape[1], module_columns + gap_columns):
        columns[seam : seam + kind.seam[1] - kind.seam[0]] = True
    return rows[:, None] | columns[None, :]


class Crystal:
    """The crystal on its goniometer in front of one detector."""

    def __init__(self, detector: str, *, seed: int = 0) -> None:
        self.detector, self.seed = detector, seed
        self.kind = KINDS[detector]
        self.shape, self.pixel = self.kind.shape, self.kind.pixel
        self.UB = orientation()
        self.centre = self.kind.centre
        self.origin = panel_origin(detector)
        self._shift = (0.0, 0.0)
        self._look(np.array(FAST), np.array(SLOW))
        self._list_peaks()

    def shift(self, x: float, y: float) -> None:
        """Move the panel in its plane, mm; a new place takes as long as a frame or two."""
        place = (round(x, 4), round(y, 4))
        if place == self._shift:
            return
        self._shift = place
        column, row = self.kind.centre
        self.centre = (
            column - place[0] * FAST[0] / self.pixel,
            row - place[1] * SLOW[1] / self.pixel,
        )
        self.origin = panel_origin(self.detector) + np.array([*place, 0.0])
        self._look(np.array(FAST), np.array(SLOW))
        self._list_peaks()

    def _look(self, fast: NDArray[np.float64], slow: NDArray[np.float64]) -> None:
        """Work out, once, what every pixel sees."""
        n_slow, n_fast = self.shape
        across = ((np.arange(n_fast) + 0.5) * self.pixel).astype(np.float32)[None, :]
        down = ((np.arange(n_slow) + 0.5) * self.pixel).astype(np.float32)[:, None]
        x, y, z = (
            np.float32(self.origin[i]) + down * np.float32(slow[i]) + across * np.float32(fast[i])
            for i in range(3)
        )
        shadow = x * x + y * y < BEAMSTOP**2
        inverse = 1.0 / np.sqrt(x * x + y * y + z * z)
        x, y, z = x * inverse, y * inverse, z * inverse
        normal = np.cross(fast, slow).astype(np.float32)
        solid_angle = (
            np.abs(x * normal[0] + y * normal[1] + z * normal[2]) * (DISTANCE * inverse) ** 2
        )
        # horizontal polarization: the electric vector is along x
        self.polarization = 0.5 * (1.0 + z * z - POLARIZATION * (x * x - y * y))
        self.correction = np.where(shadow, np.float32(0.0), self.polarization * solid_angle)
        self.q = np.stack([x, y, z - np.float32(1.0)]) / np.float32(WAVELENGTH)
        self.q_squared = np.einsum("ijk,ijk->jk", self.q, self.q)
        length = np.sqrt(self.q_squared)
        air = np.float32(AIR) * np.exp(length / np.float32(-AIR_RANGE)) + np.float32(FLAT)
        self.air = np.where(shadow, np.float32(0.0), air)
        self.gaps = module_mask(self.shape, self.kind)
        bad = np.random.default_rng([self.seed, 5]).random(self.shape, np.float32) < 1e-4
        self.bad = bad & ~self.gaps
        self._q_max = float(length.max())

    def _list_peaks(self) -> None:
        """List the Bragg and superlattice points that can reach the detector."""
        reach = math.ceil(self._q_max * LATTICE) + 1
        steps = np.arange(-reach, reach + 1)
        hkl = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
        whole = hkl[np.any(hkl != 0, axis=1)].astype(float)
        half = hkl + np.array(SUPERLATTICE)
        points = []
        for indices, is_super in ((whole, False), (half, True)):
            length = np.linalg.norm(indices @ self.UB.T, axis=1)
            points.append((indices[length < self._q_max + 0.05], is_super))
        self.hkl = np.concatenate([indices for indices, _ in points])
        self.is_super = np.concatenate([np.full(len(i), s) for i, s in points])
        self.strength = np.where(self.is_super, RPOINT, BRAGG * structure(self.hkl))

    def typical_angles(self, number: int) -> Any:
        """Half a degree of phi somewhere, to measure the speed with."""
        return (0.5 * number, 0.0, 0.0), (0.5 * number + 0.5, 0.0, 0.0)

    # -- one frame ----------------------------------------------------------------------------

    def expected(self, exposure: Exposure) -> NDArray[np.float32]:
        """Expect counts of every pixel, gaps and bad pixels too."""
        scale = exposure.beam * exposure.seconds
        total = np.zeros(self.shape, np.float32)
        if scale <= 0.0:
            return total
        begin, end = (goniometer(*angles) for angles in exposure.angles)
        middle = goniometer(*(0.5 * (a + b) for a, b in zip(*exposure.angles, strict=True)))
        for rows in self._blocks():
            self._diffuse(rows, middle, exposure.temperature, out=total[rows])
        self._add_peaks(total, begin, middle, end, exposure.temperature)
        for rows in self._blocks():
            total[rows] *= self.correction[rows]
            total[rows] += self.air[rows]
            total[rows] *= np.float32(scale)
        return total

    def count(self, exposure: Exposure) -> NDArray[np.int32]:
        """Count one exposure."""
        counts = np.zeros(self.shape, np.int32)
        self.shift(*exposure.shift)
        if exposure.beam * exposure.seconds > 0.0:
            expected = self.expected(exposure)
            seeds = np.random.SeedSequence([self.seed, exposure.series, exposure.number])
            rng = np.random.Generator(np.random.SFC64(seeds))
            for rows in self._blocks():
                counts[rows] = np.minimum(rng.poisson(expected[rows]), CUTOFF)
        counts[self.gaps] = GAP
        counts[self.bad] = BAD
        return counts

    def _blocks(self) -> list[slice]:
        """Divide the rows into blocks that stay in a processor's cache."""
        step = max(32768 // self.shape[1], 1)
        return [slice(i, i + step) for i in range(0, self.shape[0], step)]

    def _diffuse(
        self,
        rows: slice,
        rotation: NDArray[np.float64],
        temperature: float,
        *,
        out: NDArray[np.float32],
    ) -> None:
        """Evaluate thermal diffuse and critical scattering, smooth over a frame's width."""
        to_hkl = (np.linalg.inv(self.UB) @ rotation.T).astype(np.float32)
        h = to_hkl @ self.q[:, rows].reshape(3, -1)
        # distance to the nearest Bragg point and to the nearest R point, in units of a*
        np.subtract(h, np.rint(h), out=h)
        to_bragg = np.einsum("ij,ij->j", h, h)
        np.abs(h, out=h)
        h -= np.float32(0.5)
        to_super = np.einsum("ij,ij->j", h, h)
        unit = np.float32(1.0 / LATTICE**2)
        to_bragg *= unit
        to_bragg += np.float32(DIFFUSE_CORE**2)
        np.divide(np.float32(THERMAL * temperature), to_bragg, out=to_bragg)
        kappa = inverse_correlation_length(temperature)
        to_super *= unit
        to_super += np.float32(kappa**2)
        np.divide(np.float32(CRITICAL), to_super, out=to_super)
        to_bragg += to_super
        np.multiply(to_bragg.reshape(out.shape), self.q_squared[rows], out=out)

    def _add_peaks(
        self,
        total: NDArray[np.float32],
        begin: NDArray[np.float64],
        middle: NDArray[np.float64],
        end: NDArray[np.float64],
        temperature: float,
    ) -> None:
        """Add the peaks: a Gaussian in reciprocal space, integrated along the frame's rotation."""
        points = self.hkl @ self.UB.T
        lab = points @ middle.T
        beam = np.array([0.0, 0.0, 1.0 / WAVELENGTH])
        scattered = lab + beam
        miss = np.abs(np.linalg.norm(scattered, axis=1) - 1.0 / WAVELENGTH)
        path = np.linalg.norm(points @ (end - begin).T, axis=1)
        strength = self.strength * debye_waller(np.sum(lab**2, axis=1), temperature)
        strength[self.is_super] *= order_parameter_squared(temperature)
        near = (miss < 5.0 * MOSAIC + 0.5 * path) & (scattered[:, 2] > 0.1) & (strength > 0.0)
        scale = DISTANCE / self.pixel
        n_slow, n_fast = self.shape
        width = math.sqrt(2.0) * MOSAIC
        for i in np.flatnonzero(near):
            s = scattered[i] * (DISTANCE / scattered[i, 2])
            column = self.centre[0] + s[0] * FAST[0] / self.pixel
            row = self.centre[1] + s[1] * SLOW[1] / self.pixel
            # in pixels, generously: oblique pixels see reciprocal space compressed
            reach = math.ceil((6.0 * MOSAIC + path[i]) * WAVELENGTH * scale * 2.0) + 2
            c0, c1 = max(int(column) - reach, 0), min(int(column) + reach + 1, n_fast)
            r0, r1 = max(int(row) - reach, 0), min(int(row) + reach + 1, n_slow)
            if c0 >= c1 or r0 >= r1:
                continue
            q = self.q[:, r0:r1, c0:c1].reshape(3, -1).astype(float)
            away = middle.T @ q - points[i][:, None]
            motion = (end.T - begin.T) @ q  # of the pixel through the crystal's reciprocal space
            length = np.linalg.norm(motion, axis=0)
            squared = np.einsum("ij,ij->j", away, away)
            if length.max() < 1e-9:
                value = np.exp(-squared / width**2)
            else:
                along = np.einsum("ij,ij->j", away, motion) / length
                across = squared - along**2
                inside = erf((along + 0.5 * length) / width) - erf((along - 0.5 * length) / width)
                value = (
                    np.exp(-across / width**2)
                    * inside
                    * (math.sqrt(math.pi) * width / (2.0 * length))
                )
            total[r0:r1, c0:c1] += (strength[i] * value).reshape(r1 - r0, c1 - c0)


def structure(hkl: NDArray[np.float64]) -> NDArray[np.float64]:
    """Relative |F|² of a perovskite's points: A at 0, B in the centre, X on the faces."""
    heavy, middle, light = 19.0, 25.0, 9.0
    h, k, l = hkl.T  # noqa: E741
    body = np.cos(np.pi * (h + k + l))
    faces = np.cos(np.pi * (h + k)) + np.cos(np.pi * (h + l)) + np.cos(np.pi * (k + l))
    amplitude = heavy + middle * body + light * faces
    return (amplitude / (heavy + middle + 3.0 * light)) ** 2


def panel_origin(detector: str) -> NDArray[np.float64]:
    """Outer corner of pixel (0, 0), mm."""
    kind = KINDS[detector]
    column, row = kind.pixel * kind.centre[0], kind.pixel * kind.centre[1]
    return np.array([0.0, 0.0, DISTANCE]) - column * np.array(FAST) - row * np.array(SLOW)


def truth(detector: str) -> dict[str, Any]:
    """Return what a measurement should find; laboratory frame of NeXus, UB in Å⁻¹ without 2π."""
    return {
        "sample": {
            "name": "perovskite",
            "formula": "KMnF3",
            "lattice": [LATTICE, LATTICE, LATTICE, 90.0, 90.0, 90.0],
            "space_group": "P m -3 m",
            "UB": orientation().tolist(),
            "Tc": TC,
            "beta": BETA,
            "superlattice": [list(SUPERLATTICE)],
        },
        "wavelength": WAVELENGTH,
        "panel": {
            "origin_mm": panel_origin(detector).tolist(),
            "fast": list(FAST),
            "slow": list(SLOW),
            "pixel_mm": KINDS[detector].pixel,
            "shape": list(KINDS[detector].shape),
        },
        "axes": [{"name": name, "vector": list(vector)} for name, vector in AXES.items()],
        "distance_mm": DISTANCE,
        "beam_centre_px": list(KINDS[detector].centre),
        "beamstop_mm": BEAMSTOP,
        "saturation": CUTOFF,
        "gap": GAP,
        "bad": BAD,
    }
