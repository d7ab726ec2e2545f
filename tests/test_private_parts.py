"""Holds on private parts of other packages report whether they are active; none fails open."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bluesky.suspenders
import numpy as np
import ophyd
import pytest
import simulated  # noqa: F401  sets where Channel Access is looked for, before ophyd is imported
import tifffile
import tiled.adapters.array
import tiled.adapters.hdf5
import tiled.adapters.parquet
import tiled.adapters.sequence
import tiled.catalog.adapter
import tiled.server.router
import uvicorn.protocols.http.h11_impl as h11

from offbragg.beamline.build import _require_stopped_moves
from offbragg.beamline.run_engine import install_suspender
from offbragg.catalog import inside, served, tiled_client, tiled_patches
from offbragg.catalog.readable import Readable
from offbragg.catalog.served import ConfinedAdapter, confine_adapters
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
        ("catalog.served", tiled.catalog.adapter.CatalogNodeAdapter, "get_adapter",
         lambda self: asyncio.sleep(0, result=object())),
        ("catalog.request_limits", h11.H11Protocol, "data_received", lambda self, data: None),
        ("catalog.request_limits", h11.H11Protocol, "connection_made",
         lambda self, transport: None),
        ("catalog.checked", tiled.adapters.hdf5.HDF5ArrayAdapter, "from_catalog",
         classmethod(lambda cls, *_, **__: None)),
        ("catalog.checked", tiled.adapters.hdf5.HDF5Adapter, "__getitem__",
         lambda self, key: SimpleNamespace(_tree={}, uris=self.uris, dataset=key)),
        ("catalog.served", tiled.adapters.array.ArrayAdapter, "from_array",
         classmethod(lambda cls, array: SimpleNamespace())),
        ("catalog.images", tiled.adapters.sequence.FileSequenceAdapter, "_map_read",
         lambda self, paths: [np.zeros((1, 2), np.uint8) for _ in paths]),
        ("catalog.images", tifffile, "TiffFile",
         lambda file, _multifile, is_ndtiff: tifffile.tifffile.TiffFile(file)),
        ("catalog.read_limits", tiled.adapters.parquet.ParquetDatasetAdapter, "__init__",
         lambda self, uris, structure: None),
    ],
)  # fmt: skip
def test_a_package_that_changed_is_noticed(monkeypatch, module, where, name, instead):
    monkeypatch.setattr("offbragg.devices.motor._PATIENCE", 0.1)
    if instead is None:
        monkeypatch.delattr(where, name)
    else:
        monkeypatch.setattr(where, name, instead)

    parts = importlib.import_module(f"offbragg.{module}").self_test()

    (part,) = [p for p in (parts if isinstance(parts, list) else [parts]) if not p.active]
    assert part.guards
    assert "not available" in str(part)


def broken(purpose: str) -> Any:
    return lambda: SimpleNamespace(active=False, __str__=lambda self: purpose)


@pytest.mark.parametrize("module", [inside, served])
def test_no_file_is_served_without_its_check(monkeypatch, tmp_path, module):
    monkeypatch.setattr(module, "self_test", broken("a check"))
    context = SimpleNamespace(adapters_by_mimetype={})
    readable = Readable([tmp_path])

    confine = {
        inside: lambda: inside.confine_hdf5(readable),
        served: lambda: confine_adapters(context, readable, readable),
    }[module]
    with pytest.raises(CatalogError, match=r"the catalog is not served: .* its roots"):
        confine()

    assert context.adapters_by_mimetype == {}


def test_no_file_is_served_where_adapters_are_kept_elsewhere(tmp_path):
    with pytest.raises(CatalogError, match=r"the catalog is not served: .* its roots"):
        confine_adapters(SimpleNamespace(), Readable([tmp_path]), Readable([tmp_path]))


@pytest.mark.parametrize(
    ("family", "mimetype", "reason"),
    [("array", "application/x-zarr", "its chunks cannot be checked"),
     ("table", "application/x-parquet", "its size cannot be known")],
)  # fmt: skip
def test_what_cannot_be_checked_before_it_is_read_is_refused(tmp_path, family, mimetype, reason):
    made = SimpleNamespace(structure_family=family)
    adapter = SimpleNamespace(from_catalog=lambda *_, **__: made)
    source: Any = SimpleNamespace(assets=[])

    with pytest.raises(CatalogError, match=reason):
        ConfinedAdapter(adapter, mimetype, Readable([tmp_path])).from_catalog(source, None)


@pytest.mark.parametrize("name", ["request_limits", "checked", "read_limits", "tiled_app"])
def test_nothing_is_served_without_what_guards_it(monkeypatch, tmp_path, name):
    monkeypatch.setattr(f"offbragg.catalog.{name}.self_test", broken(name))

    with pytest.raises(CatalogError, match="not served: what it needs is not available"):
        serve(tmp_path / "catalog", [tmp_path])


def test_nothing_is_served_without_the_checks_of_images(monkeypatch, tmp_path):
    monkeypatch.setattr("offbragg.catalog.images.self_test", lambda: [broken("images")()])

    with pytest.raises(CatalogError, match="not served: what it needs is not available"):
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

    tiled_patches.apply()

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
        "from offbragg.catalog import consolidators;"
        "from offbragg.followers import publisher;"
        "assert w.truncate_json_overflow is cut;"
        "consolidators.register_consolidators();"
        "assert c.CONSOLIDATOR_REGISTRY['application/x-hdf5'] is hdf5 is c.HDF5Consolidator"
    )

    subprocess.run([sys.executable, "-c", code], check=True)
