"""One process that serves a whole simulated beamline over Channel Access on 127.0.0.1.

Besides the instruments it serves its own records under ``sim:``

``drop``, ``flip``, ``truncate``, ``late`` (by ``late_seconds``), ``hang``
    The frame (from 0) of the next series of more than one image that is not written, has one bit of
    its pixels flipped, is cut in half, comes late, or is the last thing camserver does. −1 is none;
    a fault is used up by the series that it hits.
``message``
    Why the simulator refused something last.
``acceleration``, ``sample_temperature``
    How much faster than real the cryostream's clock runs; the true temperature of the sample.
``angles``
    Where the axis ``compare_axis`` truly was when each frame of the last series began.
``compare_axis``, ``compare_start``, ``compare_step``
    The position compare unit: in TriggerMode "Ext. Trigger" the series begins exactly when the axis
    passes ``compare_start``; in "Mult. Trigger" frame i begins at ``compare_start`` + i ·
    ``compare_step``.
``frame_seconds``, ``shortest_period``
    How long this host needs for a frame of this size, and the period from which on a series is
    taken.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from caproto.asyncio.server import Context
from caproto.server import common

from .beam import Counter, Ring, Shutter
from .camserver import Camserver, Faults
from .cryostream import Cryostream
from .crystal import AXES, truth
from .motor import Motor
from .pilatus import Pilatus
from .records import Records

HOST = "127.0.0.1"
READBACK = 0.1  # s

log = logging.getLogger(__name__)


class PortTaken(Exception):  # noqa: N818
    """The port that was asked for is in use."""


def free_port(asked: int = 0) -> int:
    """Find a port that is free for TCP and UDP, with its neighbour for the repeater."""
    for _ in range(100):
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as repeater,
        ):
            try:
                tcp.bind((HOST, asked))
                port = tcp.getsockname()[1]
                udp.bind((HOST, port))
                repeater.bind((HOST, port + 1))
            except (OSError, OverflowError):
                if asked:
                    raise PortTaken(
                        f"port {asked} of {HOST} is taken (--port 0 picks one)"
                    ) from None
                continue
            return port
    raise PortTaken(f"no free port on {HOST}")


def client_environment(port: int) -> dict[str, str]:
    """Tell what must be in a client's environment before it imports a Channel Access library."""
    return {
        "EPICS_CA_ADDR_LIST": HOST,
        "EPICS_CA_AUTO_ADDR_LIST": "NO",
        "EPICS_CA_SERVER_PORT": str(port),
        "EPICS_CA_REPEATER_PORT": str(port + 1),
        "EPICS_CA_MAX_ARRAY_BYTES": "20000000",
    }


class Server(Context):
    """caproto's server on one port of 127.0.0.1; its beacons go to its own repeater only."""

    def __init__(self, records: Mapping[str, Any], port: int) -> None:
        super().__init__(dict(records), [HOST])
        # caproto gathers monitors for 10 ms, and completions of puts overtake them
        common.HIGH_LOAD_TIMEOUT = 0.001
        self.ca_server_port = port
        self.repeater = Repeater()

    async def tcp_handler(self, client: Any, addr: Any) -> None:
        """Answer at once: asyncio leaves Nagle's 40 ms in sockets that name no protocol."""
        connection = client.writer.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await super().tcp_handler(client, addr)

    async def broadcast_beacon_loop(self) -> NoReturn:
        """Beacon at 20 ms, then ever slower, to the clients that registered."""
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(
            lambda: self.repeater, local_addr=(HOST, self.ca_server_port + 1)
        )
        pause, number = 0.02, 0
        while True:
            self.repeater.beacon(self.ca_server_port, number)
            await asyncio.sleep(pause)
            pause, number = min(2.0 * pause, 15.0), number + 1


