"""``offbragg demo``: a whole beamline on one machine, measured, catalogued and looked at.

It starts what a beamline has (instruments, catalog, stacker) as supervised child processes,
runs the RunEngine itself, and then does what a user at home does: search, slice and plot over
HTTP. Everything it makes lies in one folder.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from rich.console import Console

from offbragg.beamline import (
    Beamline,
    build_devices,
    load,
    make_paths,
    make_run_engine,
    profile_directory,
)
from offbragg.errors import CatalogError, ConfigError, DeviceError, FrameError, OffbraggError
from offbragg.files import read_frame
from offbragg.geometry import Axis, Geometry, Panel
from offbragg.sample import Sample
from offbragg.sweep import Sweep

log = logging.getLogger(__name__)

START_TIMEOUT = 120.0  # for each child to serve, s; a cold catalog takes 10 to 25
CATCH_UP_TIMEOUT = 60.0  # for stacker and catalog after the last frame, s

TEMPERATURES = (170.0, 130.0, 90.0)  # through the simulated crystal's Tc, K
SWEEPS, FRAMES, STEP = 2, 60, 0.5  # at each temperature; frames; degree
PERIOD, READOUT = 0.1, 0.003  # s
_ZONES = 8  # Brillouin zones that are looked through for superlattice reflections, each way


@dataclass
class Children:
    """Child processes that are watched while they are needed and ended together."""

    logs: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Children:
        signal.signal(signal.SIGTERM, _interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self, name: str, arguments: Sequence[str]) -> None:
        """Start ``python -m`` with these arguments, its output in a log of its name."""
        with (self.logs / f"{name}.log").open("ab") as log_file:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours to pass on, in our order
            )

    def check(self) -> None:
        """Raise if a child has ended by itself, with the last it said."""
        for name, child in self.running.items():
            if child.poll() is not None:
                said = (self.logs / f"{name}.log").read_text(errors="replace").strip()
                raise DeviceError(
                    f"the {name} process ended by itself (exit code {child.returncode})\n"
                    + "\n".join(said.splitlines()[-5:])
                )

    def wait_for(self, ready: Path, *, timeout: float = START_TIMEOUT) -> dict[str, Any]:
        """Wait until a child has written its ready file; return what it says."""
        deadline = time.monotonic() + timeout
        while not ready.exists():
            self.check()
            if time.monotonic() > deadline:
                raise DeviceError(
                    f"{ready.name} was not there after {timeout:g} s\nSee the logs in {self.logs}"
                )
            time.sleep(0.05)
        return json.loads(ready.read_text())

    def end(self) -> None:
        """Ask every child to end, the last one first; kill those that do not."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave one behind
        for child in reversed(self.running.values()):
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child in reversed(self.running.values()):
            try:
                child.wait(timeout=15)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.running.clear()


@dataclass(frozen=True, slots=True)
class Scene:
    """What is measured: the crystal, the instrument, the sweeps."""

    sample: Sample
    geometry: Geometry
    sweeps: tuple[Sweep, ...]
    superlattice: np.ndarray  # hkl, shape (n, 3); n is 0 where nothing is known of it
    transition: float = 0.0  # K


def simulated_scene(truth: Mapping[str, Any]) -> Scene:
    """Two sweeps that follow each other, of the crystal that the simulator says it has."""
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
    sweeps = tuple(
        Sweep(
            axis=axis,
            start=i * FRAMES * STEP,
            step=STEP,
            n_frames=FRAMES,
            exposure=PERIOD - READOUT,
            period=PERIOD,
        )
        for i in range(SWEEPS)
    )
    zones = np.array(list(itertools.product(range(-_ZONES, _ZONES + 1), repeat=3)))
    superlattice = np.concatenate([zones + q for q in np.array(crystal["superlattice"])])
    return Scene(sample, geometry, sweeps, superlattice, crystal["Tc"])


