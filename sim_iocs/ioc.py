"""One process that serves a whole simulated beamline over Channel Access on 127.0.0.1.

Besides the instruments it serves its own records under ``sim:``

``drop``, ``flip``, ``truncate``, ``duplicate``, ``resize``, ``oversize``, ``late``, ``hang``
    The frame (from 0) of the next series of more than one image that is not written, has one bit of
    its pixels flipped, is cut in half, is the frame before once more, has a row too few, has a row
    too many, comes ``late_seconds`` late, or is the last thing camserver does. −1 is none; a fault
    is used up by the series that it hits.
``hiccup``
    From this frame (from 0) of the next series on nothing is written for ``late_seconds``; then all
    that waited comes at once. −1 is none.
``no7ok``
    1: camserver does not say that the next series is over.
``err``
    1: camserver answers the next exposure command with "ERR" and exposes nothing. The driver does
    not notice; only StringFromServer_RBV shows it.
``arming_seconds``
    Seconds from the exposure command to camserver's acknowledgement, at which the exposure begins.
    After 2 s the driver says Armed without it.
``arming_jitter``
    Armed comes 21 ms after the begin of the exposure (the driver reads once more and sleeps), and
    by chance between 0 and this many seconds later.
``prepare_seconds``
    How long each put of an acquisition parameter keeps the driver's port locked.
``shutter_seconds``
    How long after its put the shutter moves; the put completes then.
``camserver``
    "Gone": nothing answers the driver; "Running": it is back, and has forgotten all settings.
``threshold_seconds``
    How long setting a threshold takes.
``dump``
    The beam is lost for this many seconds, from now (with ``--fault``: from the next series) on.
``overshoot``, ``stuck``, ``noise``
    The next ramp overshoots by this many K; the gas sensor repeats its reading for this many
    seconds; standard deviation of its noise, K.
``silent``
    Channel Access sends nothing for this many seconds; the instruments go on.
``away``
    Channel Access drops every connection and takes none for this many seconds; the instruments go
    on.
``jitter``
    Standard deviation of every encoder and of the position compare unit, degrees.
``message``
    Why the simulator refused something last.
``acceleration``, ``sample_temperature``
    How much faster than real the cryostream's clock runs; the true temperature of the sample.
``angles``, ``true_angles``, ``exposure_times``
    Where the axis ``compare_axis`` truly was when each frame of the last series began, and where it
    was half a frame period later; when each exposure began (POSIX s, by the detector IOC's clock).
``compare_axis``, ``compare_start``, ``compare_step``
    The position compare unit: in TriggerMode "Ext. Trigger" the series begins exactly when the axis
    passes ``compare_start``; in "Mult. Trigger" frame i begins at ``compare_start`` + i ·
    ``compare_step``. A put to ``compare_start`` arms it: before the first one it gives no pulse.
``frame_seconds``, ``shortest_period``
    How long this host needs for a frame of this size, and the period from which on a series is
    taken.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import caproto as ca
import numpy as np
from caproto.asyncio.server import Context, VirtualCircuit
from caproto.server import common
from caproto.server.common import DisconnectedCircuit

from .beam import Attenuator, Counter, Ring, Shutter
from .camserver import Camserver, Faults
from .cryostream import Cryostream
from .crystal import AXES, truth
from .lakeshore import LakeShore
from .motor import Motor
from .pilatus import Pilatus
from .plugins import Plugins
from .records import MONITOR_TIME, Hook, Records
from .thermal import NOISE, Thermal

HOST = "127.0.0.1"
READBACK = 0.1  # s
PUT_CALLBACK_LIMIT = 60.0  # s, a second put-callback on a channel waits this long for the first
FRAME_FAULTS = (
    "drop", "flip", "truncate", "duplicate", "resize", "oversize", "late", "hang", "hiccup",
    "no7ok", "err",
)  # fmt: skip
OTHER_FAULTS = {"dump": "s", "overshoot": "K", "stuck": "s", "silent": "s", "away": "s",
                "jitter": "degrees", "noise": "K", "arming_seconds": "s", "arming_jitter": "s",
                "prepare_seconds": "s", "shutter_seconds": "s"}  # fmt: skip
WITNESSES = {"angles": "degrees", "true_angles": "degrees", "exposure_times": "s"}
LONGEST_DELAY = 60.0  # s
FAULTS = (*FRAME_FAULTS, *OTHER_FAULTS)

log = logging.getLogger(__name__)


class PortTaken(Exception):  # noqa: N818
    """The port that was asked for is in use."""


def free_port(asked: int = 0, *, besides: int | None = None, option: str = "--port") -> int:
    """Find a port that is free for TCP and UDP, with its neighbour for the repeater.

    ``besides`` is a port that is taken, with its neighbour, though nothing listens there yet.
    """
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
                        f"port {asked} of {HOST} is taken ({option} 0 picks one)"
                    ) from None
                continue
            if besides is not None and abs(port - besides) < 2:
                if asked:
                    raise PortTaken(f"port {asked} of {HOST} is taken by the first IOC")
                continue
            return port
    raise PortTaken(f"no free port on {HOST}")


def client_environment(port: int, motor_port: int | None = None) -> dict[str, str]:
    """Return what must be in a client's environment before it imports a Channel Access library."""
    addresses = HOST if motor_port is None else f"{HOST}:{port} {HOST}:{motor_port}"
    return {
        "EPICS_CA_ADDR_LIST": addresses,
        "EPICS_CA_AUTO_ADDR_LIST": "NO",
        "EPICS_CA_SERVER_PORT": str(port),
        "EPICS_CA_REPEATER_PORT": str(port + 1),
        "EPICS_CA_MAX_ARRAY_BYTES": "20000000",
    }


