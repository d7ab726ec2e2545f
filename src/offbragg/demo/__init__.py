"""``offbragg demo``: a whole beamline on one machine, measured, catalogued and read.

It starts instruments, catalog and stacker as supervised child processes, runs the RunEngine itself,
and then does what a user at home does: search, slice and plot over HTTP. All its files are in one
folder.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
import tomllib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w
from rich.console import Console

from offbragg.beamline.build import build_devices, destroy_devices
from offbragg.beamline.config import Beamline, load, profile_directory
from offbragg.beamline.limits import make_paths
from offbragg.beamline.run_engine import make_run_engine, plan_defaults
from offbragg.catalog.one_time import describe_page
from offbragg.demo.look import Watch, look
from offbragg.demo.scene import TEMPERATURES, Scene, replayed_scene, simulated_scene
from offbragg.demo.volumes import Reduction, show_volumes
from offbragg.errors import ConfigError, DeviceError
from offbragg.host.children import Children
from offbragg.printable import PrintableFormatter

if TYPE_CHECKING:
    from bluesky import RunEngine

ACCELERATION = 240.0  # of the cooler's clock
SETTLE = {"window": 1.5, "dwell": 0.25}  # s; of the cooler's own time six minutes, and one


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
    """Run the whole demonstration; return a summary.

    Parameters
    ----------
    out
        Folder for all files, new or empty; by default a new one in the working directory.
    replay
        A folder of CBF frames that the simulated detector plays instead of its model.
    model
        Geometry, axes and angles of the replayed frames (JSON); needed with ``replay``.
    detector
        Size of the simulated Pilatus: 100K, 300K, 1M or 2M.
    file_format
        ``cbf`` or ``tif``.
    keep
        Keep everything running at the end, until Ctrl-C.
    quiet
        Print nothing.

    Raises
    ------
    ConfigError
        If a folder or file cannot be used, before anything is started.
    """
    began = time.monotonic()
    console = Console(stderr=True, quiet=quiet, highlight=False)
    scene = replayed_scene(replay, model) if replay is not None else None
    out = _fresh_folder(out)
    log = logging.FileHandler(out / "log" / "demo.log")
    log.setFormatter(PrintableFormatter(logging.BASIC_FORMAT))
    logging.basicConfig(handlers=[log], level=logging.INFO)
    logging.captureWarnings(True)  # as pyepics' of a slow answer, on a host that is busy
    console.print(f"[bold]offbragg demo[/bold] · all files go to {out}", soft_wrap=True)
    instruments = ["sim_iocs", "--port", "0", "--ready", str(out / "log" / "ioc.json")]
    instruments += ["--temperature", str(TEMPERATURES[0] + 5)]
    instruments += ["--acceleration", str(ACCELERATION)]
    if replay is not None:
        instruments += ["--replay", str(replay.resolve())]
    else:
        instruments += ["--detector", detector, "--format", file_format]

    with Children(out / "log") as children:
        console.print("starting simulated instruments, catalog and stacker …")
        # its start takes longest, and of the configuration it needs only what is known by now
        config = load(configure(out))
        make_paths(config)
        with_file = ["--beamline", str(config.file), "--with-parent", str(os.getpid())]
        ready = out / "log" / "catalog.json"
        children.start("serve", ["offbragg", "serve", *with_file, "--ready", str(ready)])
        children.start("ioc", instruments)
        page: dict[str, float] = {}
        announcing = threading.Thread(
            target=_announce_page, args=(children, ready, config, console, page), daemon=True
        )
        announcing.start()
        served = children.wait_for(out / "log" / "ioc.json")
        scene = scene or simulated_scene(served["truth"])
        config = load(
            configure(out, served, scene, file_format=file_format, port=config.catalog.port)
        )
        children.start("stack", ["offbragg", "stack", *with_file])
        reduction = None
        if not scene.replayed:  # which crystal it is, and where the beamstop, is known here only
            reduction = Reduction.prepare(scene, config.paths.experiment)
            children.start("live", ["offbragg", "live", *with_file, *reduction.options])

        children.wait_for(ready)  # its start uses both cores, which the first sweep needs
        with Watch(children, config, ready) as watch:
            uids = _measure(config, scene, console)
            result = look(config, scene, uids, children, console)
        if reduction is not None:
            shown = show_volumes(config, scene, reduction, result["runs"], children, console)
            result["pictures"] += shown.pop("pictures")
            result |= shown
        result["seen"] = watch.seen
        if "at" in page:
            result["page"] = {
                "address": f"{result['catalog']}/live", "seconds": round(page["at"] - began, 1)
            }  # fmt: skip
        result["seconds"] = round(time.monotonic() - began, 1)
        _summarise(result, console)
        if keep:
            console.print("\nEverything keeps running; Ctrl-C ends it.")
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    children.check()
                    time.sleep(0.5)
    return result


def _announce_page(
    children: Children, ready: Path, config: Beamline, console: Console, page: dict[str, float]
) -> None:
    """Print where the page is as soon as the catalog answers, and note when that was."""
    with contextlib.suppress(DeviceError):  # it ended: others report that
        url = children.wait_for(ready)["url"]
        page["at"] = time.monotonic()
        where = describe_page(
            config.paths.catalog, url, beamline=config.file, terminal=console.is_terminal
        )
        console.print(where, soft_wrap=True, markup=False)


def _measure(config: Beamline, scene: Scene, console: Console) -> tuple[str, ...]:
    """Run the temperature series with the RunEngine of this process."""
    from bluesky.utils import RunEngineInterrupted

    from offbragg.callbacks.progress import Bars, Rows
    from offbragg.plans.estimate import estimate
    from offbragg.plans.temperature import temperature_series

    devices = build_devices(config)
    RE = make_run_engine(config, devices, context_managers=[_AbortWhenInterrupted])
    RE.md["sample"] = scene.sample.to_dict()
    if scene.replayed:
        RE.md["replay"] = scene.sample.name  # its headers say where and when they were measured
    RE.waiting_hook = Bars(console)  # type: ignore[assignment]  # Bluesky infers None alone
    RE.subscribe(Rows(console))
    planned = estimate(scene.temperatures, scene.sweeps, defaults=plan_defaults(config, devices))
    console.print(f"measuring {planned}")
    try:
        done = RE(temperature_series(scene.temperatures, scene.sweeps))
    except RunEngineInterrupted:
        console.print("interrupted: the series was aborted; all frames taken are kept")
        raise KeyboardInterrupt from None
    finally:
        RE.waiting_hook = None
        destroy_devices(devices)
    assert isinstance(done, tuple)  # uids: it was not asked for a result
    return done


class _AbortWhenInterrupted:
    """While a plan runs, Ctrl-C and SIGTERM abort it cleanly: no one is there to resume it."""

    def __init__(self, RE: RunEngine) -> None:
        self._RE = RE
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._abort)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _abort(self, *_: object) -> None:
        # a handler runs in the thread that waits for the plan, so it must not wait
        threading.Thread(target=self._RE.abort, args=("interrupted",), daemon=True).start()


def _fresh_folder(out: Path | None) -> Path:
    if out is None:
        out = Path(f"offbragg-demo-{datetime.now():%Y%m%d-%H%M%S}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise ConfigError(f"{out} is not empty\nChoose a new or empty folder with --out.")
        (out / "log").mkdir()
    except OSError as error:
        raise ConfigError(f"{out} cannot be used: {error.strerror}") from error
    return out.resolve()


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def configure(
    out: Path,
    instruments: Mapping[str, Any] | None = None,
    scene: Scene | None = None,
    *,
    file_format: str = "cbf",
    port: int | None = None,
) -> Path:
    """Write the beamline.toml of this demo: the simulated one, with its ports and geometry.

    Before the instruments run it has all that the catalog's server needs.
    """
    content = tomllib.loads((profile_directory() / "beamline.toml").read_text())
    content["catalog"] = {"port": _free_port() if port is None else port}
    if instruments is not None and scene is not None:
        ioc = int(instruments["port"])
        content["channel_access"] = {
            "address_list": "127.0.0.1",
            "auto_address_list": False,
            "server_port": ioc,
            "repeater_port": ioc + 1,
            "max_array_bytes": 20_000_000,
        }
        content["devices"]["pilatus"] |= {
            "format": file_format,
            "trigger": "ext_trigger",  # by position compare: exact however busy this host is
            "model": instruments["detector"]["model"],
            **scene.detector,
        }
        content["devices"]["cryostream"]["settle"] |= SETTLE
        content["defaults"]["axis"] = scene.geometry.scan_axis
        content["geometry"] = scene.geometry.to_dict()
    path = out / "beamline.toml"
    part = out / ".beamline.toml"
    part.write_text(tomli_w.dumps(content))
    part.replace(path)  # the catalog's server may be reading it
    return path


def _summarise(result: Mapping[str, Any], console: Console) -> None:
    """Print where things are and what to type next."""
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
        console.print(f"search over HTTP, {what}: {number} run{'' if number == 1 else 's'}")
    for which, peak in result.get("superlattice", {}).items():
        console.print(
            f"superlattice {which} Tc, {peak['temperature']:g} K: {peak['counts']:g} ± "
            f"{peak['sigma']:g} counts in {peak['reflections']} reflections"
        )
    for volume in result.get("volumes", ()):
        console.print(
            f"S(Q) at {volume['temperature']:g} K: volume complete "
            f"{volume['seconds_after_last_frame']:.1f} s after the last frame"
        )
    if law := result.get("transition"):
        console.print(
            f"order parameter at ({', '.join(f'{x:g}' for x in law['at'])}): "
            f"Tc = {law['Tc']:.2f} ± {law['Tc_error']:.2f} K, "
            f"β = {law['beta']:.3f} ± {law['beta_error']:.3f}; the simulated crystal has "
            f"Tc = {result['simulated_Tc']:g} K"
        )
    for path in result["pictures"]:
        console.print(f"picture   {path}", soft_wrap=True)
    for run in result["runs"]:
        console.print(f"scan file {run['scan_file']}  ({run['temperature']:g} K)", soft_wrap=True)
    if page := result.get("page"):
        console.print(f"page      {page['address']}", soft_wrap=True)
    console.print(f"catalog   {result['catalog']}\nits key   {result['key_file']}", soft_wrap=True)
    console.print(
        "\nIn Python, while the catalog runs (--keep; or offbragg serve --beamline "
        f"{result['beamline']}):\n\n"
        "  import offbragg\n"
        "  from pathlib import Path\n"
        f"  key = Path('{result['key_file']}').read_text().strip()\n"
        f"  run = offbragg.connect('{result['catalog']}', key).latest()\n"
        "  run.frames[0]                  # one frame\n"
        "  run.table()                    # one row per frame\n"
        "  run.volume.plane('hk0.5')      # S(Q)\n",
        markup=False,
        soft_wrap=True,
    )