def replayed_scene(folder: Path, model: Path | None) -> Scene:
    """One sweep as long as the folder has frames, with the geometry that the model gives.

    Raises
    ------
    ConfigError
        If the folder holds no CBF frames, one is broken, or the model is missing or wrong.
    """
    paths = sorted(folder.glob("*.cbf")) if folder.is_dir() else []
    if not paths:
        raise ConfigError(f"{folder} holds no *.cbf frames to replay\nGive a folder that does.")
    if model is None:
        raise ConfigError(
            "frames do not say which axes turned and where the panel stands\n"
            "Give their geometry as well: --model FILE (JSON, see how-to/replay)."
        )
    try:
        first = read_frame(paths[0], number=0)
    except FrameError as error:
        raise ConfigError(f"{paths[0].name} cannot be replayed: {error}") from error
    try:
        told = json.loads(model.read_text())
        scan = told["goniometer"]["scan_axis"]
        names = [f"axis{i}" for i in range(len(told["goniometer"]["axes"]))]
        names[scan] = "omega"
        names[0 if scan else -1] = "phi" if len(names) > 1 else names[-1]
        geometry, UB = Geometry.from_model(told, shape=first.counts.shape, names=names)
        sweep = Sweep(
            axis="omega",
            start=told["goniometer"]["start_deg"],
            step=told["goniometer"]["step_deg"],
            n_frames=len(paths),
            exposure=PERIOD - READOUT,
            period=PERIOD,
        )
        known = {"lattice": told["cell"], "UB": UB.tolist()}
    except OSError as error:
        raise ConfigError(f"{model} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{model} is no model of a sweep: {error!r}") from error
    sample = Sample.from_dict({"name": folder.resolve().name, "label": "replayed", **known})
    return Scene(sample, geometry, (sweep,), np.empty((0, 3)))


def _pair(value: Any) -> tuple[float, float]:
    return (value, value) if isinstance(value, int | float) else (value[0], value[1])


