"""Peak lists of every unpleasant kind, for the indexer: what it must refuse, or get right."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from crystals import BRAVAIS, geometry, orientation, random_cell, random_turn, seen

from offbragg.reduction.peaks import Peaks
from offbragg.reduction.refinement import SweepPeaks
from offbragg.sweep import Sweep


@dataclass(frozen=True)
class PeakList:
    """Peaks of one sweep, and the lattice they are of; None if they are of nothing."""

    kind: str
    view: SweepPeaks
    UB: np.ndarray | None
    cell: tuple[float, ...]
    centring: str


def peaks_of(x, y, z, intensity=None, clean=None) -> Peaks:
    n = len(x)
    intensity = np.ones(n) if intensity is None else intensity
    clean = np.ones(n, bool) if clean is None else clean
    return Peaks(*(np.asarray(v, float) for v in (x, y, z, intensity)), np.full(n, 0.4), clean, {})


def only(view: SweepPeaks, which) -> SweepPeaks:
    return dataclasses.replace(view, peaks=view.peaks[which])


def anywhere(rng, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return rng.uniform(0, 1475, n), rng.uniform(0, 1679, n), rng.uniform(0, 360, n)


def on_shells(rng, radii, each: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rings of a powder on the detector; ``radii`` are |q|, Å⁻¹."""
    shells = np.repeat(radii, each)
    radius = 100 * np.tan(2 * np.arcsin(shells * 0.7 / 2)) / 0.172
    about = rng.uniform(0, 2 * np.pi, shells.size)
    return (
        737.4 + radius * np.cos(about), 832.1 + radius * np.sin(about),
        rng.uniform(0, 360, shells.size),
    )  # fmt: skip


SWEEP = Sweep("phi", 0.0, 0.5, 360, 0.1, 0.1)
KINDS = (
    "few of nothing", "few of a crystal", "none near the origin", "shells", "duplicates",
    "one peak often", "on a line", "in a plane", "not numbers", "huge", "many of nothing",
    "odd intensities", "short sweep", "around the beam", "none clean", "large cell", "satellites",
    "crystal and ring", "two frames",
)  # fmt: skip


