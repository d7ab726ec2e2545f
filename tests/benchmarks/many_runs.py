"""A catalog of very many runs: written into Tiled's table as the publisher's requests do."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import create_async_engine
from tiled.catalog import orm
from tiled.utils import ensure_specified_sql_driver

BEGAN, EVERY = 1.7e9, 600.0  # s
SWEEPS, TEMPERATURES = 3, 30  # of a series
PER_SERIES = SWEEPS * TEMPERATURES
_AT_ONCE = 500  # runs in one statement

NODES: Any = orm.Node.__table__
_SPEC = [{"name": "BlueskyRun", "version": "3.0"}]
_STREAM = [{"name": "BlueskyEventStream", "version": "3.0"}]
_STREAMS = (
    "primary", "baseline", "watch", "cryostream_temperature", "ring_current", "phi_read_back",
    "permit", "summary",
)  # fmt: skip


def start_document(number: int, draw: random.Random) -> dict[str, Any]:
    """Return the start document of a run, about 3 kB."""
    point, sweep = number // SWEEPS % TEMPERATURES, number % SWEEPS
    kelvin = 20.0 + 10.0 * point
    planned = {"axis": "phi", "start": 0.0, "step": 1.0, "n_frames": 365, "exposure": 0.097}
    axes = [{"name": name, "vector": [0.0, 1.0, 0.0], "angle": 0.0} for name in "abc"]
    return {
        "uid": str(uuid.UUID(int=draw.getrandbits(128), version=4)),
        "time": BEGAN + EVERY * number,
        "scan_id": number % 5000 + 1,
        "versions": {"offbragg": "0.1.0", "bluesky": "1.15.1", "ophyd": "1.11.2"},
        "beamline_id": "simulated",
        "proposal": f"GUP-{number // 500:05d} needle{number}",
        "sample": {
            "name": f"LSMO-{100 + number // 300 % 100}", "label": "crystal1", "formula": "KMnF3",
            "space_group": "P m -3 m", "lattice": [4.186, 4.186, 4.186, 90.0, 90.0, 90.0],
            "UB": [[0.197, -0.123, -0.055], [0.107, 0.202, -0.070], [0.083, 0.033, 0.222]],
        },
        "plan_name": "temperature_series",
        "purpose": "data" if number % 20 else "background",
        "detectors": ["pilatus"],
        "motors": ["phi"],
        "sweep": planned,
        "geometry": {"wavelength": 0.7, "axes": axes, "scan_axis": "phi"},
        "per_frame": {
            name: {"key": f"{name}_value", "by": f"{name}_frame", "units": "K"}
            for name in ("temperature", "ring", "monitor", "angle", "weight")
        },
        "temperature": {"setpoint": kelvin, "settled": {"mean": kelvin + 0.01, "std": 0.02}},
        "series": {
            "uid": str(uuid.UUID(int=number // PER_SERIES + 10**20, version=4)),
            "index": number % PER_SERIES, "kind": "temperature", "sweep_of": [point, sweep],
            "parameters": {
                "temperatures": [20.0 + 10.0 * i for i in range(TEMPERATURES)],
                "sweeps": [planned] * SWEEPS, "on_settle": "stop", "on_beam": "retry",
            },
        },
    }  # fmt: skip


def stop_document(number: int, start: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stop document of a run; one in fifty has failed."""
    return {
        "uid": f"{start['uid']}-stop", "run_start": start["uid"], "time": start["time"] + 500.0,
        "exit_status": "success" if number % 50 else "fail", "reason": "", "num_events": {},
        "offbragg": {
            "frames": {"stored": 365, "missing": 0, "rejected": 0}, "scan_file": "/data/f1.h5",
        },
    }  # fmt: skip


def _stream(name: str) -> dict[str, Any]:
    keys = 40 if name == "baseline" else 20 if name in ("primary", "summary") else 2
    described = {"source": "PV:SIM:pilatus", "dtype": "number", "shape": [], "units": "counts"}
    return {
        "uid": f"descriptor-{name}", "time": 0.0, "hints": {},
        "data_keys": {f"{name}_{i}": described for i in range(keys)},
        "configuration": {name: {"data": {}, "timestamps": {}, "data_keys": {}}},
    }  # fmt: skip


_STREAM_METADATA = {name: _stream(name) for name in _STREAMS}


def _rows(first: int, last: int, node: int, raw: int, draw: random.Random) -> Iterator[Any]:
    """Yield the nodes of some runs: a run, its streams, and a table in each of them."""

    def row(number: int, parent: int, key: str, family: str, metadata: Any, specs: Any) -> Any:
        return {
            "id": number, "parent": parent, "key": key, "structure_family": family,
            "metadata": metadata, "specs": specs,
        }  # fmt: skip

    for number in range(first, last):
        start = start_document(number, draw)
        metadata = {"start": start, "stop": stop_document(number, start)}
        run = node
        yield row(run, raw, start["uid"], "container", metadata, _SPEC)
        for name in _STREAMS:
            node += 2
            yield row(node - 1, run, name, "container", _STREAM_METADATA[name], _STREAM)
            yield row(node, node - 1, "internal", "table", {}, [])
        node += 1


async def fill(uri: str, runs: int) -> None:
    """Write runs into a catalog that has none.

    Parameters
    ----------
    uri
        Of its database; Tiled's tables are there.
    runs
        How many.
    """
    engine = create_async_engine(ensure_specified_sql_driver(uri), json_serializer=json.dumps)
    draw = random.Random(1)
    each = 1 + 2 * len(_STREAMS)
    async with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            await connection.execute(text("PRAGMA synchronous = OFF"))
        spec = [{"name": "CatalogOfBlueskyRuns", "version": "3.0"}]
        await connection.execute(
            insert(NODES).values(
                parent=0, key="raw", structure_family="container", metadata={}, specs=spec
            )
        )
        raw = await connection.scalar(select(orm.Node.id).where(orm.Node.key == "raw"))
        assert raw is not None
        for first in range(0, runs, _AT_ONCE):
            last = min(first + _AT_ONCE, runs)
            rows = list(_rows(first, last, raw + 1 + first * each, raw, draw))
            await connection.execute(insert(NODES), rows)
        if engine.dialect.name == "postgresql":
            await connection.execute(
                text("SELECT setval(pg_get_serial_sequence('nodes', 'id'), max(id)) FROM nodes")
            )
    async with engine.connect() as connection:
        await (await connection.execution_options(isolation_level="AUTOCOMMIT")).execute(
            text("ANALYZE")
        )
    await engine.dispose()