def _fresh_folder(out: Path | None) -> Path:
    if out is None:
        out = Path(f"offbragg-demo-{datetime.now():%Y%m%d-%H%M%S}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise ConfigError(f"{out} is not empty\nGive --out a folder that is new or empty.")
        (out / "log").mkdir()
    except OSError as error:
        raise ConfigError(f"{out} cannot be used: {error.strerror}") from error
    return out.resolve()


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def _configure(out: Path, instruments: Mapping[str, Any], scene: Scene, file_format: str) -> Path:
    """Write the beamline.toml of this demo: the simulated one, with its ports and geometry."""
    content = tomllib.loads((profile_directory() / "beamline.toml").read_text())
    port = int(instruments["port"])
    content["channel_access"] = {
        "address_list": "127.0.0.1",
        "auto_address_list": False,
        "server_port": port,
        "repeater_port": port + 1,
        "max_array_bytes": 20_000_000,
    }
    content["catalog"] = {"port": _free_port()}
    content["devices"]["pilatus"]["format"] = file_format
    content["geometry"] = scene.geometry.to_dict()
    path = out / "beamline.toml"
    path.write_text(tomli_w.dumps(content))
    return path


class Watch(threading.Thread):
    """A user elsewhere: reads the newest run over HTTP while it is measured."""

    def __init__(self, children: Children, config: Beamline, ready: Path) -> None:
        super().__init__(name="offbragg-demo-watch", daemon=True)
        self._children = children
        self._config = config
        self._ready = ready
        self._enough = threading.Event()
        self._seen: dict[str, list[tuple[float, int]]] = {}

    def run(self) -> None:
        """Note how many frames can be read, and when, until told that it is enough."""
        try:
            self._children.wait_for(self._ready)
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
            history = self._seen.setdefault(start["uid"], [])
            if not history or history[-1][1] != frames:
                history.append((round(time.time() - start["time"], 2), frames))

    def end(self) -> dict[str, list[tuple[float, int]]]:
        """Stop, and give for each run how many frames could be read at which time (s)."""
        self._enough.set()
        self.join(10)
        return self._seen


def _image(run: Any) -> Any:
    """Return the array of frames of a run in the catalog."""
    primary = run["primary"]
    key = next(k for k, v in primary.metadata["data_keys"].items() if v.get("external"))
    return primary.base[key]


@dataclass(frozen=True, slots=True)
class Peak:
    """Counts of one reflection in one sweep, in a box about where it was predicted."""

    hkl: tuple[float, float, float]
    counts: float  # above the background of the box's rim
    sigma: float
    where: tuple[int, int, int]  # frame, row, column


def measure_peaks(
    image: Any,
    hkl: Sequence[Sequence[float]],
    *,
    geometry: Geometry,
    UB: np.ndarray,
    sweep: Sweep,
    box: tuple[int, int, int] = (3, 5, 5),
) -> list[Peak]:
    """Sum counts about predicted reflections, reading only their boxes.

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
        gives the background.
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
        rim = np.ones(counts.shape, bool)
        rim[inner] = False
        n_inner, n_rim = counts[inner].size, int(rim.sum())
        background = counts[rim].sum() * n_inner / n_rim
        total = counts[inner].sum()
        sigma = float(np.sqrt(total + background * n_inner / n_rim))
        reflection = np.asarray(hkl)[which]
        found.append(
            Peak(
                (float(reflection[0]), float(reflection[1]), float(reflection[2])),
                float(total - background),
                max(sigma, 1.0),
                (int(centre[0]), int(centre[1]), int(centre[2])),
            )
        )
    return found


def run_demo(
    *,
    out: Path | None = None,
    replay: Path | None = None,
    model: Path | None = None,
    detector: str = "100K",
    file_format: str = "cbf",
    keep: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Run the whole demonstration; return what it made and saw.

    Parameters
    ----------
    out
        Where all of it goes: a folder that is new or empty. Left out, a fresh one is made here.
    replay
        A folder of CBF frames that the simulated detector plays instead of its model.
    model
        Geometry, axes and angles of the replayed frames (JSON); needed with ``replay``.
    detector
        Size of the simulated Pilatus: 100K, 300K, 1M or 2M.
    file_format
        ``cbf`` or ``tif``.
    keep
        Leave everything up at the end, until Ctrl-C.
    quiet
        Say nothing on the way.

    Raises
    ------
    ConfigError
        If a folder or file cannot be used, before anything is started.
    """
    began = time.monotonic()
    console = Console(stderr=True, quiet=quiet, highlight=False)
    scene = replayed_scene(replay, model) if replay is not None else None
    out = _fresh_folder(out)
    console.print(f"[bold]offbragg demo[/bold] · everything it makes goes to {out}")
    instruments = ["sim_iocs", "--port", "0", "--ready", str(out / "log" / "ioc.json")]
    instruments += ["--temperature", str(TEMPERATURES[0] + 5), "--acceleration", "60"]
    if replay is not None:
        instruments += ["--replay", str(replay.resolve())]
    else:
        instruments += ["--detector", detector, "--format", file_format]

    with Children(out / "log") as children:
        console.print("starting simulated instruments, catalog and stacker …")
        children.start("ioc", instruments)
        served = children.wait_for(out / "log" / "ioc.json")
        scene = scene or simulated_scene(served["truth"])
        config = load(_configure(out, served, scene, file_format))
        make_paths(config)
        with_file = ["--beamline", str(config.file), "--with-parent"]
        ready = out / "log" / "catalog.json"
        children.start("serve", ["offbragg", "serve", *with_file, "--ready", str(ready)])
        children.start("stack", ["offbragg", "stack", *with_file])

        watch = Watch(children, config, ready)
        uids = _measure(config, scene, watch, console)
        result = _look(config, scene, uids, children, console)
        result["seen"] = watch.end()
        result["seconds"] = round(time.monotonic() - began, 1)
        _tell(result, console)
        if keep:
            console.print("\nAll of it stays up; Ctrl-C ends it.")
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    children.check()
                    time.sleep(0.5)
    return result


def _measure(config: Beamline, scene: Scene, watch: Watch, console: Console) -> tuple[str, ...]:
    """Run the temperature series with the RunEngine of this process."""
    from offbragg.callbacks.progress import Bars, Rows
    from offbragg.plans.rotation import estimate
    from offbragg.plans.temperature import temperature_series

    devices = build_devices(config)
    RE = make_run_engine(config, devices, context_managers=[])
    RE.md["sample"] = scene.sample.to_dict()
    RE.waiting_hook = Bars(console)
    RE.subscribe(Rows(console))
    detector, axis = devices["pilatus"], devices[scene.geometry.scan_axis]
    planned = estimate(*scene.sweeps, detector=detector, axis=axis, temperatures=TEMPERATURES)
    console.print(f"measuring {planned}")
    watch.start()
    try:
        done = RE(
            temperature_series(
                detector,
                axis,
                devices["cryostream"],
                TEMPERATURES,
                scene.sweeps,
                flyers=[devices["monitor"]],
                shutter=devices["shutter"],
            )
        )
    except KeyboardInterrupt:
        if not RE.state.is_idle:
            RE.abort("interrupted")
        raise
    finally:
        RE.waiting_hook = None
    return tuple(done)


def _look(
    config: Beamline, scene: Scene, uids: Sequence[str], children: Children, console: Console
) -> dict[str, Any]:
    """Do what a user does: find the runs, slice their frames, plot them; all over HTTP."""
    runs = config.connect_catalog()
    console.print("waiting until the last frame is in the catalog …")
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
    result["found"] = _search(runs, scene)
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


def _search(runs: Any, scene: Scene) -> dict[str, int]:
    """How many runs a user finds by sample, and by sample and temperature."""
    from tiled.queries import Comparison, Key

    of_sample = runs.search(Key("sample.name") == scene.sample.name)
    coldest = min(TEMPERATURES)
    cold = of_sample.search(Comparison("le", "temperature.setpoint", coldest))
    return {f"sample {scene.sample.name}": len(of_sample), f"up to {coldest:g} K": len(cold)}


def draw(finished: Sequence[Any], scene: Scene, out: Path, result: dict[str, Any]) -> list[Path]:
    """Draw the first and the last temperature side by side, and the superlattice in both.

    Adds ``superlattice`` to the result: counts of its reflections in the warmest and the
    coldest runs.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

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
        figure = Figure(figsize=(10, 10 * frames.shape[1] / frames.shape[2] + 1), dpi=120)
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
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
            + ("; circles: superlattice reflections" if len(scene.superlattice) else "")
        )
        axes.set_xlabel("column")
        axes.set_ylabel("row")
        figure.colorbar(shown, ax=axes, label="counts", shrink=0.8)
        path = out / f"{scene.sample.name}-{kelvin:g}K.png"
        figure.savefig(path, bbox_inches="tight")
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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    strongest = sorted(peaks["below"], key=lambda item: -item[1].counts)[:5]
    figure = Figure(figsize=(2.2 * max(len(strongest), 1), 5.4), dpi=120)
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, max(len(strongest), 1), squeeze=False)
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
    figure.suptitle(f"{scene.sample.name}: superlattice, Tc = {scene.transition:g} K")
    path = out / f"{scene.sample.name}-superlattice.png"
    figure.savefig(path, bbox_inches="tight")
    return path


def _tell(result: Mapping[str, Any], console: Console) -> None:
    """Say where things are and what to type next."""
    frames = result["frames"]
    console.print(
        f"\n{len(result['runs'])} runs, {frames['stored']} frames stored, "
        f"{frames['missing']} missing, {frames['rejected']} rejected, in {result['seconds']} s"
    )
    mid_sweep = [history for history in result["seen"].values() if len(history) > 1]
    for history in mid_sweep[:1]:
        growth = ", ".join(f"{n} at {t:g} s" for t, n in history)
        console.print(f"a reader over HTTP saw one sweep grow: {growth}")
    for what, number in result["found"].items():
        console.print(f"search over HTTP, {what}: {number} runs")
    for which, peak in result.get("superlattice", {}).items():
        console.print(
            f"superlattice {which} Tc, {peak['temperature']:g} K: {peak['counts']:g} ± "
            f"{peak['sigma']:g} counts in {peak['reflections']} reflections"
        )
    for path in result["pictures"]:
        console.print(f"picture   {path}")
    for run in result["runs"]:
        console.print(f"scan file {run['scan_file']}  ({run['temperature']:g} K)")
    console.print(f"catalog   {result['catalog']}\nits key   {result['key_file']}")
    console.print(
        "\nIn Python, while it is up (--keep; or offbragg serve --beamline "
        f"{result['beamline']}):\n\n"
        "  from pathlib import Path\n"
        "  from tiled.client import from_uri\n"
        f"  key = Path('{result['key_file']}').read_text().strip()\n"
        f"  runs = from_uri('{result['catalog']}', api_key=key)['raw']\n"
        "  run = runs.values().last()\n"
        "  run['primary']['pilatus_image'][0]           # one frame\n"
        "  runs.v1[-1].table()                           # one row per frame\n",
        markup=False,
        soft_wrap=True,
    )


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
