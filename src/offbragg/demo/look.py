"""What a remote user does, with Tiled over HTTP only: watch, search, slice, plot."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from offbragg.beamline.config import Beamline
from offbragg.demo.scene import Scene
from offbragg.errors import CatalogError, OffbraggError
from offbragg.geometry import Geometry
from offbragg.host.children import Children
from offbragg.sweep import Sweep

log = logging.getLogger(__name__)

CATCH_UP_TIMEOUT = 60.0  # of stacker and catalog after the last frame, s


class Watch(threading.Thread):
    """A remote user: reads the newest run over HTTP while it is measured."""

    def __init__(self, children: Children, config: Beamline, ready: Path) -> None:
        super().__init__(name="offbragg-demo-watch", daemon=True)
        self._children = children
        self._config = config
        self._ready = ready
        self._enough = threading.Event()
        self.seen: dict[str, list[tuple[float, int]]] = {}  # run → (s since its start, frames)

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self.join(10)

    def run(self) -> None:
        """Record how many frames can be read, and when, until the watch is left."""
        try:
            self._children.wait_for(self._ready, give_up=self._enough)
            runs = self._config.connect_catalog()
        except OffbraggError as error:
            log.error("%s", error)
            return
        while not self._enough.wait(0.5):
            try:
                run = runs.values().last()
                start = run.metadata["start"]
                image = _image(run)
                frames = image.shape[0]
                image[frames - 1]  # the newest frame, over the network, while it is new
            except (OffbraggError, LookupError, ValueError, OSError):
                continue  # no run yet, or none with frames
            history = self.seen.setdefault(start["uid"], [])
            if not history or history[-1][1] != frames:
                history.append((round(time.time() - start["time"], 2), frames))


def _image(run: Any) -> Any:
    """Return the array of frames of a run in the catalog."""
    primary = run["primary"]
    key = next(k for k, v in primary.metadata["data_keys"].items() if v.get("external"))
    return primary.base[key]


def look(
    config: Beamline, scene: Scene, uids: Sequence[str], children: Children, console: Console
) -> dict[str, Any]:
    """Do what a user does: find the runs, slice their frames, plot them; all over HTTP."""
    runs = config.connect_catalog()
    console.print("waiting for the last frame in the catalog …")
    finished = [_finished(runs, uid, children) for uid in uids]
    result: dict[str, Any] = {
        "out": str(config.file.parent),
        "beamline": str(config.file),
        "catalog": config.catalog_url,
        "key_file": str(config.key_file),
        "uids": list(uids),
        "runs": [_describe(run) for run in finished],
        "frames": {},
    }
    for status in ("stored", "missing", "rejected"):
        result["frames"][status] = sum(run["frames"][status] for run in result["runs"])
    result["found"] = _search(runs, scene, [run["temperature"] for run in result["runs"]])
    result["pictures"] = [str(path) for path in draw(finished, scene, config.file.parent, result)]
    return result


def _finished(runs: Any, uid: str, children: Children) -> Any:
    """Wait until a run has its stop document in the catalog."""
    deadline = time.monotonic() + CATCH_UP_TIMEOUT
    while time.monotonic() < deadline:
        children.check()
        with contextlib.suppress(LookupError):
            run = runs[uid]
            if run.metadata.get("stop"):
                return run
        time.sleep(0.2)
    raise CatalogError(
        f"run {uid} was not complete in the catalog after {CATCH_UP_TIMEOUT:g} s\n"
        f"See stack.log and serve.log in {children.logs}"
    )


def _describe(run: Any) -> dict[str, Any]:
    start, stop = run.metadata["start"], run.metadata["stop"]
    return {
        "uid": start["uid"],
        "scan_id": start["scan_id"],
        "temperature": start["temperature"]["setpoint"],
        "sweep": start["sweep"],
        "frames": stop["offbragg"]["frames"],
        "scan_file": stop["offbragg"]["scan_file"],
        "exit_status": stop["exit_status"],
    }


def _search(runs: Any, scene: Scene, temperatures: Sequence[float]) -> dict[str, int]:
    """Return how many runs a user finds by sample, and by sample and temperature."""
    from tiled.queries import Comparison, Key

    of_sample = runs.search(Key("sample.name") == scene.sample.name)
    coldest = min(temperatures)
    cold = of_sample.search(Comparison("le", "temperature.setpoint", coldest))
    return {f"sample {scene.sample.name}": len(of_sample), f"up to {coldest:g} K": len(cold)}


def draw(finished: Sequence[Any], scene: Scene, out: Path, result: dict[str, Any]) -> list[Path]:
    """Draw the first and the last temperature side by side, and the superlattice in both.

    Adds ``superlattice`` to the result: counts of its reflections in the warmest and the
    coldest runs.
    """
    from matplotlib.colors import LogNorm

    from offbragg.plots.figure import new_figure, save_figure

    by_temperature: dict[float, list[Any]] = {}
    for run in finished:
        kelvin = run.metadata["start"]["temperature"]["setpoint"]
        by_temperature.setdefault(kelvin, []).append(run)
    ends = {"above": max(by_temperature), "below": min(by_temperature)}
    peaks = {
        which: [(run, peak) for run in by_temperature[kelvin] for peak in _peaks(run, scene)]
        for which, kelvin in ends.items()
    }

    pictures = []
    for which, kelvin in ends.items():
        run = by_temperature[kelvin][0]
        frames = np.asarray(_image(run)[:])
        figure = new_figure(10, 9 * frames.shape[1] / frames.shape[2] + 1)
        axes: Any = figure.add_subplot()
        brightest = frames.max(axis=0)
        shown = axes.imshow(
            np.where(brightest < 0, np.nan, np.maximum(brightest, 0.5)),
            norm=LogNorm(0.5, max(float(brightest.max()), 10.0)),
            cmap="magma",
        )
        for of_run, peak in peaks[which]:
            if of_run is run:
                _, row, column = peak.where
                axes.plot(column, row, "o", mfc="none", mec="cyan", ms=14)
        axes.set_title(
            f"{scene.sample.name}, {kelvin:g} K: brightest of {len(frames)} frames at each pixel"
            + ("\ncircles: superlattice reflections" if len(scene.superlattice) else "")
        )
        axes.set_xlabel("column")
        axes.set_ylabel("row")
        figure.colorbar(shown, ax=axes, label="counts", pad=0.01)
        path = out / f"{scene.sample.name}-{kelvin:g}K.png"
        save_figure(figure, path, dpi=100)
        pictures.append(path)

    if len(scene.superlattice):
        result["superlattice"] = {
            which: _total(kelvin, [peak for _, peak in peaks[which]])
            for which, kelvin in ends.items()
        }
        pictures.append(_draw_peaks(peaks, ends, scene, out))
    return pictures


def _peaks(run: Any, scene: Scene) -> list[Peak]:
    if not len(scene.superlattice):
        return []
    sweep = Sweep.from_dict(run.metadata["start"]["sweep"])
    UB = np.asarray(scene.sample.UB)
    return measure_peaks(
        _image(run), scene.superlattice, geometry=scene.geometry, UB=UB, sweep=sweep
    )


def _total(kelvin: float, peaks: Sequence[Peak]) -> dict[str, float | int]:
    return {
        "temperature": kelvin,
        "reflections": len(peaks),
        "counts": round(sum(peak.counts for peak in peaks), 1),
        "sigma": round(float(np.sqrt(sum(peak.sigma**2 for peak in peaks))), 1),
    }


def _draw_peaks(
    peaks: Mapping[str, Sequence[tuple[Any, Peak]]],
    ends: Mapping[str, float],
    scene: Scene,
    out: Path,
) -> Path:
    """Draw cut-outs of the same superlattice reflections above and below the transition."""
    from offbragg.plots.figure import new_figure, save_figure

    strongest = sorted(peaks["below"], key=lambda item: -item[1].counts)[:5]
    figure = new_figure(2.2 * max(len(strongest), 1), 5.4)
    grid: Any = figure.subplots(2, max(len(strongest), 1), squeeze=False)
    for column, (cold_run, peak) in enumerate(strongest):
        frame, row, col = peak.where
        start = Sweep.from_dict(cold_run.metadata["start"]["sweep"]).start
        warm_run = next(
            run
            for run, _ in peaks["above"]
            if Sweep.from_dict(run.metadata["start"]["sweep"]).start == start
        )
        scale = None
        for line, run in ((1, cold_run), (0, warm_run)):
            cut = np.asarray(
                _image(run)[frame - 2 : frame + 3, row - 15 : row + 16, col - 15 : col + 16]
            )
            counts = np.where(cut < 0, 0, cut).sum(axis=0)
            scale = scale or max(float(counts.max()), 1.0)
            axes = grid[line][column]
            axes.imshow(counts, vmin=0, vmax=scale, cmap="magma")
            axes.set_xticks([])
            axes.set_yticks([])
            kelvin = ends["below" if line else "above"]
            hkl = " ".join(f"{index:g}" for index in peak.hkl)
            axes.set_title(f"({hkl})\n{kelvin:g} K", fontsize=9)
    figure.suptitle(f"{scene.sample.name}: counts about the same reflections, in one scale each")
    path = out / f"{scene.sample.name}-superlattice.png"
    save_figure(figure, path, dpi=120)
    return path


@dataclass(frozen=True, slots=True)
class Peak:
    """Counts of one reflection in one sweep, in a box about where it was predicted."""

    hkl: tuple[float, float, float]
    counts: float  # above the background
    sigma: float
    where: tuple[int, int, int]  # frame, row, column


def measure_peaks(
    image: Any,
    hkl: np.ndarray,
    *,
    geometry: Geometry,
    UB: np.ndarray,
    sweep: Sweep,
    box: tuple[int, int, int] = (3, 5, 5),
) -> list[Peak]:
    """Sum counts around predicted reflections, reading only their boxes.

    Parameters
    ----------
    image
        Array of frames that can be sliced (frame, row, column), here or over HTTP.
    hkl
        Reflections, r.l.u., shape (n, 3).
    geometry, UB, sweep
        Where they come from.
    box
        Half the size of the inner box (frames, rows, columns); the rim about it, as wide again,
        gives the background (see `_background`).
    """
    found = []
    crossings = geometry.predict(hkl, UB, sweep)
    size = np.array(image.shape)
    for x, y, z, which in zip(*crossings, strict=True):
        centre = np.floor([z, y, x]).astype(int)
        low, high = centre - 2 * np.array(box), centre + 2 * np.array(box) + 1
        if np.any(low < 0) or np.any(high > size):
            continue
        counts = np.asarray(image[tuple(slice(a, b) for a, b in zip(low, high, strict=True))])
        if np.any(counts < 0):
            continue  # a gap, a bad pixel or a missing frame
        inner = tuple(slice(b, 3 * b + 1) for b in box)
        total = float(counts[inner].sum())
        background, spread = _background(counts, inner)
        reflection = hkl[which]
        found.append(
            Peak(
                (float(reflection[0]), float(reflection[1]), float(reflection[2])),
                total - background,
                float(np.sqrt(max(total, 1.0) + spread)),
                (int(centre[0]), int(centre[1]), int(centre[2])),
            )
        )
    return found


def _background(counts: np.ndarray, inner: tuple[slice, ...]) -> tuple[float, float]:
    """Estimate the background under a peak: counts in its box, and their variance.

    A polynomial of second order is fitted to the rim, because thermal diffuse scattering is
    concave where superlattice peaks are, and a mean of the rim would be too high.
    """
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in counts.shape), indexing="ij")
    terms = [np.ones(counts.shape), *axes]
    terms += [axes[i] * axes[j] for i in range(3) for j in range(i, 3)]
    design = np.stack(terms, axis=-1)
    rim = np.ones(counts.shape, bool)
    rim[inner] = False
    fit = np.linalg.lstsq(design[rim], counts[rim].astype(float), rcond=None)[0]
    weights = design[inner].reshape(-1, len(terms)).sum(axis=0)
    covariance = np.linalg.inv(design[rim].T @ design[rim]) * max(counts[rim].mean(), 1e-3)
    return float(weights @ fit), float(weights @ covariance @ weights)
