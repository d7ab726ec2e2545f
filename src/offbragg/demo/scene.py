"""The scene of the demo: a simulated crystal whose truth is known, or real frames."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from offbragg.errors import ConfigError, FrameError
from offbragg.files import read_frame
from offbragg.files.model import Model
from offbragg.frame import Frame
from offbragg.geometry import Geometry
from offbragg.instrument import Axis, Panel
from offbragg.sample import Sample
from offbragg.sweep import Sweep

TEMPERATURES = (170.0, 156.0, 147.0, 140.0, 120.0, 90.0)  # through the simulated crystal's Tc, K
REPLAYED_AT = (170.0, 130.0, 90.0)  # the frames are the same at each, K
FRAMES, STEP = 60, 1.0  # of the sweep at each temperature; degree
PERIOD, READOUT = 0.1, 0.003  # s
_ZONES = 8  # Brillouin zones that are looked through for superlattice reflections, each way


@dataclass(frozen=True, slots=True)
class Scene:
    """What is measured: the crystal, the instrument, the sweeps."""

    sample: Sample
    geometry: Geometry
    sweeps: tuple[Sweep, ...]
    superlattice: np.ndarray  # hkl, shape (n, 3); n is 0 if it is unknown
    transition: float = 0.0  # K
    temperatures: tuple[float, ...] = TEMPERATURES
    beamstop: float = 0.0  # radius of its shadow, mm
    detector: Mapping[str, Any] = field(default_factory=dict)  # for [devices.pilatus]
    replayed: bool = False


def simulated_scene(truth: Mapping[str, Any]) -> Scene:
    """Return a sweep of the crystal that the simulator reports."""
    axis = truth["axes"][0]["name"]
    geometry = Geometry(
        wavelength=truth["wavelength"],
        panel=Panel(
            origin=tuple(truth["panel"]["origin_mm"]),
            fast=tuple(truth["panel"]["fast"]),
            slow=tuple(truth["panel"]["slow"]),
            pixel_size=_pair(truth["panel"]["pixel_mm"]),
            shape=tuple(truth["panel"]["shape"]),
        ),
        axes=tuple(Axis(a["name"], tuple(a["vector"]), a.get("angle", 0.0)) for a in truth["axes"]),
        scan_axis=axis,
    )
    crystal = truth["sample"]
    sample = Sample.from_dict(
        {
            "name": crystal["name"],
            "label": "crystal1",
            **{k: crystal[k] for k in ("formula", "space_group", "lattice", "UB") if k in crystal},
        }
    )
    sweep = Sweep(
        axis=axis,
        start=0.0,
        step=STEP,
        n_frames=FRAMES,
        exposure=PERIOD - READOUT,
        period=PERIOD,
    )
    zones = np.array(list(itertools.product(range(-_ZONES, _ZONES + 1), repeat=3)))
    superlattice = np.concatenate([zones + q for q in np.array(crystal["superlattice"])])
    return Scene(
        sample, geometry, (sweep,), superlattice, crystal["Tc"], beamstop=truth["beamstop_mm"]
    )


def replayed_scene(folder: Path, model: Path | None) -> Scene:
    """Return one sweep of as many frames as the folder has, with the geometry of the model.

    Raises
    ------
    ConfigError
        If the folder holds no CBF frames, one is broken, or the model is missing or wrong.
    """
    paths = sorted(folder.glob("*.cbf")) if folder.is_dir() else []
    if not paths:
        raise ConfigError(f"{folder} holds no *.cbf frames to replay\nChoose a folder that does.")
    if model is None:
        raise ConfigError(
            "frames do not say which axes rotated and where the panel is\n"
            "Pass their geometry as well: --model FILE (JSON, see how-to/replay)."
        )
    first = _check_frames(paths)
    geometry, sweep, known = Model.read(model).geometry(
        shape=first.shape, header=first.header, n_frames=len(paths), names=_simulated_names
    )
    sample = Sample.from_dict({"name": folder.resolve().name, "label": "replayed", **known})
    return Scene(
        sample, geometry, (sweep,), np.empty((0, 3)), temperatures=REPLAYED_AT,
        detector=_detector(first.header), replayed=True,
    )  # fmt: skip


def _simulated_names(n: int, scan: int) -> list[str]:
    """Return names of simulated axes that rotate in place of the model's."""
    names = [f"axis{i}" for i in range(n)]
    names[scan] = "omega"
    names[0 if scan else -1] = "phi" if n > 1 else names[-1]
    return names


def _check_frames(paths: Sequence[Path]) -> Frame:
    """Read every frame once, so that a damaged one is found before anything starts."""
    first: Frame | None = None
    for number, path in enumerate(paths):
        try:
            frame = read_frame(path, number=number)
        except FrameError as error:
            raise ConfigError(f"{path.name} cannot be replayed: {error}") from error
        first = first or frame
    assert first is not None
    return first


def _detector(header: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the detector that took the frames, as far as their header does."""
    known: dict[str, Any] = {}
    if "detector" in header:
        known["model"] = header["detector"].partition(",")[0]
    for key in ("sensor_material", "sensor_thickness"):
        if key in header:
            known[key] = header[key]
    return known


def _pair(value: float | Sequence[float]) -> tuple[float, float]:
    return (value, value) if isinstance(value, int | float) else (value[0], value[1])
