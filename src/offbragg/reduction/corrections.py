"""What a pixel sees of the crystal: one function for each correction, with equation and source.

Each returns a factor per pixel, shape (slow, fast), by which the expected counts are multiplied.
None is ever applied to counts: their product, times the flux on a frame, is the weight that is
summed beside them. Directions are unit vectors ŝ from the crystal to the centre of each pixel, in
the laboratory frame (z along the beam, y up).

No Lorentz factor is applied. It stands for the time that a point of reciprocal space takes to cross
the Ewald sphere (Buerger, Proc. Natl Acad. Sci. 26, 637, 1940), and the weight of a cell *is* the
time that it was looked at, summed frame by frame.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import ReductionError
from offbragg.geometry import Geometry

Array = NDArray[np.float64]
Rays = tuple[Array, Array]

HC = 12.398419843320026  # keV Å

# Total mass attenuation μ/ρ in cm²/g over energy in keV: J. H. Hubbell & S. M. Seltzer, NISTIR 5632
# (1995), NIST Standard Reference Database 126. An edge is in it twice.
_SILICON = (
    (2.0, 2777.0), (3.0, 978.4), (4.0, 452.9), (5.0, 245.0), (6.0, 147.0), (8.0, 64.68),
    (10.0, 33.89), (15.0, 10.34), (20.0, 4.464), (30.0, 1.436), (40.0, 0.7012), (50.0, 0.4385),
    (60.0, 0.3207), (80.0, 0.2228), (100.0, 0.1835), (150.0, 0.1448), (200.0, 0.1275),
)  # fmt: skip
_CADMIUM_TELLURIDE = (
    (5.0, 839.2), (6.0, 528.6), (8.0, 249.2), (10.0, 138.1), (15.0, 46.57), (20.0, 21.44),
    (26.711, 9.834), (26.711, 29.43), (30.0, 21.82), (31.814, 18.73), (31.814, 34.92),
    (40.0, 19.30), (50.0, 10.67), (60.0, 6.542), (80.0, 3.019), (100.0, 1.671), (150.0, 0.6071),
    (200.0, 0.3246),
)  # fmt: skip
_AIR = (
    (4.0, 77.88), (5.0, 40.27), (6.0, 23.41), (8.0, 9.921), (10.0, 5.120), (15.0, 1.614),
    (20.0, 0.7779), (30.0, 0.3538), (40.0, 0.2485), (50.0, 0.2080), (60.0, 0.1875), (80.0, 0.1662),
    (100.0, 0.1541), (150.0, 0.1356), (200.0, 0.1233),
)  # fmt: skip
_MATERIALS = {"si": (_SILICON, 2.329), "cdte": (_CADMIUM_TELLURIDE, 5.85), "air": (_AIR, 1.205e-3)}
_ALIASES = {"silicon": "si", "cadmiumtelluride": "cdte", "cadmium telluride": "cdte"}


@dataclass(frozen=True, slots=True)
class Corrections:
    """Which corrections are applied, and their parameters.

    Parameters
    ----------
    solid_angle
        Of each pixel, sr: with it an intensity is per steradian.
    polarization
        Degree, −1 to 1; 1 is a beam polarised horizontally, 0 one that is not. None: no
        correction.
    efficiency
        Of the sensor; a ray at an angle crosses more of it. It needs material and thickness.
    air
        Absorption on the way from the crystal to the pixel.
    """

    solid_angle: bool = True
    polarization: float | None = 0.99
    efficiency: bool = True
    air: bool = True

    def __post_init__(self) -> None:
        degree = self.polarization
        if degree is not None and not -1 <= degree <= 1:
            raise ReductionError(f"polarization is {degree}: a degree from −1 to 1, or None")

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return asdict(self)

    def factor(self, geometry: Geometry, detector: Mapping[str, Any]) -> Array:
        """Return the product of all that are applied; the array cannot be written to.

        Parameters
        ----------
        geometry
            Beam, panel and goniometer.
        detector
            ``sensor_material`` and ``sensor_thickness`` (mm), if ``efficiency`` is wanted.

        Raises
        ------
        ReductionError
            If something that is needed is not known.
        """
        material, thickness = detector.get("sensor_material"), detector.get("sensor_thickness")
        if not self.efficiency:
            return _product(self, geometry, "", 0.0)
        if not material or not thickness:
            raise ReductionError(
                "the scan file does not say material and thickness of the sensor\n"
                "Without them its efficiency is not known: --no-efficiency"
            )
        return _product(self, geometry, str(material), float(thickness))


@lru_cache(maxsize=2)  # half a second for a Pilatus 2M, and asked for again while a sweep grows
def _product(
    corrections: Corrections, geometry: Geometry, material: str, thickness: float
) -> Array:
    total = np.ones(geometry.panel.shape)
    rays = directions(geometry)
    if corrections.solid_angle:
        total *= solid_angle(geometry, rays)
    if corrections.polarization is not None:
        total *= polarization(geometry, corrections.polarization, rays)
    if corrections.efficiency:
        total *= efficiency(geometry, material, thickness, rays)
    if corrections.air:
        total *= air_transmission(geometry, rays)
    total.flags.writeable = False
    return total


def directions(geometry: Geometry) -> Rays:
    """Return unit vectors to the pixels' centres and their distances, (slow, fast, 3) and mm."""
    rows, columns = geometry.panel.shape
    position = geometry.lab(np.arange(columns) + 0.5, (np.arange(rows) + 0.5)[:, None])
    x, y, z = np.moveaxis(position, -1, 0)
    distance = np.sqrt(x * x + y * y + z * z)
    return position / distance[..., None], distance