def peak_list(seed: int) -> PeakList:
    """Make one; the kinds take turns."""
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    name = BRAVAIS[int(rng.integers(len(BRAVAIS)))]
    cell = random_cell(name, rng)
    if kind == "large cell":
        cell = (*(rng.uniform(40, 90, 3)), 90.0, 90.0, 90.0)
        name = "oP"
    UB = orientation(cell, random_turn(rng))
    true: np.ndarray | None = UB

    def crystal(**more) -> SweepPeaks:
        return seen(UB, name[1], rng, **more)

    def nothing(*columns, **more) -> SweepPeaks:
        nonlocal true
        true = None
        return SweepPeaks(geometry(), SWEEP, peaks_of(*columns, **more))

    if kind == "few of nothing":
        view = nothing(*anywhere(rng, int(rng.integers(0, 40))))
    elif kind == "few of a crystal":
        view = crystal(most=int(rng.integers(5, 40)), stray=rng.choice([0.0, 0.3]))
    elif kind == "none near the origin":
        view = crystal(most=int(rng.choice([60, 200, 800])), q_max=1.2)
        far = np.linalg.norm(q_of(view), axis=1) > rng.choice([0.3, 0.5, 0.7])
        view = only(view, far)
    elif kind == "shells":
        radii = rng.uniform(0.15, 0.8, int(rng.integers(1, 6)))
        view = nothing(*on_shells(rng, radii, int(rng.integers(10, 200))))
    elif kind == "duplicates":
        view = crystal(most=int(rng.integers(3, 40)), stray=0.0)
        view = only(view, np.sort(rng.integers(0, max(len(view.peaks), 1), 300)))
    elif kind == "one peak often":
        x, y, z = anywhere(rng, int(rng.integers(1, 4)))
        view = nothing(*(np.repeat(v, 100) for v in (x, y, z)))
    elif kind == "on a line":
        n = int(rng.integers(12, 60))
        x, y, _ = anywhere(rng, 1)
        view = nothing(np.full(n, x[0]), np.full(n, y[0]), np.arange(n) * rng.uniform(0.1, 5.0))
    elif kind == "in a plane":
        view = crystal(missing=0.0, stray=0.0, noise=(0.1, 0.05))
        hkl = q_of(view) @ np.linalg.inv(UB).T
        view = only(view, np.abs(hkl[:, int(rng.integers(3))]) < 0.3)
    elif kind == "not numbers":
        view = crystal(most=300)
        p = view.peaks
        columns = [np.array(v) for v in (p.x, p.y, p.z, p.intensity)]
        for column in columns:
            hit = rng.random(len(column)) < rng.choice([0.02, 0.5, 1.0])
            column[hit] = rng.choice([np.nan, np.inf, -np.inf])
        view = dataclasses.replace(view, peaks=peaks_of(*columns))
    elif kind == "huge":
        view = crystal(most=300)
        p = view.peaks
        scale = 10.0 ** rng.choice([4, 9, 150, 300])
        hit = rng.random(len(p)) < rng.choice([0.05, 1.0])
        moved = [np.where(hit, v * scale, v) for v in (p.x, p.y, p.z)]
        view = dataclasses.replace(view, peaks=peaks_of(*moved, p.intensity))
    elif kind == "many of nothing":
        view = nothing(*anywhere(rng, int(rng.choice([200, 2000, 8000]))))
    elif kind == "odd intensities":
        view = crystal(most=300)
        n = len(view.peaks)
        odd = [np.zeros(n), -np.ones(n), np.full(n, 1e308), rng.exponential(size=n) * 1e-300]
        columns = [getattr(view.peaks, name) for name in "xyz"]
        view = dataclasses.replace(view, peaks=peaks_of(*columns, odd[int(rng.integers(len(odd)))]))
    elif kind == "short sweep":
        view = crystal(n_frames=int(rng.integers(1, 12)), missing=0.0, stray=0.1)
    elif kind == "around the beam":
        n = int(rng.integers(12, 200))
        view = nothing(
            737.4 + rng.normal(0, 2, n), 832.1 + rng.normal(0, 2, n), rng.uniform(0, 360, n)
        )
    elif kind == "none clean":
        view = crystal(most=300)
        p = view.peaks
        view = dataclasses.replace(
            view, peaks=peaks_of(p.x, p.y, p.z, p.intensity, np.zeros(len(p), bool))
        )
    elif kind == "large cell":
        view = crystal(most=600)
    elif kind == "satellites":
        view = crystal(most=150, missing=0.0)
        p = view.peaks
        x, y, z = (np.repeat(v, 6) for v in (p.x, p.y, p.z))
        x, y, z = x + rng.normal(0, 8, x.size), y + rng.normal(0, 8, x.size), z
        both = [np.concatenate(pair) for pair in ((p.x, x), (p.y, y), (p.z, z))]
        strength = np.concatenate([p.intensity, 0.05 * np.repeat(p.intensity, 6)])
        view = dataclasses.replace(view, peaks=peaks_of(*both, strength))
    elif kind == "crystal and ring":
        view = crystal(most=400)
        p = view.peaks
        ring = on_shells(rng, rng.uniform(0.2, 0.5, 2), 200)
        both = [np.concatenate(pair) for pair in zip((p.x, p.y, p.z), ring, strict=True)]
        strength = np.concatenate([p.intensity, rng.exponential(size=400)])
        view = dataclasses.replace(view, peaks=peaks_of(*both, strength))
    else:
        view = crystal(n_frames=2, step=0.2)
    return PeakList(kind, view, true, cell, name[1])


def q_of(view: SweepPeaks) -> np.ndarray:
    p = view.peaks
    return view.geometry.q(p.x, p.y, view.sweep.start + view.sweep.step * p.z)
