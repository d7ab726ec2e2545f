"""Peaks and frames of any crystal, by the simulator's few lines of geometry and none of ours."""

from __future__ import annotations

import math

import numpy as np

from offbragg.geometry import Geometry
from offbragg.instrument import Axis, Panel
from offbragg.reduction.peaks import Peaks
from offbragg.reduction.refinement import SweepPeaks
from offbragg.sweep import Sweep
from sim_iocs import crystal as sim

ALLOWED = {
    "P": lambda h, k, m: np.ones(h.shape, bool),
    "C": lambda h, k, m: (h + k) % 2 == 0,
    "I": lambda h, k, m: (h + k + m) % 2 == 0,
    "F": lambda h, k, m: ((h + k) % 2 == 0) & ((h + m) % 2 == 0),
    "R": lambda h, k, m: (-h + k + m) % 3 == 0,
}
# rows: primitive vectors in terms of a, b, c
PRIMITIVE = {
    "P": np.eye(3),
    "C": np.array([[0.5, 0.5, 0], [-0.5, 0.5, 0], [0, 0, 1]]),
    "I": np.array([[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]]),
    "F": np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]),
    "R": np.array([[2, 1, 1], [-1, 1, 1], [-1, -2, 1]]) / 3,
}
BRAVAIS = ("aP", "mP", "mC", "oP", "oC", "oI", "oF", "tP", "tI", "hP", "hR", "cP", "cI", "cF")


def random_cell(name: str, rng: np.random.Generator) -> tuple[float, ...]:
    """A cell that has the symmetry of its name and, clearly, no more."""
    while True:
        a, b, c = rng.uniform(4.0, 16.0, 3)
        ratios = np.array([a / b, b / c, a / c])
        special = np.sqrt(
            [1, 2, 3, 4, 3 / 2, 1 / 2, 1 / 3, 1 / 4, 2 / 3, 4 / 3, 3 / 4, 8 / 3, 3 / 8]
        )
        if np.abs(ratios[:, None] / special - 1).min() > 0.03:
            break
    family = name[0]
    if family == "a":
        while True:
            angles = rng.uniform(70, 115, 3)
            ca, cb, cg = np.cos(np.radians(angles))
            if (
                1 - ca**2 - cb**2 - cg**2 + 2 * ca * cb * cg > 0.35
                and np.abs(angles - 90).min() > 3
            ):
                return a, b, c, *angles
    if family == "m":
        return a, b, c, 90.0, rng.uniform(94, 118), 90.0
    if family == "o":
        a, b, c = sorted((a, b, c))
        return a, b, c, 90.0, 90.0, 90.0
    if family == "t":
        return a, a, c, 90.0, 90.0, 90.0
    if family == "h":
        return a, a, c, 90.0, 90.0, 120.0
    return a, a, a, 90.0, 90.0, 90.0


def direct(cell) -> np.ndarray:
    """Rows a, b, c of a cell, Å, c along z."""
    a, b, c = cell[:3]
    al, be, ga = np.radians(cell[3:])
    cos_gs = (np.cos(al) * np.cos(be) - np.cos(ga)) / (np.sin(al) * np.sin(be))
    return np.array(
        [
            [a * np.sin(be), 0, a * np.cos(be)],
            [
                -b * np.sin(al) * cos_gs,
                b * np.sin(al) * math.sqrt(1 - cos_gs**2),
                b * np.cos(al),
            ],
            [0, 0, c],
        ]
    )