def solid_angle(geometry: Geometry, rays: Rays | None = None) -> Array:
    """Return the solid angle of each pixel: Ω = A |ŝ·n̂| / r², sr.

    A is the pixel's area, n̂ the panel's normal, r the distance (Boesecke & Diat, J. Appl. Cryst.
    30, 867, 1997, eq. 2). For a pixel of 0.172 mm at 100 mm it is exact to 3e-6.
    """
    s, r = rays or directions(geometry)
    across, down = geometry.panel.pixel_size
    return across * down * np.abs(s @ geometry.panel.normal) / r**2


def polarization(geometry: Geometry, degree: float, rays: Rays | None = None) -> Array:
    """Return the Thomson factor of a polarised beam: ½ [1 + cos²2θ − P cos 2η sin²2θ].

    η is the azimuth about the beam, from the horizontal (Kahn et al., J. Appl. Cryst. 15, 330,
    1982). With ŝ it is ½ [1 + ŝz² − P (ŝx² − ŝy²)].

    Parameters
    ----------
    geometry
        Beam, panel and goniometer.
    degree
        P: 1 if the electric field is horizontal (along x), −1 if it is vertical, 0 without
        polarisation.
    rays
        Of `directions`, if they were found before.
    """
    s, _ = rays or directions(geometry)
    x, y, z = np.moveaxis(s, -1, 0)
    return 0.5 * (1.0 + z**2 - degree * (x**2 - y**2))


def efficiency(
    geometry: Geometry, material: str, thickness: float, rays: Rays | None = None
) -> Array:
    """Return the part of the photons that the sensor absorbs: 1 − exp(−μ t / |ŝ·n̂|).

    A ray at an angle crosses more of it (Hülsen, Brönnimann & Eikenberry, Nucl. Instrum. Methods
    A 548, 540, 2005).

    Parameters
    ----------
    geometry
        Beam, panel and goniometer; its wavelength says the energy.
    material
        ``Si`` or ``CdTe``.
    thickness
        t, mm.
    rays
        Of `directions`, if they were found before.
    """
    s, _ = rays or directions(geometry)
    mu = attenuation(material, HC / geometry.wavelength)
    return -np.expm1(-mu * thickness / np.abs(s @ geometry.panel.normal))


def air_transmission(geometry: Geometry, rays: Rays | None = None) -> Array:
    """Return the part of the photons that air transmits from crystal to pixel: exp(−μ r)."""
    _, r = rays or directions(geometry)
    return np.exp(-attenuation("air", HC / geometry.wavelength) * r)


def attenuation(material: str, energy: float) -> float:
    """Return the linear attenuation μ of silicon, cadmium telluride or dry air at 20 °C.

    Interpolated linearly between the logarithms of NIST's values (see the source).

    Parameters
    ----------
    material
        ``Si``, ``CdTe`` or ``air``.
    energy
        keV.

    Returns
    -------
    mu
        mm⁻¹.

    Examples
    --------
    >>> round(attenuation("Si", 10.0), 3)
    7.893
    """
    name = material.strip().lower()
    name = _ALIASES.get(name, name)
    if name not in _MATERIALS:
        raise ReductionError(
            f"sensor material {material!r}: attenuation is known of Si, CdTe and air\n"
            "Leave the efficiency out: --no-efficiency"
        )
    table, density = _MATERIALS[name]
    energies, values = np.array(table).T
    if not energies[0] <= energy <= energies[-1]:
        raise ReductionError(
            f"attenuation of {material} is tabulated from {energies[0]:g} to {energies[-1]:g} keV, "
            f"not at {energy:.4g} keV: is the wavelength in Å?"
        )
    after = int(np.clip(np.searchsorted(energies, energy, side="right"), 1, len(energies) - 1))
    x = np.log(energies[after - 1 : after + 1])
    y = np.log(values[after - 1 : after + 1])
    part = 0.0 if x[1] == x[0] else (math.log(energy) - x[0]) / (x[1] - x[0])
    return float(np.exp(y[0] + part * (y[1] - y[0]))) * density / 10.0


def frame_weights(
    n_frames: int,
    monitor: Array | None,
    *,
    exposure: float,
    weight: Array | None = None,
    transmission: Array | None = None,
    use_monitor: bool = True,
    attenuation: float = 1.0,
) -> Array:
    """Return the flux on the crystal during each frame: what its counts are proportional to.

    Parameters
    ----------
    n_frames
        Number of frames.
    monitor
        Incident counts of each frame, behind the filters; NaN where not known.
    exposure
        s, used without a monitor.
    weight
        0 where there was no beam (the ledger's frame weights); NaN or None: there was.
    transmission
        Of the crystal during each frame, where it was recorded.
    use_monitor
        False: the flux is taken as constant.
    attenuation
        Factor by which filters weakened the beam, used without a monitor.

    Returns
    -------
    flux
        Monitor counts, or s; 0 for a frame that must not count, one without its monitor too.

    Raises
    ------
    ReductionError
        If the sweep has no monitor at all and the flux is not taken as constant.
    """
    if use_monitor:
        if monitor is None or not np.any(np.isfinite(monitor)):
            what = "no monitor" if monitor is None else "a monitor without one value"
            raise ReductionError(
                f"the sweep has {what}: its frames cannot be compared with each other\n"
                "If the flux was constant: --no-monitor"
            )
        flux = np.where(np.isfinite(monitor) & (monitor > 0), monitor, 0.0)
    else:
        flux = np.full(n_frames, exposure / attenuation)
    if transmission is not None and np.any(np.isfinite(transmission)):
        flux = flux * np.where(np.isfinite(transmission), np.maximum(transmission, 0.0), 0.0)
    if weight is not None:
        flux = np.where(weight == 0, 0.0, flux)
    return flux