class Repeater(asyncio.DatagramProtocol):
    """The few messages of a Channel Access repeater that clients look for on the port above.

    Without one, every client tries to start the ``caRepeater`` program and says that it cannot.
    """

    HEADER = struct.Struct(">HHHHII")
    REGISTER, CONFIRM, BEACON, MINOR_VERSION = 24, 17, 13, 13
    LOOPBACK = 0x7F000001

    def __init__(self) -> None:
        self._clients: set[tuple[str, int]] = set()
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        """Keep the way to answer."""
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Register a client; an empty datagram is an old way to ask."""
        command = self.HEADER.unpack_from(data)[0] if len(data) >= self.HEADER.size else 0
        if self._transport is not None and (not data or command == self.REGISTER):
            self._clients.add(addr)
            self._transport.sendto(self.HEADER.pack(self.CONFIRM, 0, 0, 0, 0, self.LOOPBACK), addr)

    def beacon(self, port: int, number: int) -> None:
        """Tell every client that the server is alive."""
        message = self.HEADER.pack(self.BEACON, 0, self.MINOR_VERSION, port, number, self.LOOPBACK)
        for client in self._clients:
            if self._transport is not None:
                self._transport.sendto(message, client)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for."""

    prefix: str = "SIM:"
    port: int = 0
    detector: str = "100K"
    shape: tuple[int, int] = (195, 487)
    replay: str | None = None
    n_files: int | None = None
    seed: int = 0
    acceleration: float = 1.0
    temperature: float = 300.0
    faults: Mapping[str, int] | None = None
    ending: str = "cbf"


