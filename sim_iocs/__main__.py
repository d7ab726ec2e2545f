"""``python -m sim_iocs``: serve a simulated beamline on 127.0.0.1 until it is stopped."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import pwd
import re
import shlex
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from .camserver import MODELS
from .crystal import SHAPES
from .ioc import (
    FAULTS,
    FRAME_FAULTS,
    OTHER_FAULTS,
    Beamline,
    Options,
    PortTaken,
    client_environment,
    free_port,
    truth_of,
)
from .replay import Replay, ReplayRefused


def refuse(message: str) -> NoReturn:
    """Write in one line why nothing is served, and end with 2."""
    sys.stderr.write(f"sim_iocs: {message}\n")
    raise SystemExit(2)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("sim_iocs", description=__doc__)
    parser.add_argument(
        "--prefix", default="SIM:", help="prefix of every record (default %(default)s)"
    )
    parser.add_argument(
        "--port", type=int, default=0, help="port of the IOC; 0 picks a free one (default)"
    )
    parser.add_argument(
        "--motor-port",
        type=int,
        metavar="PORT",
        help="port of a second IOC, for the motors; 0 picks a free one",
    )
    parser.add_argument(
        "--clock",
        type=float,
        default=0.0,
        metavar="OFFSET",
        help="time by which the IOC's clock is ahead, s (default 0)",
    )
    parser.add_argument(
        "--motor-clock",
        type=float,
        metavar="OFFSET",
        help="the same for a second IOC, for the motors, s",
    )
    parser.add_argument(
        "--camserver-user",
        metavar="USER",
        help="user who owns camserver's files (for root only)",
    )
    parser.add_argument(
        "--detector", default="100K", help=f"size: {', '.join(SHAPES)} (default 100K)"
    )
    parser.add_argument(
        "--model",
        choices=tuple(MODELS),
        default="PILATUS3",
        help="generation, which sets readout and limits (default %(default)s)",
    )
    parser.add_argument(
        "--replay", metavar="DIR", help="folder of CBF files to serve instead of the model"
    )
    parser.add_argument(
        "--format",
        choices=("cbf", "tif"),
        help="format that FileTemplate is set to (default: empty, as in a fresh IOC)",
    )
    parser.add_argument(
        "--ready", metavar="FILE", type=Path, help="JSON file to write once it serves"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of all random numbers (default 0)"
    )
    parser.add_argument(
        "--temperature", type=float, default=300.0, help="temperature at the start, K"
    )
    parser.add_argument(
        "--acceleration",
        type=float,
        default=1.0,
        help="factor by which the cryostream's clock is faster (default 1)",
    )
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"frame of the next series: {', '.join(FRAME_FAULTS)}; or amount, from the "
        f"start: {', '.join(OTHER_FAULTS)}",
    )
    return parser.parse_args(arguments)


def checked(arguments: argparse.Namespace) -> Options:
    """Turn the command line into options, or refuse it by name."""
    if arguments.detector not in SHAPES:
        refuse(f"unknown detector size {arguments.detector!r}; it is one of {', '.join(SHAPES)}")
    if not 80.0 <= arguments.temperature <= 400.0:
        refuse(f"--temperature {arguments.temperature:g} K is outside 80 to 400 K")
    if not 0.0 < arguments.acceleration <= 10000.0:
        refuse(f"--acceleration {arguments.acceleration:g} is outside 0 to 10000")
    if arguments.camserver_user is not None:
        try:
            pwd.getpwnam(arguments.camserver_user)
        except KeyError:
            refuse(f"--camserver-user {arguments.camserver_user}: this host has no such user")
        if os.geteuid():
            refuse(f"--camserver-user {arguments.camserver_user}: only root can change the user")
    if arguments.ready is not None and not arguments.ready.absolute().parent.is_dir():
        refuse(f"--ready {arguments.ready}: its folder does not exist")
    faults = {}
    for fault in arguments.fault:
        name, _, number = fault.partition("=")
        kind = r"\d+" if name in FRAME_FAULTS else r"\d+(\.\d+)?"
        if name not in FAULTS or not re.fullmatch(kind, number):
            refuse(f"--fault {fault!r} is not NAME=VALUE with a name of {', '.join(FAULTS)}")
        faults[name] = float(number)
    shape, n_files, detector = SHAPES[arguments.detector], None, arguments.detector
    if arguments.replay is not None:
        try:
            replay = Replay.open(Path(arguments.replay))
        except (ReplayRefused, OSError) as problem:
            refuse(str(problem))
        shape, n_files = replay.shape, len(replay.files)
        sizes = [name for name, size in SHAPES.items() if size == shape]
        detector = sizes[0] if sizes else f"{shape[0]} x {shape[1]}"
    return Options(
        prefix=arguments.prefix,
        port=arguments.port,
        detector=detector,
        shape=shape,
        replay=arguments.replay,
        n_files=n_files,
        seed=arguments.seed,
        acceleration=arguments.acceleration,
        temperature=arguments.temperature,
        faults=faults,
        ending=arguments.format,
        model=arguments.model,
        clock=arguments.clock,
        motor_clock=arguments.motor_clock,
        camserver_user=arguments.camserver_user,
    )


def write_ready(path: Path, content: dict[str, Any]) -> None:
    """Write the file at once, so that no reader sees half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(content, indent=1) + "\n")
    draft.replace(path)


async def serve(options: Options, ready: Path | None, motor_port: int | None) -> None:
    """Serve until a signal comes or the parent is gone."""
    port = free_port(options.port)
    if motor_port is not None:
        motor_port = free_port(motor_port, besides=port, option="--motor-port")
    environment = client_environment(port, motor_port)
    beamline = Beamline(options)

    async def announce() -> None:
        for name, value in environment.items():
            sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
        sys.stdout.flush()
        if ready is not None:
            write_ready(
                ready,
                {
                    "prefix": options.prefix,
                    "port": port,
                    "motor_port": motor_port,
                    "environment": environment,
                    "pid": os.getpid(),
                    "detector": {"model": beamline.model, "shape": list(options.shape)},
                    "shortest_period": beamline.camserver.shortest_period,
                    "truth": truth_of(options),
                },
            )

    serving = asyncio.create_task(beamline.serve(port=port, ready=announce, motor_port=motor_port))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    await asyncio.gather(serving, return_exceptions=False)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parsed = parse(arguments)
    options = checked(parsed)
    logging.basicConfig(level=logging.WARNING, format="sim_iocs: %(message)s")
    try:
        own = parsed.motor_port is not None or parsed.motor_clock is not None
        motor_port = (parsed.motor_port or 0) if own else None
        asyncio.run(serve(options, parsed.ready, motor_port))
    except PortTaken as problem:
        refuse(str(problem))
    except (asyncio.CancelledError, KeyboardInterrupt):
        pass


if __name__ == "__main__":
    main()
