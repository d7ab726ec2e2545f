"""Beam, panel and goniometer as vectors in one lab frame.

The lab frame is that of NeXus (McStas): z along the beam downstream, y up, x = y × z. A
pixel's corner is at whole numbers, its centre half a pixel further. Reciprocal lengths are
in Å⁻¹ without 2π.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offbragg.errors import GeometryError
from offbragg.instrument import (
    Array,
    Axis,
    Panel,
    Vector,
    exactly,
    float_of,
    floats_of,
    text_of,
    vector_of,
)
from offbragg.sweep import Sweep


class Crossings(NamedTuple):
    """Where and when reflections cross the Ewald sphere and hit the panel; one row each."""

    x: Array
    """Column, pixel, corner convention."""
    y: Array
    """Row, pixel, corner convention."""
    z: Array
    """Frames since the sweep's start; frame n is from n to n + 1."""
    which: NDArray[np.int64]
    """Index of the reflection in the given hkl."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Beam, panel and goniometer: pixel and angle become q.

    Parameters
    ----------
    wavelength
        Å. The beam runs exactly along +z.
    panel
        The detector.
    axes
        Goniometer axes, the innermost (at the sample) first.
    scan_axis
        Name of the axis that turns during the sweep.
    """

    wavelength: float
    panel: Panel
    axes: tuple[Axis, ...]
    scan_axis: str

    def __post_init__(self) -> None:
        if not (math.isfinite(self.wavelength) and self.wavelength > 0):
            raise GeometryError(f"wavelength {self.wavelength} Å: it must be above 0")
        names = [axis.name for axis in self.axes]
        if len(set(names)) != len(names):
            raise GeometryError(f"axes {', '.join(names)}: each name may occur once")
        if self.scan_axis not in names:
            raise GeometryError(
                f"scan axis {self.scan_axis!r} is none of the axes: {', '.join(names) or 'none'}"
            )

    # ---- turning ---------------------------------------------------------------------

    @property
    def _scan_index(self) -> int:
        return [axis.name for axis in self.axes].index(self.scan_axis)

    def around_scan_axis(self) -> tuple[Array, Array, Array]:
        """Rotation by the axes outside the scan axis, the scan axis, and that inside it."""
        here = self._scan_index
        outside, inside = np.eye(3), np.eye(3)
        for axis in self.axes[here + 1 :]:
            outside = rotation_about(axis.vector, axis.angle) @ outside
        for axis in self.axes[:here]:
            inside = rotation_about(axis.vector, axis.angle) @ inside
        return outside, np.array(self.axes[here].vector), inside

    def rotation(self, angle: ArrayLike) -> Array:
        """Goniometer rotation with the scan axis at ``angle`` degree, shape (..., 3, 3)."""
        outside, vector, inside = self.around_scan_axis()
        return outside @ rotation_about(vector, angle) @ inside

    # ---- pixels ----------------------------------------------------------------------

    def lab(self, x: ArrayLike, y: ArrayLike) -> Array:
        """Where a point of the panel is.

        Parameters
        ----------
        x, y
            Column and row, pixel; the corner of pixel (0, 0) is (0, 0), its centre (½, ½).

        Returns
        -------
        position
            mm from the crystal, lab frame, shape (..., 3).
        """
        u = np.asarray(x, np.float64)[..., None] * self.panel.pixel_size[0]
        v = np.asarray(y, np.float64)[..., None] * self.panel.pixel_size[1]
        return np.array(self.panel.origin) + u * self.panel.fast + v * self.panel.slow

    def q(self, x: ArrayLike, y: ArrayLike, angle: ArrayLike) -> Array:
        """Scattering vector of a point of the panel, fixed to the crystal.

        Parameters
        ----------
        x, y
            Column and row, pixel, corner convention.
        angle
            Of the scan axis, degree.

        Returns
        -------
        q
            R⁻¹ (s − s0) in the goniometer frame at zero angles, Å⁻¹ without 2π, shape (..., 3).
        """
        position = self.lab(x, y)
        s = position / np.linalg.norm(position, axis=-1, keepdims=True)
        s[..., 2] -= 1.0
        turned = self.rotation(angle)
        # (s − s0) as a row times R is R⁻¹ (s − s0) as a column
        return (s[..., None, :] @ turned)[..., 0, :] / self.wavelength

    def direct_beam(self) -> tuple[float, float, float] | None:
        """Where the beam meets the panel's plane: column, row (pixel) and distance, mm.

        None if it never does: the panel is parallel to the beam, or upstream.
        """
        normal = self.panel.normal
        if abs(normal[2]) < 1e-9:
            return None
        distance = float(np.dot(self.panel.origin, normal) / normal[2])
        if distance <= 0:
            return None
        x, y = self._pixel(np.array([0.0, 0.0, 1.0]))
        return float(x), float(y), distance

    def _pixel(self, s: Array) -> tuple[Array, Array]:
        """Column and row where rays along ``s`` (..., 3) meet the panel; NaN where they do not."""
        fast, slow = np.array(self.panel.fast), np.array(self.panel.slow)
        d = np.linalg.inv(np.column_stack([fast, slow, np.array(self.panel.origin)]))
        u, v, w = np.moveaxis(s @ d.T, -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ahead = np.where(w > 0, w, np.nan)
            return u / ahead / self.panel.pixel_size[0], v / ahead / self.panel.pixel_size[1]

    # ---- reflections -----------------------------------------------------------------

    def predict(self, hkl: ArrayLike, UB: ArrayLike, sweep: Sweep) -> Crossings:
        """Find where and when reflections cross the Ewald sphere during a sweep.

        The Laue condition is solved for the angle (Milch & Minor, J. Appl. Cryst. 7, 502,
        1974). A reflection may cross more than once, or never.

        Parameters
        ----------
        hkl
            Reciprocal-lattice units, shape (..., 3).
        UB
            Orientation matrix, Å⁻¹ without 2π, shape (3, 3).
        sweep
            The rotation; its axis must be the scan axis.

        Returns
        -------
        x, y, z, which
            Crossings that hit the panel, ordered by z; ``which`` counts hkl along its first
            axes.
        """
        if sweep.axis != self.scan_axis:
            raise GeometryError(
                f"the sweep turns {sweep.axis!r}, but the geometry's scan axis is "
                f"{self.scan_axis!r}"
            )
        if sweep.step == 0:
            raise GeometryError("nothing crosses the Ewald sphere while the crystal stands still")
        outside, e, inside = self.around_scan_axis()
        q = np.asarray(hkl, np.float64).reshape(-1, 3) @ np.asarray(UB, np.float64).T
        p = q @ inside.T
        beam = np.array([0.0, 0.0, 1.0 / self.wavelength]) @ outside
        along = p @ e
        across = p - along[:, None] * e
        # |s0 + r| = |s0| with r = R p:  A cos φ + B sin φ = C
        a, b = across @ beam, np.cross(e, p) @ beam
        c = -0.5 * np.sum(p * p, axis=1) - along * float(e @ beam)
        size = np.hypot(a, b)
        with np.errstate(divide="ignore", invalid="ignore"):
            half = np.arccos(np.where(np.abs(c) <= size, c / size, np.nan))
        middle = np.arctan2(b, a)
        turn = 360.0 / abs(sweep.step)
        found: list[tuple[Array, NDArray[np.int64]]] = []
        for angle in (middle - half, middle + half):
            z = ((np.rad2deg(angle) - sweep.start) / sweep.step) % turn
            which = np.flatnonzero(np.isfinite(z) & (np.sum(p * p, axis=1) > 0))
            for _ in range(math.ceil(sweep.n_frames / turn)):
                inside_sweep = z[which] < sweep.n_frames
                found.append((z[which][inside_sweep], which[inside_sweep]))
                z = z + turn
        z = np.concatenate([each[0] for each in found])
        index = np.concatenate([each[1] for each in found]).astype(np.int64)
        turned = self.rotation(sweep.start + sweep.step * z)
        s = (turned @ q[index][..., None])[..., 0]
        s[:, 2] += 1.0 / self.wavelength
        x, y = self._pixel(s)
        rows, columns = self.panel.shape
        hit = np.flatnonzero((x >= 0) & (x < columns) & (y >= 0) & (y < rows))
        hit = hit[np.argsort(z[hit], kind="stable")]
        return Crossings(x[hit], y[hit], z[hit], index[hit])

    # ---- as documents ----------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return as plain JSON types, for a start document."""
        return {
            "wavelength": self.wavelength,
            "panel": {
                "origin": list(self.panel.origin),
                "fast": list(self.panel.fast),
                "slow": list(self.panel.slow),
                "pixel_size": list(self.panel.pixel_size),
                "shape": list(self.panel.shape),
            },
            "axes": [
                {"name": axis.name, "vector": list(axis.vector), "angle": axis.angle}
                for axis in self.axes
            ],
            "scan_axis": self.scan_axis,
        }

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Geometry:
        """Read what `to_dict` wrote.

        Raises
        ------
        GeometryError
            If a key is unknown or missing, or a value is wrong: named.
        """
        top = exactly(mapping, ("wavelength", "panel", "axes", "scan_axis"), "geometry")
        panel = exactly(
            top["panel"], ("origin", "fast", "slow", "pixel_size", "shape"), "geometry.panel"
        )
        shape = floats_of(panel["shape"], 2, "geometry.panel.shape")
        if any(n != int(n) for n in shape):
            raise GeometryError(f"geometry.panel.shape is {shape}: it must be two whole numbers")
        axes: list[Axis] = []
        if isinstance(top["axes"], (str, bytes)) or not isinstance(top["axes"], Sequence):
            raise GeometryError(f"geometry.axes is {top['axes']!r}: it must be a list of axes")
        for number, item in enumerate(cast(Sequence[Any], top["axes"])):
            where = f"geometry.axes[{number}]"
            axis = exactly(item, ("name", "vector", "angle"), where)
            axes.append(
                Axis(
                    name=text_of(axis["name"], f"{where}.name"),
                    vector=vector_of(axis["vector"], f"{where}.vector"),
                    angle=float_of(axis["angle"], f"{where}.angle"),
                )
            )
        sizes = floats_of(panel["pixel_size"], 2, "geometry.panel.pixel_size")
        return cls(
            wavelength=float_of(top["wavelength"], "geometry.wavelength"),
            panel=Panel(
                origin=vector_of(panel["origin"], "geometry.panel.origin"),
                fast=vector_of(panel["fast"], "geometry.panel.fast"),
                slow=vector_of(panel["slow"], "geometry.panel.slow"),
                pixel_size=(sizes[0], sizes[1]),
                shape=(int(shape[0]), int(shape[1])),
            ),
            axes=tuple(axes),
            scan_axis=text_of(top["scan_axis"], "geometry.scan_axis"),
        )

    @classmethod
    def from_model(
        cls,
        mapping: Mapping[str, Any],
        *,
        shape: tuple[int, int],
        names: Sequence[str] | None = None,
    ) -> tuple[Geometry, Array]:
        """Read a refined model in the imgCIF frame that DIALS uses.

        Its coordinates become NeXus ones by a half turn about y; then all of it (panel, axes,
        UB) is turned until the beam runs exactly along +z.

        Parameters
        ----------
        mapping
            ``wavelength_angstrom``, ``s0``, ``panel_origin_mm``, ``fast``, ``slow``,
            ``pixel_mm``, ``UB_no_2pi`` (row-major, Å⁻¹ without 2π) and ``goniometer`` with
            ``axes`` (innermost first), ``angles_deg`` and ``scan_axis`` (an index); all vectors
            in the imgCIF frame.
        shape
            Rows and columns of the panel, which the model does not say.
        names
            Of the axes, innermost first; ``axis0``, ``axis1`` … if not given.

        Returns
        -------
        geometry
            In the NeXus frame.
        UB
            Å⁻¹ without 2π, shape (3, 3), in the NeXus frame at zero angles.
        """
        try:
            goniometer = cast(Mapping[str, Any], mapping["goniometer"])
            vectors = cast(Sequence[Any], goniometer["axes"])
            angles = cast(Sequence[Any], goniometer["angles_deg"])
            scan = int(goniometer["scan_axis"])
            s0 = mapping["s0"]
            origin, fast, slow = mapping["panel_origin_mm"], mapping["fast"], mapping["slow"]
            wavelength, pixel = mapping["wavelength_angstrom"], mapping["pixel_mm"]
            flat = mapping["UB_no_2pi"]
        except (KeyError, TypeError) as error:
            raise GeometryError(f"the model lacks {error}: see Geometry.from_model") from None
        half_turn = np.diag([-1.0, 1.0, -1.0])
        beam = half_turn @ np.array(vector_of(s0, "s0"))
        length = float(np.linalg.norm(beam)) * float_of(wavelength, "wavelength_angstrom")
        if not abs(length - 1.0) < 1e-3:
            raise GeometryError(f"the model's s0 is {length:.6g} / wavelength long, not 1")
        if len(vectors) != len(angles) or not 0 <= scan < len(vectors):
            raise GeometryError(
                f"the model has {len(vectors)} goniometer axes, {len(angles)} angles and scan "
                f"axis {scan}: they do not belong together"
            )
        called = list(names) if names is not None else [f"axis{n}" for n in range(len(vectors))]
        if len(called) != len(vectors):
            raise GeometryError(f"{len(called)} names for {len(vectors)} goniometer axes")
        m = _turning(beam / np.linalg.norm(beam), np.array([0.0, 0.0, 1.0])) @ half_turn

        def turned(value: Any, name: str) -> Vector:
            return vector_of(m @ np.array(vector_of(value, name)), name)

        size = float_of(pixel, "pixel_mm")
        geometry = cls(
            wavelength=float_of(wavelength, "wavelength_angstrom"),
            panel=Panel(
                origin=turned(origin, "panel_origin_mm"),
                fast=turned(fast, "fast"),
                slow=turned(slow, "slow"),
                pixel_size=(size, size),
                shape=shape,
            ),
            axes=tuple(
                Axis(name, turned(vector, "goniometer.axes"), float_of(angle, "angles_deg"))
                for name, vector, angle in zip(called, vectors, angles, strict=True)
            ),
            scan_axis=called[scan],
        )
        UB = m @ np.array(floats_of(flat, 9, "UB_no_2pi")).reshape(3, 3)
        return geometry, UB


def rotation_about(axis: ArrayLike, angle: ArrayLike) -> Array:
    """Right-handed rotation about a unit vector (Rodrigues).

    Parameters
    ----------
    axis
        Unit length, shape (3,).
    angle
        Degree, shape (...).

    Returns
    -------
    R
        Shape (..., 3, 3).

    Examples
    --------
    >>> rotation_about([0, 0, 1], 90.0).round(12) @ [1, 0, 0]
    array([0., 1., 0.])
    """
    x, y, z = np.asarray(axis, np.float64)
    k = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    phi = np.deg2rad(np.asarray(angle, np.float64))[..., None, None]
    return np.eye(3) + np.sin(phi) * k + (1.0 - np.cos(phi)) * (k @ k)


def _turning(here: Array, there: Array) -> Array:
    """Smallest rotation that takes unit vector ``here`` to unit vector ``there``."""
    axis = np.cross(here, there)
    sine, cosine = float(np.linalg.norm(axis)), float(here @ there)
    if sine < 1e-15:
        if cosine > 0:
            return np.eye(3)
        raise GeometryError("the model's beam runs upstream after the half turn about y")
    return rotation_about(axis / sine, math.degrees(math.atan2(sine, cosine)))