class Circuit(VirtualCircuit):
    """A client's connection, served as the server of EPICS base (rsrv) serves it.

    Commands are served in the order in which they come. A put is over when the record has taken it.
    A put-callback waits for the record's earlier ones. A second one on the same channel keeps the
    whole circuit waiting until the first has completed, or for a minute: then the first one fails.
    The circuit can be silent, too.
    """

    context: Any  # the server

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._put_callbacks: dict[int, asyncio.Task[None]] = {}
        self._given_up: set[asyncio.Task[None]] = set()

    async def send(self, *commands: Any) -> None:
        """Send, as soon as the server speaks."""
        await self.context.speaking.wait()
        await super().send(*commands)

    async def _process_command(self, command: Any) -> Any:
        if isinstance(command, ca.WriteNotifyRequest):
            await self._begin_put_callback(command)
            return []
        if isinstance(command, ca.WriteRequest):
            return await self._put(command)
        if isinstance(command, ca.ClearChannelRequest):
            self._cancel(self._put_callbacks.pop(command.sid, None))
        return await super()._process_command(command)

    async def _on_disconnect(self) -> None:
        for task in self._put_callbacks.values():
            self._cancel(task)
        self._put_callbacks.clear()
        await super()._on_disconnect()

    def _writable(self, record: Any) -> bool:
        access = record.check_access(self.client_hostname, self.client_username)
        return bool(access & ca.AccessRights.WRITE)

    async def _put(self, command: Any) -> list[Any]:
        """Put a value to the record, without waiting for completion."""
        channel, record = self._get_db_entry_from_command(command)
        status = ca.CAStatus.ECA_NOWTACCESS
        if self._writable(record):
            try:
                await record.put_by_client(command.data, command.data_type, command.metadata)
            except Exception as problem:
                log.info("%s did not take a put: %s", channel.name, problem)
                status = ca.CAStatus.ECA_PUTFAIL
            else:
                return []
        return [ca.ErrorResponse(command, channel.cid, status=status, error_message=channel.name)]

    async def _begin_put_callback(self, command: Any) -> None:
        channel, record = self._get_db_entry_from_command(command)
        if not self._writable(record):
            await self._answer(command, ca.CAStatus.ECA_NOWTACCESS)
            return
        earlier = self._put_callbacks.get(command.sid)
        if earlier is not None:
            await asyncio.wait([earlier], timeout=PUT_CALLBACK_LIMIT)
            if not earlier.done():
                log.warning("put call back time out: %s", channel.name)
                self._given_up.add(earlier)
                self._cancel(earlier)
        free = not record.common.put_callback.locked() and not record.processing
        taken = asyncio.Event()
        task = asyncio.create_task(self._put_callback(command, record, taken))
        self._put_callbacks[command.sid] = task
        if free:  # else it is taken when its turn comes
            await taken.wait()

    async def _put_callback(self, command: Any, record: Any, taken: asyncio.Event) -> None:
        """Put, wait for the completion, and answer."""
        status = ca.CAStatus.ECA_NORMAL
        try:
            async with record.common.put_callback:
                await record.until_free()
                completion = await record.put_by_client(
                    command.data, command.data_type, command.metadata
                )
                taken.set()
                if completion is not None:
                    await completion()
                await asyncio.sleep(MONITOR_TIME)
                # on a busy host that time is over before the monitors had their turn
                for _ in range(10):
                    await asyncio.sleep(0)
        except asyncio.CancelledError:
            if (own := asyncio.current_task()) not in self._given_up:
                raise
            self._given_up.discard(own)
            status = ca.CAStatus.ECA_PUTCBINPROG
        except Exception as problem:
            log.info("a put-callback failed: %s", problem)
            status = ca.CAStatus.ECA_PUTFAIL
        finally:
            taken.set()
        with suppress(DisconnectedCircuit):
            await self._answer(command, status)

    async def _answer(self, command: Any, status: ca.CAStatus) -> None:
        """Report to a client that its put-callback is complete."""
        channel, record = self._get_db_entry_from_command(command)
        await self.send(channel.write(ioid=command.ioid, status=status, data_count=record.length))

    @staticmethod
    def _cancel(task: asyncio.Task[None] | None) -> None:
        if task is not None:
            task.cancel()


