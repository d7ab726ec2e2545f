"""S(Q) of the demo: volumes that grow while the crystal turns, their planes, and the transition."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from offbragg.beamline.config import Beamline
from offbragg.demo.scene import Scene
from offbragg.errors import ReductionError
from offbragg.files.scan_file import ScanFile
from offbragg.followers.live_volume import read_record
from offbragg.host.children import Children
from offbragg.reduction import Corrections
from offbragg.workflows.choices import Choices

PLANES = ("hk0", "hk0.5")
"""Bragg peaks, and the superlattice between them."""

CLOSE_TIMEOUT = 60.0  # of offbragg live after the last frame is in the catalog, s


@dataclass(frozen=True, slots=True)
class Reduction:
    """How the frames of the demo become volumes, live and afterwards.

    Parameters
    ----------
    mask
        File with the shadow of the beamstop.
    """

    mask: Path

    @classmethod
    def prepare(cls, scene: Scene, folder: Path) -> Reduction:
        """Write the mask, as a user does who has looked at a frame, where the catalog may read."""
        folder.mkdir(parents=True, exist_ok=True)
        mask = folder / "beamstop.npy"
        np.save(mask, shadow(scene))
        return cls(mask)

    @property
    def options(self) -> list[str]:
        """Of ``offbragg live``: the simulated sensor absorbs all photons, its air none."""
        return [
            "--symmetry", "auto", "--mask", str(self.mask), "--no-efficiency", "--no-air",
        ]  # fmt: skip

    @property
    def choices(self) -> Choices:
        """The same for `offbragg.workflows`."""
        return Choices(
            symmetry="auto", mask=self.mask, corrections=Corrections(efficiency=False, air=False)
        )


def shadow(scene: Scene) -> np.ndarray:
    """Return which pixels the beamstop covers, and those at its edge; shape (rows, columns)."""
    panel = scene.geometry.panel
    met = scene.geometry.direct_beam()
    rows, columns = (np.arange(n) + 0.5 for n in panel.shape)
    if met is None:
        return np.zeros(panel.shape, np.bool_)
    across, up = (columns - met[0]) * panel.pixel_size[0], (rows - met[1]) * panel.pixel_size[1]
    return np.hypot(across, up[:, None]) <= scene.beamstop + max(panel.pixel_size)


def show_volumes(
    config: Beamline,
    scene: Scene,
    reduction: Reduction,
    runs: Sequence[Mapping[str, Any]],
    children: Children,
    console: Console,
) -> dict[str, Any]:
    """Wait for the live volumes; draw planes of them and the order parameter.

    Parameters
    ----------
    config, scene, reduction
        What was measured, and how it is reduced.
    runs
        Of `look`: temperature and scan file of each.
    children
        ``live`` is one of them.
    console
        For progress.

    Returns
    -------
    result
        ``volumes``, ``transition``, and more ``pictures``.
    """
    console.print("waiting for the live volumes …")
    volumes = [_closed(run, children) for run in runs]
    console.print("drawing S(Q) and fitting the order parameter …")
    out = config.file.parent
    by_temperature = {each["temperature"]: Path(each["file"]) for each in volumes}
    pictures = draw_planes(by_temperature, scene, out)
    transition, picture = _fit(scene, reduction, runs, out)
    return {
        "volumes": volumes,
        "transition": transition,
        "simulated_Tc": scene.transition,
        "pictures": [str(path) for path in [*pictures, picture]],
    }


def _closed(run: Mapping[str, Any], children: Children) -> dict[str, Any]:
    """Wait until the volume of a sweep is complete."""
    scan_file = Path(run["scan_file"])
    path = scan_file.with_name(f"live-{scan_file.name}")
    deadline = time.monotonic() + CLOSE_TIMEOUT
    while (record := read_record(path)) is None:
        children.check()
        if time.monotonic() > deadline:
            raise ReductionError(
                f"the live volume {path} was not complete {CLOSE_TIMEOUT:g} s after its last "
                f"frame was in the catalog\nSee {children.log('live')}; "
                "offbragg reduce makes it from the scan file, which is complete."
            )
        time.sleep(0.1)
    with ScanFile.open(scan_file) as scan:
        exposed = float(np.nanmax(scan.frame_values()["time"])) + scan.sweep.exposure
    return {
        "temperature": run["temperature"],
        "file": str(path),
        "frames": sum(each.frames for each in record.inputs),
        # a file is closed when it takes the place of the one that grew, which changes its inode
        "seconds_after_last_frame": round(path.stat().st_ctime - exposed, 2),
    }


def draw_planes(volumes: Mapping[float, Path], scene: Scene, out: Path) -> list[Path]:
    """Draw each plane above and below the transition, side by side and alone, in one scale.

    Returns
    -------
    pictures
        Paths, for each plane the one with both first.
    """
    from offbragg.plots.planes import compare, plot

    ends = [max(volumes), min(volumes)]
    pictures: list[Path] = []
    for plane in PLANES:
        both = out / f"{scene.sample.name}-{plane}.png"
        figure: Any = compare([volumes[kelvin] for kelvin in ends], plane, out=both)
        low, high = figure.axes[0].collections[0].get_clim()
        pictures.append(both)
        for kelvin in ends:
            alone = out / f"{scene.sample.name}-{kelvin:g}K-{plane}.png"
            plot(volumes[kelvin], plane, low=low, high=high, out=alone)
            pictures.append(alone)
    return pictures


def _fit(
    scene: Scene, reduction: Reduction, runs: Sequence[Mapping[str, Any]], out: Path
) -> tuple[dict[str, Any], Path]:
    """Follow a superlattice point over temperature; return the law and its picture."""
    from offbragg.plots.transition import draw
    from offbragg.workflows.order_parameter import find_sweeps, order_parameter

    point = tuple(float(x) for x in scene.superlattice[np.argmin(_length(scene.superlattice))])
    at = (abs(point[0]), abs(point[1]), abs(point[2]))
    sweeps = find_sweeps([run["scan_file"] for run in runs])
    found = order_parameter(sweeps, at, choices=reduction.choices)
    picture = out / f"{scene.sample.name}-order-parameter.png"
    draw(found, picture)
    keys = ("at", "Tc", "Tc_error", "beta", "beta_error")
    law = found.to_dict()
    return {"temperatures": len(found.fits)} | {key: law[key] for key in keys}, picture


def _length(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points, axis=1)
