"""A motor record whose position is an analytic function of time.

A move is a trapezoid: from rest at ``VBAS``, up to ``VELO`` in ``ACCL`` seconds, and down again the
same way. So a detector can ask where the axis was at any moment of an exposure, to the last digit.

As in the real record (motorRecord.cc), all fields have one time stamp, that of the last time that
the record processed: when a field is put that makes it process, and at each poll of a motion. A put
to VAL posts DMOV = 0 *before* the record processes, so that event has a stamp of whenever it did so
last. VELO, ACCL and VBAS do not make it process. A put-callback on any field waits for the one that
the record is busy with, so ``STOP`` and ``SPMG`` take effect at once only by a plain put.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import caproto as ca

from .records import Common, Completion, Number, Records, make_record, read_table

READBACK_PERIOD = 0.1  # s, the poll of a motor controller

# what the record's definition marks SPC_NOMOD: no client can write it
READ_ONLY = (
    "VERS", "CARD", "RHLM", "RLLM", "HLS", "LLS", "RHLS", "RLLS", "RCNT", "MISS", "LSPG", "LVAL",
    "LDVL", "LRVL", "LRLV", "RBV", "DRBV", "DIFF", "RDIF", "CDIR", "RRBV", "RMP", "REP", "RVEL",
    "DMOV", "MOVN", "MSTA", "LVIO", "TDIR", "ATHM", "PP", "MIP", "MMAP", "NMAP", "CBAK", "ALST",
    "MLST", "NAME", "RTYP", "STAT", "SEVR", "PACT", "LCNT", "UDF", "TIME",
)  # fmt: skip

# MSTA bits
POSITIVE, DONE, MOVING, HOMED = 1, 2, 1024, 128


@dataclass(frozen=True, slots=True)
class Move:
    """One motion along a trapezoid of speed.

    Times are monotonic seconds, positions degrees (dial), speeds degrees per second.
    """

    began: float
    start: float
    end: float
    speed: float
    base: float
    acceleration: float  # s from base to speed

    @property
    def _phases(self) -> tuple[float, float, float, float]:
        """Peak speed, ramp seconds, ramp length, cruise seconds."""
        length = abs(self.end - self.start)
        base = min(self.base, self.speed)
        ramp = self.acceleration
        ramp_length = 0.5 * (base + self.speed) * ramp
        if 2.0 * ramp_length <= length:
            return self.speed, ramp, ramp_length, (length - 2.0 * ramp_length) / self.speed
        # too short to reach full speed: same slope, lower peak
        slope = (self.speed - base) / ramp
        peak = math.sqrt(base * base + slope * length)
        ramp = (peak - base) / slope
        return peak, ramp, length / 2.0, 0.0

    @property
    def duration(self) -> float:
        """Seconds from the first step to the last."""
        if self.start == self.end:
            return 0.0
        _, ramp, _, cruise = self._phases
        return 2.0 * ramp + cruise

    def position(self, moment: float) -> float:
        """Degrees at a moment."""
        t = moment - self.began
        if t <= 0.0 or self.start == self.end:
            return self.start if t <= 0.0 else self.end
        peak, ramp, ramp_length, cruise = self._phases
        base = min(self.base, self.speed)
        sign = math.copysign(1.0, self.end - self.start)
        if ramp > 0.0 and t < ramp:
            gone = base * t + 0.5 * (peak - base) / ramp * t * t
        elif t < ramp + cruise:
            gone = ramp_length + peak * (t - ramp)
        elif t < 2.0 * ramp + cruise:
            left = 2.0 * ramp + cruise - t
            gone = abs(self.end - self.start) - (
                base * left + 0.5 * (peak - base) / ramp * left * left
            )
        else:
            return self.end
        return self.start + sign * gone

    def velocity(self, moment: float) -> float:
        """Signed degrees per second at a moment."""
        t = moment - self.began
        if t <= 0.0 or t >= self.duration:
            return 0.0
        peak, ramp, _, cruise = self._phases
        base = min(self.base, self.speed)
        if t < ramp:
            speed = base + (peak - base) * t / ramp
        elif t < ramp + cruise:
            speed = peak
        else:
            speed = base + (peak - base) * (2.0 * ramp + cruise - t) / ramp
        return math.copysign(speed, self.end - self.start)

    def when(self, position: float) -> float | None:
        """Find the moment at which the move passes a position, or None if it never does."""
        low, high = sorted((self.start, self.end))
        if not low <= position <= high or self.start == self.end:
            return None
        early, late = self.began, self.began + self.duration
        for _ in range(60):
            middle = 0.5 * (early + late)
            past = (self.position(middle) - position) * (self.end - self.start) >= 0.0
            early, late = (early, middle) if past else (middle, late)
        return late


class Motor:
    """An EPICS motor record with the fields that clients use alive, the others as fresh values."""

    def __init__(
        self,
        name: str,
        *,
        description: str,
        limits: tuple[float, float],
        speed: float,
        acceleration: float = 0.2,
        position: float = 0.0,
        units: str = "degrees",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        rows = read_table("motor.json")
        for row in rows.values():
            if row.get("units", "").startswith("degrees"):
                row["units"] = row["units"].replace("degrees", units)
        rows["VAL"] |= {"low": limits[0], "high": limits[1]}
        rows |= {"RTYP": {"type": "string", "value": "motor"}}
        self.fields = Records({key: row for key, row in rows.items() if key != "VAL"})
        self.value: Number = make_record(rows["VAL"] | {"record": "motor"})
        self.value.field_records = _Fields(self.fields)
        self.name = name
        self._clock = clock
        self._moves: deque[Move] = deque(maxlen=64)
        self._moves.append(Move(clock(), position, position, speed, 0.0, acceleration))
        self.jitter = 0.0
        """Standard deviation of the encoder's reading."""
        self.common = Common(stamped_by_posts=False)
        for record in (self.value, *(self.fields[key] for key in self.fields)):
            record.common = self.common
        for key in READ_ONLY:
            if key in self.fields:
                self.fields[key].writable = False
        self._task: asyncio.Task[None] | None = None
        self._pending = False
        """VAL is somewhere to go to as soon as SPMG allows it."""
        self._stopping = False
        self._pausing = False
        self._done = asyncio.Event()
        self._done.set()
        fresh: dict[str, Any] = {
            "NAME": name, "DESC": description, "VELO": speed, "ACCL": acceleration, "VBAS": 0.0,
            "BVEL": speed, "JVEL": speed, "HLM": limits[1], "LLM": limits[0], "DHLM": limits[1],
            "DLLM": limits[0], "RBV": position, "DRBV": position, "DVAL": position,
            "LVAL": position, "OFF": 0.0, "EGU": units, "VMAX": 0.0,
        }  # fmt: skip
        for key, value in fresh.items():
            self.fields[key].preset(value)
        self.value.preset(position)
        hooks = {
            "PROC": self._on_process,
            "STOP": self._on_stop,
            "SPMG": self._on_spmg,
            "DVAL": self._on_dial,
            "RLV": self._on_rlv,
            "OFF": self._on_offset,
            "TWF": partial(self._on_tweak, "TWF", +1.0),
            "TWR": partial(self._on_tweak, "TWR", -1.0),
            "HLM": partial(self._on_limit, "HLM"),
            "LLM": partial(self._on_limit, "LLM"),
            "DHLM": partial(self._on_dial_limit, "HLM"),
            "DLLM": partial(self._on_dial_limit, "LLM"),
            "VELO": partial(self._on_speed, "VELO"),
            "ACCL": partial(self._on_speed, "ACCL"),
            "VBAS": partial(self._on_speed, "VBAS"),
        }
        for key, hook in hooks.items():
            self.fields[key].on_put = hook
        self.value.on_put = self._on_value

    async def _on_process(self, _value: int) -> None:
        """Process, which only takes a new stamp."""
        self.common.stamp_now()
        await self.fields.post(PROC=0)

    # -- what the rest of the simulation asks -------------------------------------------------

    @property
    def offset(self) -> float:
        """User position minus dial position, degrees."""
        return self.fields.value("OFF")

    def position(self, moment: float | None = None) -> float:
        """User position at a moment (monotonic seconds), also one in the near past or future."""
        moment = self._clock() if moment is None else moment
        for move in reversed(self._moves):
            if move.began <= moment:
                return move.position(moment) + self.offset
        return self._moves[0].start + self.offset

    def when(self, position: float) -> float | None:
        """When the move in progress passes a user position; None if it does not."""
        return self._moves[-1].when(position - self.offset)

    def records(self) -> dict[str, ca.ChannelData]:
        """All fields under their full names."""
        return {
            self.name: self.value,
            f"{self.name}.VAL": self.value,
            **{f"{self.name}.{key}": self.fields[key] for key in self.fields},
        }

    # -- motion -------------------------------------------------------------------------------

    async def move_to(self, target: float) -> None:
        """Put to VAL and wait for the completion."""
        await self._on_value(target)
        await self._done.wait()

    async def _on_value(self, target: float) -> Completion:
        fields = self.fields
        await self._blink()
        self.common.stamp_now()
        if fields.value("SET") == "Set":
            await self._on_offset(target - self._moves[-1].position(self._clock()))
            if self._task is None:
                await self._rest()
            return self._done.wait
        if not fields.value("LLM") <= target <= fields.value("HLM") or not math.isfinite(target):
            await self.value.post(self.value.value)
            await fields.post(LVIO=1)
            if self._task is None:
                await self._rest()
            return self._done.wait
        await fields["LVIO"].post_if_new(0)
        await self._post_demand(target)
        here = self._moves[-1].position(self._clock())
        if (
            abs(target - self.offset - here) < 0.5 * abs(fields.value("MRES"))
            and self._task is None
        ):
            await self._rest()
        elif fields.value("SPMG") in ("Go", "Move"):
            self._start(target - self.offset)
        else:
            self._pending = True
        return self._done.wait

    async def _blink(self) -> None:
        """Post DMOV = 0 as the record does before it processes, with its old stamp."""
        self._done.clear()
        await self.fields["DMOV"].post_if_new(0)

    async def _rest(self) -> None:
        await self.fields.post(DMOV=1)
        self._done.set()

    def _start(self, dial: float) -> None:
        """Set off, from rest, from wherever the axis is now."""
        self._pending = self._stopping = self._pausing = False
        if self._task is not None:
            self._task.cancel()
        now = self._clock()
        move = Move(
            began=now,
            start=self._moves[-1].position(now),
            end=dial,
            speed=self.fields.value("VELO"),
            base=self.fields.value("VBAS"),
            acceleration=max(self.fields.value("ACCL"), 1e-6),
        )
        self._moves.append(move)
        self._task = asyncio.create_task(self._follow(up=dial > move.start))

    async def _follow(self, *, up: bool) -> None:
        """Poll every 0.1 s; the poll that finds the axis at rest posts it in one burst."""
        self.common.stamp_now()
        await self.fields.post(MSTA=0)
        await self.fields.post(MSTA=MOVING + POSITIVE * up, TDIR=int(up), MOVN=1)
        while True:
            await asyncio.sleep(READBACK_PERIOD)
            move = self._moves[-1]
            if self._clock() >= move.began + move.duration:
                break
            self.common.stamp_now()
            await self._read_back()
        await self._finish()

    async def _finish(self) -> None:
        self._task = None
        self.common.stamp_now()
        await self._read_back()
        await self.fields.post(MSTA=DONE, MOVN=0)
        if self._pausing:
            self._pausing, self._pending = False, True
            return
        if self._stopping:
            self._stopping = False
            await self._post_demand(self.position())
        await self._rest()

    async def _read_back(self) -> None:
        """Read the position at this moment; the caller has just taken the stamp."""
        dial = self._moves[-1].position(self._clock())
        if self.jitter:
            dial += random.gauss(0.0, self.jitter)
        raw = round(dial / self.fields.value("MRES"))
        difference = self.value.value - dial - self.offset
        for key, value in {
            "RRBV": raw, "DRBV": dial, "RBV": dial + self.offset, "DIFF": difference,
        }.items():  # fmt: skip
            await self.fields[key].post_if_new(value)

    async def stop(self, *, pause: bool = False) -> None:
        """Slow down as the acceleration allows; there VAL follows, but not in a pause."""
        if self._task is None:
            if self._pending and not pause:
                self._pending = False
                await self._post_demand(self.position())
                await self._finish()
            return
        self._stopping, self._pausing = not pause, pause
        now = self._clock()
        move = self._moves[-1]
        here, velocity = move.position(now), move.velocity(now)
        ramp = self.fields.value("ACCL") * abs(velocity) / max(move.speed, 1e-9)
        rest = here + 0.5 * velocity * ramp
        if velocity:
            # the second half of a symmetric trapezoid whose peak is now
            self._moves.append(
                Move(now - ramp, here - 0.5 * velocity * ramp, rest, abs(velocity), 0.0, ramp)
            )
        else:
            self._moves.append(replace(move, began=now, start=here, end=here))

    async def _post_demand(self, target: float) -> None:
        await self.value.post(target)
        dial = target - self.offset
        await self.fields.post(DVAL=dial, RVAL=round(dial / self.fields.value("MRES")), LVAL=target)

    # -- puts to fields -----------------------------------------------------------------------

    async def _on_stop(self, value: int) -> Completion | None:
        if value:
            await self.fields.post(STOP=1)
            self.common.stamp_now()
            # nothing moves: what is pending, stays so
            if self._task is not None or self.fields.value("SPMG") != "Stop":
                await self.stop()
        await self.fields.post(STOP=0)
        return self._done.wait

    async def _on_spmg(self, label: str) -> Completion | None:
        await self.fields.post(SPMG=label)
        self.common.stamp_now()
        if label in ("Go", "Move"):
            if self._task is None and self._pending:
                self._start(self.value.value - self.offset)
        elif self._task is not None or label == "Stop":
            await self.stop(pause=label == "Pause")
        return self._done.wait

    async def _on_dial(self, dial: float) -> Completion:
        return await self._on_value(dial + self.offset)

    async def _on_rlv(self, distance: float) -> Completion:
        await self.fields.post(RLV=0.0)
        return await self._on_value(self.value.value + distance)

    async def _on_tweak(self, key: str, sign: float, _value: int) -> Completion:
        await self.fields.post(**{key: 0})
        return await self._on_value(self.value.value + sign * self.fields.value("TWV"))

    async def _on_limit(self, key: str, value: float) -> None:
        self.common.stamp_now()
        await self.fields.post(**{key: value, f"D{key}": value - self.offset})
        bound = "upper_ctrl_limit" if key == "HLM" else "lower_ctrl_limit"
        limits: dict[str, Any] = {bound: value}
        await self.value.write_metadata(**limits)

    async def _on_dial_limit(self, key: str, value: float) -> None:
        await self._on_limit(key, value + self.offset)

    async def _on_speed(self, key: str, value: float) -> None:
        fields = self.fields
        fastest = fields.value("VMAX")
        if key == "VELO":
            value = max(value, fields.value("VBAS"), 1e-6)
            value = min(value, fastest) if fastest > 0.0 else value
        elif key == "ACCL":
            value = max(value, 0.001)
        else:
            value = min(max(value, 0.0), fields.value("VELO"))
        await fields.post(**{key: value})

    async def _on_offset(self, offset: float) -> None:
        shift = offset - self.offset
        fields = self.fields
        await fields.post(OFF=offset)
        await self._on_limit("HLM", fields.value("HLM") + shift)
        await self._on_limit("LLM", fields.value("LLM") + shift)
        await self.value.post(self.value.value + shift)
        await self._read_back()


class _Fields(dict[str, ca.ChannelData]):
    """The fields of the record, for a client that asks for ``record.NAME``."""

    def __init__(self, fields: Records) -> None:
        super().__init__({name: fields[name] for name in fields})