class Server(Context):
    """caproto's server on one port of 127.0.0.1; its beacons go to its own repeater only."""

    CircuitClass = Circuit

    def __init__(
        self, records: Mapping[str, Any], port: int, repeater: Repeater | None = None
    ) -> None:
        super().__init__(dict(records), [HOST])
        # caproto gathers monitors for 10 ms, and completions of puts overtake them
        common.HIGH_LOAD_TIMEOUT = 0.001
        self.ca_server_port = port
        self._own_repeater = repeater is None
        self.repeater = Repeater() if repeater is None else repeater
        self.speaking = asyncio.Event()
        self.speaking.set()
        self._back = -math.inf

    def be_silent(self, seconds: float) -> None:
        """Send nothing for this time, s."""
        self.speaking.clear()
        asyncio.get_running_loop().call_later(seconds, self.speaking.set)

    async def be_away(self, seconds: float) -> None:
        """Drop every connection, and take none for this time, s."""
        self._back = time.monotonic() + seconds
        await asyncio.sleep(0.1)  # who asked for it is answered
        for circuit in list(self.circuits):
            circuit.client.close()
        await asyncio.sleep(seconds)
        self.repeater.beacon(self.ca_server_port, 0)

    @property
    def away(self) -> bool:
        """Whether connections are refused at present."""
        return time.monotonic() < self._back

    async def _broadcaster_queue_iteration(self, addr: Any, commands: Any) -> None:
        """Answer searches for records."""
        if not self.away:
            await super()._broadcaster_queue_iteration(addr, commands)

    async def tcp_handler(self, client: Any, addr: Any) -> None:
        """Answer at once: asyncio leaves Nagle's 40 ms in sockets that name no protocol."""
        if self.away:
            client.close()
            return
        connection = client.writer.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await super().tcp_handler(client, addr)

    async def broadcast_beacon_loop(self) -> NoReturn:
        """Beacon at 20 ms, then ever slower, to the clients that registered."""
        if self._own_repeater:
            await asyncio.get_running_loop().create_datagram_endpoint(
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
        """Send every client a sign that the server is alive."""
        message = self.HEADER.pack(self.BEACON, 0, self.MINOR_VERSION, port, number, self.LOOPBACK)
        for client in self._clients:
            if self._transport is not None:
                self._transport.sendto(message, client)


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the command line."""

    prefix: str = "SIM:"
    port: int = 0
    detector: str = "100K"
    shape: tuple[int, int] = (195, 487)
    replay: str | None = None
    n_files: int | None = None
    seed: int = 0
    acceleration: float = 1.0
    temperature: float = 300.0
    faults: Mapping[str, float] | None = None
    ending: str | None = None
    model: str = "PILATUS3"
    clock: float = 0.0
    """Time by which the clock of the detector's IOC is ahead of this host's, s."""
    motor_clock: float | None = None
    """The same of the motors' IOC; None: the motors have the detector's IOC."""
    camserver_user: str | None = None


class Beamline:
    """All instruments, wired to each other, under one prefix."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.own = Records(
            {
                "message": {"record": "waveform", "type": "char", "count": 512},
                **{name: {"record": "longout", "type": "long", "value": getattr(Faults(), name)}
                   for name in FRAME_FAULTS},
                **{name: {"record": "ao", "type": "double", "precision": 4, "units": unit}
                   for name, unit in OTHER_FAULTS.items()},
                "camserver": {"record": "bo", "type": "enum", "enums": ["Running", "Gone"]},
                "threshold_seconds": {"record": "ao", "type": "double", "units": "s",
                                      "precision": 2, "value": Pilatus.threshold_seconds},
                "late_seconds": {"record": "ao", "type": "double", "units": "s", "precision": 2,
                                 "value": 2.0},
                "acceleration": {"record": "ao", "type": "double", "precision": 1,
                                 "value": options.acceleration},
                "sample_temperature": {"record": "ai", "type": "double", "units": "K",
                                       "precision": 3, "value": options.temperature},
                **{name: {"record": "waveform", "type": "double", "count": 65536, "units": unit}
                   for name, unit in WITNESSES.items()},
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
        self.attenuator = Attenuator()
        self.thermal = Thermal(
            temperature=options.temperature, acceleration=options.acceleration, seed=seed
        )
        self.cryostream = Cryostream(self.thermal, report=self.report)
        self.lakeshore = LakeShore(self.thermal, report=self.report)
        self.motors = {
            "phi": Motor(f"{prefix}phi", description="rotation", limits=(-400, 400), speed=20.0),
            "chi": Motor(f"{prefix}chi", description="tilt", limits=(-100, 100), speed=10.0),
            "omega": Motor(f"{prefix}omega", description="base", limits=(-180, 180), speed=20.0),
            "detx": Motor(f"{prefix}detx", description="detector x", limits=(-20, 20), speed=5.0,
                          units="mm"),
            "dety": Motor(f"{prefix}dety", description="detector y", limits=(-20, 20), speed=5.0,
                          units="mm"),
        }  # fmt: skip
        self._seed = seed
        self._jitter = 0.0
        self._dump_at_series = 0.0
        self._servers: list[Server] = []
        self._witnessed: dict[str, list[float]] = {name: [] for name in WITNESSES}
        self._compare_armed: float | None = None  # when, monotonic s
        self.own["compare_start"].on_put = self._on_compare_start
        # Dectris writes "PILATUS 2M" for the second generation
        self.model = f"{options.model.removesuffix('2')} {options.detector}"
        given = options.faults or {}
        self.faults = Faults(**{k: int(v) for k, v in given.items() if k in FRAME_FAULTS})
        self.camserver = Camserver(
            self,
            {
                "detector": options.detector,
                "seed": seed,
                "replay": options.replay,
                "model": self.model,
                "generation": options.model,
                "user": options.camserver_user,
            },
        )
        self.plugins = Plugins(options.shape)
        self.pilatus = Pilatus(
            self.camserver,
            plugins=self.plugins,
            shape=options.shape,
            model=self.model,
            faults=self.faults,
            report=self.report,
            n_files=options.n_files,
            ending=options.ending,
            seed=seed,
        )
        for name in (*FRAME_FAULTS, "late_seconds"):
            self.own[name].on_put = self._fault(name)
        for name, hook in {
            "dump": self._on_dump, "overshoot": self._on_overshoot, "stuck": self._on_stuck,
            "silent": self._on_silent, "away": self._on_away, "jitter": self._on_jitter,
            "noise": self._on_noise,
            "camserver": self._on_camserver, "threshold_seconds": self._on_threshold_seconds,
            "acceleration": self._on_acceleration,
            "arming_seconds": self._delay("arming_seconds", self.pilatus),
            "arming_jitter": self._delay("arming_jitter", self.pilatus),
            "prepare_seconds": self._delay("prepare_seconds", self.pilatus),
            "shutter_seconds": self._delay("shutter_seconds", self.shutter, "seconds"),
        }.items():  # fmt: skip
            self.own[name].on_put = hook
        self.own["noise"].preset(NOISE)
        self.own["arming_jitter"].preset(self.pilatus.arming_jitter)
        for name in FRAME_FAULTS:
            self.own[name].preset(getattr(self.faults, name))

    def motor_records(self) -> dict[str, Any]:
        """Return the records of the motors under their full names."""
        return {k: v for motor in self.motors.values() for k, v in motor.records().items()}

    def records(self) -> dict[str, Any]:
        """Return every record but those of the motors under its full name."""
        prefix = self.options.prefix
        return {
            **self.pilatus.records.named(f"{prefix}cam1:"),
            **self.plugins.records(prefix),
            **self.cryostream.records.named(f"{prefix}cryo:"),
            **self.lakeshore.records.named(f"{prefix}ls:"),
            **self.attenuator.records.named(f"{prefix}atten:"),
            **self.ring.records.named(f"{prefix}ring:"),
            **self.shutter.records.named(f"{prefix}shutter:"),
            **self.counter.records.named(f"{prefix}mcs:"),
            **self.own.named(f"{prefix}sim:"),
        }

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
        self.thermal.advance()
        self.thermal.acceleration = min(max(value, 0.0), 10000.0)
        await self.own.post(acceleration=self.thermal.acceleration)

    async def _on_dump(self, seconds: float) -> None:
        await self.own.post(dump=seconds)
        await self.ring.dump(max(seconds, 0.0))

    async def _on_overshoot(self, kelvin: float) -> None:
        self.thermal.overshoot = kelvin
        await self.own.post(overshoot=kelvin)

    async def _on_stuck(self, seconds: float) -> None:
        self.thermal.stick(seconds)
        await self.own.post(stuck=seconds)

    async def _on_noise(self, kelvin: float) -> None:
        self.thermal.noise = max(kelvin, 0.0)
        await self.own.post(noise=self.thermal.noise)

    async def _on_silent(self, seconds: float) -> None:
        await self.own.post(silent=seconds)
        if seconds > 0.0:
            for server in self._servers:
                server.be_silent(seconds)

    async def _on_away(self, seconds: float) -> None:
        await self.own.post(away=seconds)
        if seconds > 0.0:
            self._absences = [
                asyncio.create_task(server.be_away(seconds)) for server in self._servers
            ]

    def _delay(self, name: str, part: Any, attribute: str = "") -> Hook:
        async def put(seconds: float) -> None:
            seconds = min(max(seconds, 0.0), LONGEST_DELAY)
            setattr(part, attribute or name, seconds)
            await self.own.post(**{name: seconds})

        return put

    async def _on_jitter(self, degrees: float) -> None:
        self._jitter = max(degrees, 0.0)
        for motor in self.motors.values():
            motor.jitter = self._jitter
        await self.own.post(jitter=self._jitter)

    async def _on_camserver(self, label: str) -> None:
        await self.own.post(camserver=label)
        if label == "Gone":
            self.camserver.leave()
        else:
            self.camserver.come_back()

    async def _on_threshold_seconds(self, seconds: float) -> None:
        self.pilatus.threshold_seconds = min(max(seconds, 0.0), 110.0)
        await self.own.post(threshold_seconds=self.pilatus.threshold_seconds)

    async def _apply_faults(self) -> None:
        """Start the faults of the command line that do not belong to a frame."""
        for name, value in (self.options.faults or {}).items():
            if name == "dump":
                self._dump_at_series = value
                await self.own.post(dump=value)
            elif name in OTHER_FAULTS:
                await self.own[name].on_put(value)

    async def _on_compare_start(self, value: float) -> None:
        self._compare_armed = time.monotonic()
        await self.own.post(compare_start=value)

    # -- what the detector sees ---------------------------------------------------------------

    def exposure(self, began: float, ended: float) -> dict[str, Any]:
        """Return what the sample and the beam were during an exposure."""
        self.thermal.advance()
        return {
            "angles": [
                [self.motors[axis].position(moment) for axis in ("phi", "chi", "omega")]
                for moment in (began, ended)
            ],
            "seconds": ended - began,
            "temperature": self.thermal.sample,
            "beam": self._beam(began, ended),
            "shift": [self.motors[axis].position(began) for axis in ("detx", "dety")],
        }

    def _beam(self, began: float, ended: float) -> float:
        current = 0.5 * (self.ring.current(began) + self.ring.current(ended))
        seen = self.shutter.fraction(began, ended) * self.attenuator.transmission
        return current / 100.0 * seen

    async def gate(self, number: int, began: float, ended: float, period: float) -> None:
        """Count the monitor for one frame, and note when and at which angle it truly was."""
        await self.counter.count((ended - began) * self._beam(began, ended))
        motor = self.motors[self.own.value("compare_axis")]
        seen = self._witnessed
        seen["angles"].append(motor.position(began))
        seen["true_angles"].append(motor.position(began + 0.5 * period))
        elapsed = time.monotonic() - began
        seen["exposure_times"].append(time.time() - elapsed + self.options.clock)
        await self.own.post(**{name: list(values) for name, values in seen.items()})

    def trigger(self, number: float, since: float) -> float | None:
        """Return when the position compare unit gives pulse ``number``, unless that was earlier."""
        if self._compare_armed is None:
            return None
        motor = self.motors[self.own.value("compare_axis")]
        position = self.own.value("compare_start") + number * self.own.value("compare_step")
        if self._jitter:
            rng = np.random.default_rng([self._seed, 29, round(1000 * number)])
            position += float(rng.normal(0.0, self._jitter))
        moment = motor.when(position)
        # where the axis was before the unit was armed, it gave no pulse
        return None if moment is None or moment < max(since, self._compare_armed) else moment

    async def series_began(self) -> None:
        """Start a new list of angles; the faults of this series are taken."""
        for values in self._witnessed.values():
            values.clear()
        for name in FRAME_FAULTS:
            await self.own[name].post_if_new(getattr(self.faults, name))
        if self._dump_at_series:
            seconds, self._dump_at_series = self._dump_at_series, 0.0
            await self.ring.dump(seconds)

    # -- life ---------------------------------------------------------------------------------

    def _open_servers(self, port: int, motor_port: int | None) -> list[Server]:
        """Make the detector's IOC, and one of the motors if they have their own."""
        records, motors = self.records(), self.motor_records()
        for record in records.values():
            record.common.clock_offset = self.options.clock
        for record in motors.values():
            own = self.options.motor_clock
            record.common.clock_offset = self.options.clock if own is None else own
        if motor_port is None:
            return [Server(records | motors, port)]
        first = Server(records, port)
        return [first, Server(motors, motor_port, first.repeater)]

    async def serve(
        self, *, port: int, ready: Callable[[], Awaitable[None]], motor_port: int | None = None
    ) -> None:
        """Serve until cancelled or until the process that started this one is gone."""
        parent = os.getppid()
        self._servers = self._open_servers(port, motor_port)
        server = asyncio.gather(*(access.run() for access in self._servers))
        try:
            await self.camserver.start()
            while any(access.port is None for access in self._servers) and not server.done():
                await asyncio.sleep(0.01)
            await self.own.post(
                frame_seconds=self.camserver.seconds(0.1),
                shortest_period=self.camserver.shortest_period,
            )
            await self._apply_faults()
            # the thousands of records stay: searching them for garbage keeps clients waiting 15 ms
            gc.collect()
            gc.freeze()
            await ready()
            while not server.done() and os.getppid() == parent:
                began = time.monotonic()
                await self.cryostream.update()
                await self.lakeshore.update()
                await self.ring.update()
                await self.own.post(sample_temperature=self.thermal.sample)
                await asyncio.sleep(max(READBACK - (time.monotonic() - began), 0.01))
            if server.done():
                server.result()
        finally:
            server.cancel()
            await asyncio.gather(server, return_exceptions=True)
            await self.plugins.stop()
            await self.camserver.stop()


def truth_of(options: Options) -> dict[str, Any]:
    """Return what the simulation knows and a measurement should find."""
    if options.replay is not None:
        return {"replay": str(Path(options.replay).resolve()), "n_files": options.n_files}
    return truth(options.detector)
