"""Volumes that grow, are replaced, deleted or damaged: what the catalog says of them follows."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from catalog.test_volumes import GRID, UB, published, volume_of, written
from growing import Growing, live, measured
from runs import wait_until
from tiled.queries import Contains, Key
from typer.testing import CliRunner

from offbragg.catalog import volume_watch
from offbragg.catalog.containers import GROWING
from offbragg.catalog.readable import Readable
from offbragg.catalog.sent import OpenFile
from offbragg.catalog.volume_offers import VolumeOffers
from offbragg.catalog.volumes import volume_key
from offbragg.cli.app import app
from offbragg.errors import CatalogError, NoSuchEntry
from offbragg.files.volume_writer import write_volume
from offbragg.grid import Grid
from offbragg.workflows import record

_SOON = 15.0  # s; it looks every second


@pytest.fixture
def path(server) -> Path:
    folder = server.root / uuid.uuid4().hex[:8]
    folder.mkdir()
    return folder / "live-f1.h5"


def grown(path: Path, frames: int, *, temperature: float = 95.0, seed: int = 1, grid=GRID) -> Path:
    """A volume as `offbragg live` writes it, in place of the one before."""
    known = {"f1.h5": {"run": "uid-1", "frames": frames, "orientation": "start document"}}
    new = path.with_name(".new.h5")
    write_volume(new, volume_of(grid, seed=seed), {GROWING: known, "temperature": temperature})
    return new.replace(path)


def soon(cat: Any, key: str, **wanted: object) -> dict[str, Any]:
    """Wait until a volume has this metadata."""

    def there() -> bool:
        metadata = cat.volumes[key].metadata
        return all(metadata.get(name) == value for name, value in wanted.items())

    wait_until(there, _SOON, f"{key} to have {wanted}")
    return dict(cat.volumes[key].metadata)


def test_the_word_for_growing_is_that_of_the_records():
    assert GROWING == record.GROWING


def test_a_growing_volume_is_found_and_follows_its_file(server, cat, path):
    key = published(server, grown(path, 10))
    found = cat.volumes.search(Key("state") == "growing").search(Contains("runs", "uid-1"))
    assert key in list(found)
    assert found[key].metadata["frames"] == 10

    grown(path, 20, temperature=96.0, seed=2)
    soon(cat, key, frames=20, temperature=96.0)
    path.unlink()
    written(path)  # it is closed

    metadata = soon(cat, key, state="finished")
    assert metadata["UB"] == UB
    assert key in list(cat.volumes.search(Key("completeness") > 0.5))
    assert key not in list(cat.volumes.search(Key("state") == "growing"))


def test_completeness_follows_the_file(server, cat, path):
    sparse = volume_of()
    sparse.weight[: GRID.shape[0] // 2] = 0.0
    key = published(server, written(path, sparse))
    assert cat.volumes[key].metadata["completeness"] < 0.5

    grown(path, 20)

    wait_until(lambda: key in list(cat.volumes.search(Key("completeness") > 0.8)), _SOON, "it")


def test_another_grid_gives_other_arrays(server, cat, path):
    key = published(server, grown(path, 10))
    grid = Grid((-5, -5, -5), (11, 12, 13), (5, 5, 5))

    grown(path, 11, grid=grid)

    metadata = soon(cat, key, frames=11)
    assert metadata["grid"] == grid.to_dict()
    assert cat.volumes[key]["intensity"].shape == (13, 12, 11)
    assert metadata["levels"] == [1, 2, 4]
    assert set(cat.volumes[key]["levels"]) == {"2", "4"}
    np.testing.assert_allclose(
        cat.volumes[key]["intensity"][:].T, volume_of(grid).intensity, rtol=1e-6
    )


def _truncate(path: Path) -> None:
    os.truncate(path, 3000)


def _fill(path: Path) -> None:
    path.write_bytes(os.urandom(5000))


def _lead_out(path: Path) -> None:
    outside = path.parent.parent.parent / f"{path.parent.name}.h5"
    shutil.move(path, outside)
    path.symlink_to(outside)


def _make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def _make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("harm", "state"),
    [pytest.param(Path.unlink, "missing", id="deleted"),
     pytest.param(_truncate, "damaged", id="truncated"),
     pytest.param(_lead_out, "damaged", id="link"),
     pytest.param(_fill, "damaged", id="other bytes", marks=pytest.mark.slow),
     pytest.param(_make_folder, "damaged", id="folder", marks=pytest.mark.slow),
     pytest.param(_make_pipe, "damaged", id="pipe", marks=pytest.mark.slow),
     pytest.param(_remove_folder, "missing", id="folder gone", marks=pytest.mark.slow)],
)  # fmt: skip
def test_no_file_breaks_a_listing_and_one_that_is_back_is_read(server, cat, path, harm, state):
    key = published(server, grown(path, 10))
    harm(path)

    metadata = soon(cat, key, state=state)

    assert metadata["temperature"] == 95.0  # of what it was
    assert key in list(cat.volumes)
    assert key in list(cat.volumes.search(Key("state") == state))
    assert cat.volumes[key].metadata["grid"] == GRID.to_dict()
    with pytest.raises(CatalogError):
        cat.volumes[key].plane("hk0")
    if path.is_dir():
        path.rmdir()
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    grown(path, 30)
    soon(cat, key, state="growing", frames=30)
    assert cat.volumes[key].plane("hk0").intensity.shape == GRID.shape[:2]


def test_what_was_opened_is_whole_when_a_newer_file_takes_its_place(path):
    grown(path, 10)
    with OpenFile.below(Readable([path.parent]), path) as file:
        grown(path, 20)
        file.check_unchanged()
        gone = os.open(f"/proc/self/fd/{file.descriptor}", os.O_WRONLY)
        os.write(gone, b"x")
        os.close(gone)
        with pytest.raises(CatalogError, match="was changed"):
            file.check_unchanged()


@pytest.mark.slow
def test_planes_of_a_volume_that_is_replaced_all_the_time_never_fail(server, cat, path):
    key = published(server, grown(path, 1))
    over = threading.Event()

    def replace() -> None:
        seed = 0
        while not over.is_set():
            grown(path, seed := seed + 1, seed=seed % 7)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        planes = [cat.volumes[key].plane("hk0", thickness=9) for _ in range(60)]
    finally:
        over.set()
        writer.join()

    assert all(plane.intensity.shape == GRID.shape[:2] for plane in planes)


# -- run["sq"] ----------------------------------------------------------------------------------


def test_the_volume_of_a_run_is_beside_it_while_it_grows_and_after(server, cat, whole):
    scan = whole.scan.path
    with pytest.raises(NoSuchEntry, match="no volume in the catalog yet"):
        _ = whole.node["sq"]
    inputs = [{"run": whole.uid, "file": scan.name, "UB": UB}]
    merged = [*inputs, {"run": "another", "file": "f9.h5", "UB": UB}]
    both = scan.with_name("volume-both.h5")
    write_volume(both, volume_of(), {"inputs": merged, "temperature": 95.0})
    published(server, both)
    assert whole.node["sq"].metadata["runs"] == [whole.uid, "another"]

    growing = scan.with_name("live-f1.h5")
    known = {scan.name: {"run": whole.uid, "frames": 3, "orientation": "start document"}}
    write_volume(growing, volume_of(), {GROWING: known, "temperature": 95.0})
    key = published(server, growing)

    assert whole.node["sq"].item["id"] == key
    assert whole.node["sq"].metadata["state"] == "growing"
    assert whole.node["sq"].metadata["series"] == whole.start.get("series")
    assert whole.node["sq"].plane("hk0.5").intensity.shape == GRID.shape[:2]
    growing.unlink()
    soon(cat, key, state="missing")
    assert whole.node["sq"].item["id"] != key
    both.unlink()


def test_live_volumes_are_published_from_their_first_frames_on(server, cat):
    root = server.root / uuid.uuid4().hex[:8]
    root.mkdir()
    run = Growing(root, measured(7))
    offers = VolumeOffers(lambda path: published(server, path))
    following = live(root, written=offers.offer)
    key = volume_key(run.path.with_name("live-f1.h5"))

    run.store(0, 1, 2)
    following.run(once=True)
    wait_until(lambda: key in list(cat.volumes), _SOON, "a growing volume")
    assert soon(cat, key, frames=3)["state"] == "growing"
    run.store(*range(3, 8))
    run.end()
    following.run(once=True)
    offers.close()

    metadata = soon(cat, key, state="finished")
    assert metadata["frames"] == 8
    assert metadata["runs"] == [run.sweep.start["uid"]]
    assert np.shape(metadata["UB"]) == (3, 3)


# -- offers -------------------------------------------------------------------------------------


def test_what_cannot_be_published_is_published_later(caplog):
    away, taken = threading.Event(), []

    def publish(path: Path) -> None:
        if not away.is_set():
            raise CatalogError("the catalog is away")
        taken.append(path)

    offers = VolumeOffers(publish, pause=0.01)
    began = time.monotonic()
    for n in range(100):
        offers.offer(Path(f"/v{n % 2}.h5"))
    assert time.monotonic() - began < 1.0  # nobody waits
    time.sleep(0.1)
    away.set()

    wait_until(lambda: len(taken) == 2, 5.0, "both")
    offers.close()
    assert set(taken) == {Path("/v0.h5"), Path("/v1.h5")}
    assert caplog.text.count("not published yet") == 1


def test_an_end_does_not_wait_for_a_catalog_that_hangs():
    hanging = threading.Event()
    offers = VolumeOffers(lambda path: hanging.wait(30))
    offers.offer(Path("/v.h5"))

    began = time.monotonic()
    offers.close(timeout=0.1)

    assert time.monotonic() - began < 5.0
    hanging.set()


# -- the verb -----------------------------------------------------------------------------------


@pytest.fixture
def beamline(server, path, monkeypatch) -> None:
    host, _, port = server.url.removeprefix("http://").partition(":")
    config = SimpleNamespace(
        catalog=SimpleNamespace(host=host, port=int(port)), read_key=lambda: server.key,
        paths=SimpleNamespace(experiment=path.parent),
    )  # fmt: skip
    monkeypatch.setattr("offbragg.beamline.config.load", lambda _: config)


def test_volumes_of_a_folder_are_published(server, cat, path, beamline):
    scans = path.parent / "95K"
    scans.mkdir()
    mine = [grown(path, 3), written(scans / "volume-f1.h5")]
    (scans / "notes.h5").write_bytes(b"not HDF5")
    shutil.copy(mine[1], scans / ".volume-f1.h5.new")

    done = CliRunner().invoke(app, ["publish"])
    again = CliRunner().invoke(app, ["publish", str(mine[1]), "--json"])

    assert (done.exit_code, again.exit_code) == (0, 0), done.output
    assert done.output.count("published as volumes/") == 2
    assert {volume_key(each) for each in mine} <= set(cat.volumes)
    assert f'"published": "{volume_key(mine[1])}"' in again.output


def test_what_cannot_be_published_is_named(path, beamline, tmp_path):
    missing = path.with_name("none.h5")
    outside = written(tmp_path / "outside.h5")

    done = CliRunner().invoke(app, ["publish", str(missing), str(outside)])

    assert done.exit_code == 1
    assert "none.h5: not published" in done.output
    assert "outside.h5: not published: the catalog refuses a volume" in done.output


def test_after_a_start_the_newest_volumes_are_looked_at_first(monkeypatch, tmp_path):
    keys = [f"v{i}" for i in range(100)]
    asked: list[str] = []

    async def lookup(tree: Any, segments: list[str]) -> Any:
        async def keys_range(first: int, count: int | None) -> list[str]:
            return keys

        return SimpleNamespace(keys_range=keys_range)

    async def asset_of(tree: Any, segments: list[str]) -> None:
        asked.append(segments[1])

    monkeypatch.setattr(volume_watch, "lookup", lookup)
    monkeypatch.setattr(volume_watch, "asset_of", asset_of)

    asyncio.run(volume_watch.VolumeWatch(None, Readable([tmp_path])).look())

    assert asked == keys[-20:]
