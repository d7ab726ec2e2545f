"""Holds on private parts of other packages say whether they are active, and never fail open."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bluesky.suspenders
import ophyd
import pytest
import simulated  # noqa: F401  sets where Channel Access is looked for, before ophyd is imported
import tiled.adapters.hdf5
import tiled.catalog.adapter
import tiled.server.router
import uvicorn.protocols.http.h11_impl as h11

from offbragg.beamline.build import _require_stopped_moves
from offbragg.beamline.run_engine import install_suspender
from offbragg.catalog import (
    connection_limits as limits,
)
from offbragg.catalog import (
    inside,
    tiled_client,
)
from offbragg.catalog import (
    served as guard,
)
from offbragg.catalog import (
    tiled_patches as shortcuts,
)
from offbragg.catalog.readable import Readable
from offbragg.catalog.served import GuardedAdapter, put_before
from offbragg.catalog.server import serve
from offbragg.doctor import private as doctor_private
from offbragg.errors import CatalogError, ConfigError, DeviceError


def test_the_doctor_shows_each_as_active():
    found = list(doctor_private.examine_private_parts())

    assert [str(finding) for finding in found if finding.level != "ok"] == []
    assert len(found) >= len(doctor_private.HOLDS)
    assert all(finding.what.startswith("active (") for finding in found)


class _Opened:
    """Opens HDF5 files in another way than by the module's own function."""

    @staticmethod
    def load(*paths: Any, dataset: Any, **_: Any) -> Any:
        import dask.array
        import h5py

        with h5py.File(paths[0]) as file:
            return dask.array.from_array(file[dataset][()])


@pytest.mark.parametrize(
    ("module", "where", "name", "instead"),
    [
        ("devices.motor", ophyd.EpicsMotor, "_move_changed", lambda self, **_: None),
        ("plans.beam", bluesky.suspenders.SuspenderBase, "__call__", lambda self, value: None),
        ("plans.beam", bluesky.suspenders.SuspenderBase, "install", lambda self, RE: None),
        ("catalog.inside", tiled.adapters.hdf5.HDF5ArrayAdapter, "lazy_load_hdf5_array",
         staticmethod(_Opened.load)),
        ("catalog.inside", tiled.adapters.hdf5, "HDF5_BROKEN_LINK", None),
        ("catalog.guard", tiled.catalog.adapter.CatalogNodeAdapter, "get_adapter",
         lambda self: asyncio.sleep(0, result=object())),
        ("catalog.limits", h11.H11Protocol, "data_received", lambda self, data: None),
        ("catalog.limits", h11.H11Protocol, "connection_made", lambda self, transport: None),
        ("catalog.checked", tiled.adapters.hdf5.HDF5ArrayAdapter, "from_catalog",
         classmethod(lambda cls, *_, **__: None)),
    ],
)  # fmt: skip
def test_a_package_that_changed_is_noticed(monkeypatch, module, where, name, instead):
    monkeypatch.setattr("offbragg.devices.motor._PATIENCE", 0.1)
    if instead is None:
        monkeypatch.delattr(where, name)
    else:
        monkeypatch.setattr(where, name, instead)

    part = importlib.import_module(f"offbragg.{module}").self_test()

    assert not part.active
    assert part.guards
    assert "not available" in str(part)


def broken(purpose: str) -> Any:
    return lambda: SimpleNamespace(active=False, __str__=lambda self: purpose)


@pytest.mark.parametrize("name", ["inside", "guard"])
def test_no_file_is_served_without_its_guard(monkeypatch, tmp_path, name):
    monkeypatch.setattr({"inside": inside, "guard": guard}[name], "self_test", broken(name))
    context = SimpleNamespace(adapters_by_mimetype={})
    readable = Readable([tmp_path])

    serve = {
        "inside": lambda: inside.take_the_place(readable),
        "guard": lambda: put_before(context, readable, readable),
    }[name]
    with pytest.raises(CatalogError, match="cannot be guarded"):
        serve()

    assert context.adapters_by_mimetype == {}


def test_no_file_is_served_where_adapters_are_kept_elsewhere(tmp_path):
    with pytest.raises(CatalogError, match="cannot be guarded"):
        put_before(SimpleNamespace(), Readable([tmp_path]), Readable([tmp_path]))


def test_an_array_whose_pieces_cannot_be_looked_at_is_refused(tmp_path):
    made = SimpleNamespace(structure_family="array")
    adapter = SimpleNamespace(from_catalog=lambda *_, **__: made)
    source: Any = SimpleNamespace(assets=[])

    with pytest.raises(CatalogError, match="cannot be looked at"):
        GuardedAdapter(adapter, "application/x-zarr", Readable([tmp_path])).from_catalog(
            source, None
        )


def test_nothing_is_served_to_connections_that_never_end(monkeypatch, tmp_path):
    monkeypatch.setattr(limits, "self_test", broken("connections"))

    with pytest.raises(CatalogError, match="not served without what guards it"):
        serve(tmp_path / "catalog", [tmp_path])


def test_motors_are_not_built_and_plans_not_left_without_beam(monkeypatch):
    monkeypatch.setattr("offbragg.devices.motor.self_test", broken("motor"))
    monkeypatch.setattr("offbragg.plans.beam.self_test", broken("beam"))
    signal = SimpleNamespace(name="ring", subscribe=lambda *_, **__: None)
    config: Any = SimpleNamespace(file=Path("beamline.toml"), suspend=SimpleNamespace(
        signal="ring", below=10.0, resume=None, wait=0.0, shutter=None,
    ))  # fmt: skip
    RE = SimpleNamespace(preprocessors=[])

    with pytest.raises(DeviceError, match="motors are not built"):
        _require_stopped_moves()
    with pytest.raises(ConfigError, match="would go on without beam"):
        install_suspender(RE, config, {"ring": signal})
    assert RE.preprocessors == []


def test_what_only_saves_time_is_left_out(monkeypatch, caplog):
    monkeypatch.delattr(tiled.server.router, "get_entry")
    monkeypatch.setattr(tiled_client, "_clients", lambda: {}["moved"])

    shortcuts.take()

    assert "a node looked up at once" in caplog.text
    assert "not available" in caplog.text
    assert tiled_client.own_clients() == "numpy"


def test_importing_changes_nothing_in_other_packages():
    """Files and consolidators: h5py has no driver of ours, HDF5 its own consolidator."""
    code = (
        "import h5py; before = set(h5py.registered_drivers());"
        "import offbragg.files.scan_file, offbragg.files.hdf5;"
        "assert set(h5py.registered_drivers()) == before;"
        "from bluesky_tiled_plugins.writing import consolidators as c, tiled_writer as w;"
        "hdf5, cut = c.CONSOLIDATOR_REGISTRY['application/x-hdf5'], w.truncate_json_overflow;"
        "from offbragg.catalog import publisher, consolidators;"
        "assert w.truncate_json_overflow is cut;"
        "consolidators.register_consolidators();"
        "assert c.CONSOLIDATOR_REGISTRY['application/x-hdf5'] is hdf5 is c.HDF5Consolidator"
    )

    subprocess.run([sys.executable, "-c", code], check=True)