class Beamline:
    """All instruments, wired to each other, under one prefix."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.own = Records(
            {
                "message": {"record": "waveform", "type": "char", "count": 512},
                "drop": {"record": "longout", "type": "long", "value": -1},
                "flip": {"record": "longout", "type": "long", "value": -1},
                "truncate": {"record": "longout", "type": "long", "value": -1},
                "late": {"record": "longout", "type": "long", "value": -1},
                "late_seconds": {"record": "ao", "type": "double", "units": "s", "precision": 2,
                                 "value": 2.0},
                "hang": {"record": "longout", "type": "long", "value": -1},
                "acceleration": {"record": "ao", "type": "double", "precision": 1,
                                 "value": options.acceleration},
                "sample_temperature": {"record": "ai", "type": "double", "units": "K",
                                       "precision": 3, "value": options.temperature},
                "angles": {"record": "waveform", "type": "double", "count": 65536,
                           "units": "degrees"},
                "frame_seconds": {"record": "ai", "type": "double", "units": "s", "precision": 4},
                "shortest_period": {"record": "ai", "type": "double", "units": "s",
                                    "precision": 4},
                "compare_axis": {"record": "mbbo", "type": "enum", "enums": list(AXES)},
                "compare_start": {"record": "ao", "type": "double", "units": "degrees",
                                  "precision": 4},
                "compare_step": {"record": "ao", "type": "double", "units": "degrees",
                                 "precision": 4},
            }
        )  # fmt: skip
        prefix, seed = options.prefix, options.seed
        self.ring, self.shutter, self.counter = Ring(), Shutter(), Counter(seed=seed)
        self.cryostream = Cryostream(
            temperature=options.temperature,
            acceleration=options.acceleration,
            seed=seed,
            report=self.report,
        )
        self.motors = {
            "phi": Motor(f"{prefix}phi", description="rotation", limits=(-400, 400), speed=20.0),
            "chi": Motor(f"{prefix}chi", description="tilt", limits=(-100, 100), speed=10.0),
            "omega": Motor(f"{prefix}omega", description="base", limits=(-180, 180), speed=20.0),
        }
        self._angles: list[float] = []
        self.model = f"PILATUS3 {options.detector}"
        self.faults = Faults(**(options.faults or {}))
        self.camserver = Camserver(
            self,
            {
                "detector": options.detector,
                "seed": seed,
                "replay": options.replay,
                "model": self.model,
            },
        )
        self.pilatus = Pilatus(
            self.camserver,
            shape=options.shape,
            model=self.model,
            faults=self.faults,
            report=self.report,
            n_files=options.n_files,
            ending=options.ending,
        )
        for name in ("drop", "flip", "truncate", "late", "hang", "late_seconds"):
            self.own[name].on_put = self._fault(name)
        for name, value in (options.faults or {}).items():
            self.own[name]._data["value"] = value
        self.own["acceleration"].on_put = self._on_acceleration

    def records(self) -> dict[str, Any]:
        """Every record of the beamline under its full name."""
        prefix = self.options.prefix
        named = {
            **self.pilatus.records.named(f"{prefix}cam1:"),
            **self.cryostream.records.named(f"{prefix}cryo:"),
            **self.ring.records.named(f"{prefix}ring:"),
            **self.shutter.records.named(f"{prefix}shutter:"),
            **self.counter.records.named(f"{prefix}mcs:"),
            **self.own.named(f"{prefix}sim:"),
        }
        for motor in self.motors.values():
            named |= motor.records()
        return named

    async def report(self, message: str) -> None:
        """Put a refusal where a person looks for it."""
        log.warning("%s", message)
        await self.own.post(message=message[:511])

    def _fault(self, name: str) -> Callable[[Any], Awaitable[None]]:
        async def put(value: Any) -> None:
            setattr(self.faults, name, value)
            await self.own.post(**{name: value})

        return put

    async def _on_acceleration(self, value: float) -> None:
        self.cryostream.advance()
        self.cryostream.acceleration = min(max(value, 0.0), 10000.0)
        await self.own.post(acceleration=self.cryostream.acceleration)

    # -- what the detector sees ---------------------------------------------------------------

    def exposure(self, began: float, ended: float) -> dict[str, Any]:
        """Say what the sample and the beam were during an exposure."""
        self.cryostream.advance()
        return {
            "angles": [
                [self.motors[axis].position(moment) for axis in ("phi", "chi", "omega")]
                for moment in (began, ended)
            ],
            "seconds": ended - began,
            "temperature": self.cryostream.sample,
            "beam": self._beam(began, ended),
        }

    def _beam(self, began: float, ended: float) -> float:
        return self.ring.current(ended) / 100.0 * self.shutter.fraction(began, ended)

    async def gate(self, number: int, began: float, ended: float) -> None:
        """Count the monitor for one frame, and note the angle at which it truly began."""
        await self.counter.count((ended - began) * self._beam(began, ended))
        axis = self.own.value("compare_axis")
        self._angles.append(self.motors[axis].position(began))
        await self.own.post(angles=list(self._angles))

    def trigger(self, number: int, since: float) -> float | None:
        """Say when the position compare unit gives pulse ``number``, unless that was before."""
        motor = self.motors[self.own.value("compare_axis")]
        position = self.own.value("compare_start") + number * self.own.value("compare_step")
        moment = motor.when(position)
        return None if moment is None or moment < since else moment

    async def series_began(self) -> None:
        """Start a new list of angles; the faults of this series are taken."""
        self._angles = []
        for name in ("drop", "flip", "truncate", "late", "hang"):
            await self.own[name].post_if_new(getattr(self.faults, name))

    # -- life ---------------------------------------------------------------------------------

    async def serve(self, *, port: int, ready: Callable[[], Awaitable[None]]) -> None:
        """Serve until cancelled or until the process that started this one is gone."""
        parent = os.getppid()
        access = Server(self.records(), port)
        server = asyncio.create_task(access.run())
        try:
            await self.camserver.start()
            while access.port is None and not server.done():
                await asyncio.sleep(0.01)
            await self.own.post(
                frame_seconds=self.camserver.seconds,
                shortest_period=self.camserver.shortest_period,
            )
            await ready()
            while not server.done() and os.getppid() == parent:
                began = time.monotonic()
                await self.cryostream.update()
                await self.ring.update()
                await self.own.post(sample_temperature=self.cryostream.sample)
                await asyncio.sleep(max(READBACK - (time.monotonic() - began), 0.01))
            if server.done():
                server.result()
        finally:
            server.cancel()
            await asyncio.gather(server, return_exceptions=True)
            await self.camserver.stop()


def truth_of(options: Options) -> dict[str, Any]:
    """Tell what the simulation knows and a measurement should find."""
    if options.replay is not None:
        return {"replay": str(Path(options.replay).resolve()), "n_files": options.n_files}
    return truth(options.detector)
