"""The RunEngine of a beamline: its journal, checks, watchdog and columns."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offbragg.beamline.build import find
from offbragg.beamline.config import Beamline
from offbragg.beamline.limits import check_start, lacking_room
from offbragg.beamline.watchdog import make_watchdog
from offbragg.errors import ConfigError
from offbragg.files.lock import lock
from offbragg.plans.messages import (
    ANNOUNCED_RUN,
    HANDLES_BEAM_LOSS,
    LACKING_ROOM,
    PAST_RUNS,
    PLAN_DEFAULTS,
    always,
)
from offbragg.plans.preprocessors import captioner, recorder
from offbragg.protocols import KeepsSpeed, as_a
from offbragg.sample import Sample

if TYPE_CHECKING:
    from bluesky import RunEngine
    from bluesky.suspenders import SuspenderBase
    from bluesky.utils import Msg

    from offbragg.plans.defaults import Defaults

log = logging.getLogger(__name__)


def make_run_engine(config: Beamline, devices: Mapping[str, Any], **options: Any) -> RunEngine:
    """Make a RunEngine that journals, checks every run before it opens, and records the beamline.

    Parameters
    ----------
    config, devices
        What `load` and `build_devices` gave.
    options
        More for ``bluesky.RunEngine``.
    """
    import bluesky
    import ophyd
    from bluesky.preprocessors import SupplementalData

    import offbragg
    from offbragg.alarms.board_file import ACQUISITION
    from offbragg.beamline.engine_report import report_engine
    from offbragg.callbacks.journal import Journal
    from offbragg.callbacks.past_runs import PastRuns, speeds_left
    from offbragg.files.abandoned import close_all_abandoned
    from offbragg.plans.meddling import noting_others
    from offbragg.plans.watch import answer_lacking_room, watched

    RE = bluesky.RunEngine(
        {},
        md_validator=lambda md: check_start(config, md),
        scan_id_source=scan_ids(config.paths.journal),
        **options,
    )
    RE.md.update(
        {
            "beamline_id": config.beamline_id,
            "versions": {
                "offbragg": offbragg.__version__,
                "bluesky": bluesky.__version__,
                "ophyd": ophyd.__version__,
            },
            **config.metadata,
        }
    )
    for run in close_all_abandoned(config.paths.journal).runs:
        log.warning("run %s had lost its RunEngine; its journal is closed", run)
    for name, (usual, left) in speeds_left(config.paths.journal).items():
        if axis := as_a(devices.get(name), KeepsSpeed):
            axis.mend_speed(usual, left=left)
    RE.subscribe(Journal(config.paths.journal))
    for command, function in {
        PAST_RUNS: PastRuns(config.paths.journal, config.paths.experiment),
        PLAN_DEFAULTS: always(plan_defaults(config, devices)),
        ANNOUNCED_RUN: checker(config, RE),
        LACKING_ROOM: answer_lacking_room(partial(lacking_room, config)),
        HANDLES_BEAM_LOSS: always(None),  # a suspender's preprocessor has read it on its way
    }.items():
        RE.register_command(command, function)
    columns = {
        name: (find(devices, column.signal, config=config), column.units)
        for name, column in config.per_frame.items()
    }
    watchdog = make_watchdog(config, side=ACQUISITION, is_paused=lambda: RE.state != "running")
    RE.subscribe(watchdog)
    RE.preprocessors.append(recorder(columns, devices))
    RE.preprocessors.append(noting_others(devices))
    RE.preprocessors.append(captioner(RE))
    RE.preprocessors.append(
        SupplementalData(baseline=[find(devices, name, config=config) for name in config.baseline])
    )
    RE.preprocessors.append(watched(watchdog))
    report_engine(RE, config, devices)
    return RE


def plan_defaults(config: Beamline, devices: Mapping[str, Any]) -> Defaults:
    """Make the `Defaults` of plans from [defaults].

    Raises
    ------
    ConfigError
        If a name there is that of no device.
    """
    from offbragg.callbacks.past_runs import PastRuns
    from offbragg.plans.defaults import Defaults

    def named(key: str, name: str) -> Any:
        if name not in devices:
            raise ConfigError(
                f"defaults.{key} is {name!r} in {config.file}: it must be one of the devices, "
                f"{', '.join(devices)}"
            )
        return devices[name]

    defaults = config.defaults.model_dump(exclude_none=True)
    flyers = tuple(named("flyers", name) for name in defaults.pop("flyers"))
    chosen = {key: named(key, name) for key, name in defaults.items()}
    past = PastRuns(config.paths.journal, config.paths.experiment).runs
    lacks = partial(lacking_room, config)
    return Defaults(devices, flyers=flyers, file=str(config.file), past=past, lacks=lacks, **chosen)


def install_suspender(
    RE: RunEngine, config: Beamline, devices: Mapping[str, Any]
) -> SuspenderBase | None:
    """Let plans wait while there is no beam, as [suspend] says; return the suspender, or None.

    It is bluesky's: ``RE.suspenders`` has it, ``RE.remove_suspender(…)`` takes it away.

    Parameters
    ----------
    RE
        The RunEngine.
    config, devices
        What `load` and `build_devices` gave.
    """
    from offbragg.plans.beam import BeamSuspender, self_test

    settings = config.suspend
    if settings is None:
        return None
    try:
        suspender = BeamSuspender(
            find(devices, settings.signal, config=config),
            settings.below,
            resume=settings.resume,
            wait=settings.wait,
            shutter=settings.shutter and find(devices, settings.shutter, config=config),
        )
    except ConfigError as error:
        raise ConfigError(f"suspend: {error}\nin [suspend] of {config.file}") from None
    part = self_test()
    if not part.active:
        raise ConfigError(f"suspend: plans would go on without beam\n{part}")
    RE.preprocessors.append(suspender.preprocessor)
    RE.install_suspender(suspender)
    return suspender


def checker(config: Beamline, RE: RunEngine) -> Callable[[Msg], Awaitable[None]]:
    """Make the command that refuses runs when a plan announces them, before it moves anything.

    Parameters
    ----------
    config
        What `load` gave.
    RE
        The RunEngine, for its own metadata as it is then.
    """

    async def check(msg: Msg) -> None:
        per_call = getattr(RE, "_metadata_per_call", {})  # of RE(plan, comment="…")
        check_start(config, {**RE.md, **msg.kwargs["start"], **per_call})

    return check


def scan_ids(directory: Path) -> Callable[[Mapping[str, Any]], int]:
    """Make a source of scan numbers that goes on after a restart.

    The last number is kept in ``<directory>/scan_id``; two processes never get the same one.
    """

    def next_id(_: Mapping[str, Any]) -> int:
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "scan_id").open("a+", encoding="ascii") as file:
            lock(file, wait=True)
            file.seek(0)
            text = file.read().strip()
            try:
                number = int(text or 0) + 1
            except ValueError:
                raise ConfigError(
                    f"{file.name} holds {text[:40]!r}, not the last scan's number\n"
                    "Write that number into it."
                ) from None
            file.seek(0)
            file.truncate()
            file.write(f"{number}\n")
            file.flush()
            os.fsync(file.fileno())
        return number

    return next_id


def sample(RE: RunEngine, /, **known: object) -> Sample:
    """Record which crystal is mounted: every run from now on has it in its start document.

    Parameters
    ----------
    RE
        The RunEngine.
    known
        name and label (they name folders); formula, composition, space_group, lattice (a, b, c in
        Å, alpha, beta, gamma in degree), UB (Å⁻¹ without 2π) as far as they are known.

    Raises
    ------
    MetadataError
        Naming the field that is wrong, unknown or missing; the sample stays what it was.
    """
    mounted = Sample.from_dict(known)
    RE.md["sample"] = mounted.to_dict()
    return mounted