def random_turn(rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


def orientation(cell, turn) -> np.ndarray:
    return turn @ np.linalg.inv(direct(cell))


def geometry(detector: str = "2M", *, distance=sim.DISTANCE, moved=(0.0, 0.0), phi="phi"):
    """As the simulator's, or as one believes that it is: moved by pixels, at another distance."""
    origin = sim.panel_origin(detector).copy()
    origin += sim.PIXEL * (moved[0] * np.array(sim.FAST) + moved[1] * np.array(sim.SLOW))
    origin[2] = distance
    return Geometry(
        wavelength=sim.WAVELENGTH,
        panel=Panel(
            origin=tuple(float(v) for v in origin),
            fast=sim.FAST,
            slow=sim.SLOW,
            pixel_size=(sim.PIXEL, sim.PIXEL),
            shape=sim.SHAPES[detector],
        ),
        axes=tuple(Axis(name, vector, 0.0) for name, vector in sim.AXES.items()),
        scan_axis=phi,
    )


def crossings(UB, centring, start, turned, detector, q_max):
    """Where reflections cross, by hand: phi turns about y, and 2 s0 · q + q² = 0."""
    rows = np.linalg.inv(UB)  # rows are a, b, c
    limits = [math.ceil(q_max * np.linalg.norm(row)) for row in rows]
    h, k, m = (
        g.ravel() for g in np.meshgrid(*(np.arange(-n, n + 1) for n in limits), indexing="ij")
    )
    hkl = np.stack([h, k, m], 1)[ALLOWED[centring](h, k, m) & ((h != 0) | (k != 0) | (m != 0))]
    q = hkl @ UB.T
    length = np.linalg.norm(q, axis=1)
    hkl, q, length = hkl[length < q_max], q[length < q_max], length[length < q_max]
    across = np.hypot(q[:, 0], q[:, 2])
    with np.errstate(invalid="ignore", divide="ignore"):
        half = np.arccos(-sim.WAVELENGTH * length**2 / 2 / across)
    out = []
    for sign in (1, -1):
        phi = np.degrees(sign * half - np.arctan2(q[:, 0], q[:, 2]))
        phi = (phi - start) % 360.0
        hit = np.flatnonzero(np.isfinite(phi) & (phi < turned))
        turn = np.radians(start + phi[hit])
        p = q[hit]
        x = p[:, 0] * np.cos(turn) + p[:, 2] * np.sin(turn)
        z = -p[:, 0] * np.sin(turn) + p[:, 2] * np.cos(turn) + 1 / sim.WAVELENGTH
        ahead = np.where(z > 0.05, z, np.nan)
        column = sim.BEAM_CENTRE[detector][0] - x / ahead * sim.DISTANCE / sim.PIXEL
        row = sim.BEAM_CENTRE[detector][1] - p[:, 1] / ahead * sim.DISTANCE / sim.PIXEL
        on = (column > 0) & (column < sim.SHAPES[detector][1])
        on &= (row > 0) & (row < sim.SHAPES[detector][0])
        out.append((column[on], row[on], phi[hit][on], hkl[hit][on]))
    return tuple(np.concatenate(each) for each in zip(*out, strict=True))


def seen(
    UB,
    centring,
    rng,
    *,
    start=-30.0,
    step=0.5,
    n_frames=360,
    detector="2M",
    q_max=0.9,
    noise=(0.3, 0.2),
    missing=0.3,
    stray=0.15,
    most=1500,
    believed=None,
    also=(),
):
    """A sweep's peaks: with noise (pixel, frame), some missing, some stray, and further lattices.

    ``believed`` is the geometry that is handed on, if not the true one; ``also`` are (UB, centring,
    share) of other lattices.
    """
    parts = []
    for lattice, letter, share in ((UB, centring, 1.0), *also):
        x, y, phi, _ = crossings(lattice, letter, start, step * n_frames, detector, q_max)
        strength = rng.exponential(size=x.size) * share
        parts.append((x, y, phi / step, strength))
    x, y, z, strength = (np.concatenate(each) for each in zip(*parts, strict=True))
    kept = rng.random(x.size) > missing
    x, y, z, strength = x[kept], y[kept], z[kept], strength[kept]
    strongest = np.argsort(-strength)[:most]
    x, y, z, strength = x[strongest], y[strongest], z[strongest], strength[strongest]
    x = x + rng.normal(0, noise[0], x.size)
    y = y + rng.normal(0, noise[0], x.size)
    z = z + rng.normal(0, noise[1], x.size)
    n = int(stray * x.size)
    rows, columns = sim.SHAPES[detector]
    x = np.concatenate([x, rng.uniform(0, columns, n)])
    y = np.concatenate([y, rng.uniform(0, rows, n)])
    z = np.concatenate([z, rng.uniform(0, n_frames, n)])
    strength = np.concatenate([strength, rng.exponential(size=n)])
    order = np.argsort(-strength)
    ones = np.ones(x.size)
    peaks = Peaks(x[order], y[order], z[order], strength[order], 0.4 * ones, ones.astype(bool), {})
    sweep = Sweep("phi", start, step, n_frames, 0.1, 0.1)
    return SweepPeaks(believed or geometry(detector), sweep, peaks)


def misorientation(found, truth, cell) -> tuple[float, float]:
    """Degrees between two orientations of a lattice, and the largest relative strain between
    their cells, over all ways to choose the axes of the found one."""
    a, b = np.linalg.inv(found), np.linalg.inv(truth)  # rows are direct vectors
    change = b @ np.linalg.inv(a)
    whole = np.rint(change * 6) / 6  # centred cells: thirds and halves
    if abs(abs(np.linalg.det(whole)) - 1) > 0.02:
        return 180.0, 1.0
    # b_found = whole @ a: the same axes; deformation F takes truth to found
    deformed = np.linalg.solve(b, whole @ a).T
    u, s, v = np.linalg.svd(deformed)
    turn = u @ v
    angle = math.degrees(math.acos(max(-1.0, min(1.0, (np.trace(turn) - 1) / 2))))
    return angle, float(np.abs(s - 1).max())


class AnyCrystal(sim.Crystal):
    """The simulator's crystal with another lattice and orientation, diffuse scattering included."""

    def __init__(self, UB, centring, *, detector="300K", seed=0, strength=3e5, mosaic=None) -> None:
        self.wanted = np.asarray(UB), centring
        self.base = strength
        super().__init__(detector, seed=seed)

    def _list_peaks(self) -> None:
        self.UB, centring = self.wanted
        limits = [math.ceil(self._q_max * np.linalg.norm(row)) for row in np.linalg.inv(self.UB)]
        h, k, m = (
            g.ravel() for g in np.meshgrid(*(np.arange(-n, n + 1) for n in limits), indexing="ij")
        )
        kept = ALLOWED[centring](h, k, m) & ((h != 0) | (k != 0) | (m != 0))
        hkl = np.stack([h, k, m], 1)[kept].astype(float)
        self.hkl = hkl[np.linalg.norm(hkl @ self.UB.T, axis=1) < self._q_max + 0.05]
        self.is_super = np.zeros(len(self.hkl), bool)
        # |F|² of an acentric crystal (Wilson), Friedel's law kept by the absolute hkl
        seeds = np.random.default_rng(self.seed)
        table = seeds.exponential(size=(64, 64, 64))
        folded = np.abs(self.hkl).astype(int) % 64
        self.strength = self.base * table[folded[:, 0], folded[:, 1], folded[:, 2]]

    def _diffuse(self, rows, rotation, temperature, *, out) -> None:
        # smooth, periodic, and highest at every Bragg point
        UB, centring = self.wanted
        direct = (PRIMITIVE[centring] @ np.linalg.inv(UB) @ rotation.T).astype(np.float32)
        phase = np.float32(2 * np.pi) * (direct @ self.q[:, rows].reshape(3, -1))
        value = np.exp(np.float32(1.5) * (np.cos(phase).sum(axis=0) - np.float32(3.0)))
        value *= np.float32(0.1 * sim.THERMAL * temperature / sim.DIFFUSE_CORE**2)
        np.multiply(value.reshape(out.shape), self.q_squared[rows], out=out)


def frames(crystal, sweep, *, seconds=0.1) -> np.ndarray:
    """Every frame of a sweep of phi."""
    edges = sweep.start + sweep.step * np.arange(sweep.n_frames + 1)
    return np.stack(
        [
            crystal.count(
                sim.Exposure(
                    number=i, angles=((edges[i], 0, 0), (edges[i + 1], 0, 0)), seconds=seconds
                )
            )
            for i in range(sweep.n_frames)
        ]
    )
