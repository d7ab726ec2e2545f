"""What an earlier version wrote is read as before: see data/before/README.md."""

from __future__ import annotations

import shutil
import sqlite3
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from catalog.served import Server

from offbragg.beamline.config import load
from offbragg.catalog.client import connect
from offbragg.files.digest import digest_path
from offbragg.files.journal_file import is_open, read_journal, read_start
from offbragg.files.journal_folder import journals
from offbragg.files.orientation import read_orientation
from offbragg.files.scan_file import ScanFile
from offbragg.files.volume_file import VolumeFile, read_volume
from offbragg.followers.follow import follow
from offbragg.followers.publisher import Publisher
from offbragg.followers.stacker import Stacker
from offbragg.recovery.rebuild import rebuild
from offbragg.recovery.repair import repair
from offbragg.recovery.verify import verify
from offbragg.shell.kept_metadata import KeptMetadata
from offbragg.workflows.reproduce import reproduce

ARCHIVE = Path(__file__).parent / "data" / "before" / "data.tar.xz"
WRITTEN_IN = "/offbragg-before"
WHOLE = "before00-0000-4000-8000-000000000001"
BEGUN = "begun000-0000-4000-8000-000000000002"
N, SHAPE = 6, (24, 32)
UB = ((0.25, 0.0, 0.0), (0.0, 0.25, 0.0), (0.0, 0.0, 0.25))


def counts_of(number: int) -> np.ndarray:
    pixels = np.arange(SHAPE[0] * SHAPE[1], dtype=np.int32).reshape(SHAPE)
    counts = (pixels * 7 + 13 * number) % 11
    counts[0, 0] = number
    counts[5, 5] = 1000 + number
    counts[10] = -1
    return counts


def unpack(root: Path) -> Path:
    """Unpack what was written, and let it say that it was written here."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(root, filter="data")
    for path in (root / "journal").glob("*.jsonl"):
        path.write_text(path.read_text().replace(WRITTEN_IN, str(root)))
    with sqlite3.connect(root / "catalog" / "catalog.db") as database:
        for table, column in (("assets", "data_uri"), ("nodes", "metadata")):
            database.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (WRITTEN_IN, str(root))
            )
    database.close()
    (root / "catalog" / "key").chmod(0o600)
    return root


@pytest.fixture
def before(tmp_path) -> Path:
    return unpack(tmp_path / "before")


def scan_file(root: Path, temperature: str = "120K") -> Path:
    return root / "experiment" / "LSMO-140" / "c1" / temperature / "f1.h5"


def test_frames_angles_and_values_of_a_scan_file(before):
    with ScanFile.open(scan_file(before)) as scan:
        stack = scan.stack
        counts = np.asarray(stack.counts[:])
        values = scan.frame_values()

        assert scan.complete
        assert [status.value for status in scan.ledger.statuses] == [
            "stored", "stored", "stored", "missing", "stored", "stored"
        ]  # fmt: skip
        assert scan.ledger.reasons[3] == "x_00003.cbf was not there"
        assert scan.geometry.panel.shape == SHAPE
        assert scan.sample.UB == UB
    for number in range(N):
        expected = np.full(SHAPE, -1) if number == 3 else counts_of(number)
        np.testing.assert_array_equal(counts[number], expected)
    np.testing.assert_allclose(values["angle"], 1.0 + 2.0 * np.arange(N))
    np.testing.assert_array_equal(values["monitor"], 1000.0 + np.arange(N))
    assert set(values["angle_source"]) == {"commanded"}


def test_a_scan_file_is_verified_and_a_damaged_one_is_repaired(before):
    path = scan_file(before)
    assert verify(path, journal=before / "journal", deep=True).problems == []
    raw = bytearray(path.read_bytes())
    with ScanFile.open(path) as scan:
        place = scan._get("/entry/data/data").id.get_chunk_info(2).byte_offset + 30
    raw[place] ^= 0xFF
    path.write_bytes(raw)
    assert verify(path).differ == [2]

    (done,) = [
        each
        for each in repair(before / "journal", before / "experiment", frames=before / "frames")
        if Path(each.path) == path
    ]

    assert done.read_again == [2], done
    assert verify(path, journal=before / "journal", deep=True).problems == []
    with ScanFile.open(path) as scan:
        np.testing.assert_array_equal(scan.stack.counts[2], counts_of(2))


def test_journals_numbers_metadata_and_configuration(before):
    config = load(before / "beamline.toml")
    documents, _ = read_journal(config.paths.journal / f"{WHOLE}.jsonl")

    assert [path.stem for path in journals(config.paths.journal)] == [WHOLE, BEGUN]
    assert documents[0][1]["sample"]["name"] == "LSMO-140"
    assert (documents[-1][0], documents[-1][1]["exit_status"]) == ("stop", "success")
    assert not is_open(config.paths.journal / f"{BEGUN}.jsonl")
    assert KeptMetadata(config.paths.journal / "RE.md.json", {})["proposal"] == "2026-17"
    assert (config.paths.journal / "scan_id").read_text() == "2\n"
    assert set(config.devices) >= {"pilatus", "phi", "cryostream"}


def test_a_sweep_that_was_killed_is_stacked_to_its_end(before):
    """Its scan file is marked as being written, and three frames of six are in it."""
    path = scan_file(before, "90K")
    journal = before / "journal"

    failed = follow(
        journal, [Stacker(before / "experiment", late=0.0, frames=before / "frames")], once=True
    )

    assert failed == {"stack": []}
    assert read_journal(journal / f"{BEGUN}.jsonl")[0][-1][1]["exit_status"] == "fail"
    with ScanFile.open(path) as scan:
        assert scan.complete
        assert [status.value for status in scan.ledger.statuses] == [
            "stored", "stored", "stored", "stored", "missing", "stored"
        ]  # fmt: skip
        for number in (0, 1, 2, 3, 5):
            np.testing.assert_array_equal(scan.stack.counts[number], counts_of(number))
        np.testing.assert_array_equal(scan.frame_values()["monitor"], 1000.0 + np.arange(N))
    assert verify(path, journal=journal).problems == []
    assert digest_path(path).is_file()


def test_a_volume_its_record_and_its_orientation(before):
    folder = scan_file(before).parent
    volume = read_volume(folder / "volume-f1.h5")

    assert volume.grid.shape == (17, 17, 9)
    assert read_orientation(folder / "orientation.json").UB == UB
    with VolumeFile(folder / "volume-f1.h5") as file:
        assert file.record["format"] == 1
        assert file.record["inputs"][0]["run"] == WHOLE
        assert file.record["inputs"][0]["file"] == "f1.h5"
    assert volume.counts.sum() == 18360.0
    assert volume.counts[10, 10, 4] == 242.0
    np.testing.assert_allclose(volume.weight.sum(), 1323.0225056925924)
    again = reproduce(folder / "volume-f1.h5", out=folder / "again.h5")
    assert again.same, again


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    root = unpack(tmp_path_factory.mktemp("served") / "before")
    server = Server.start(root / "catalog", root)
    runs: Any = connect(server.url, server.key)
    yield root, runs
    server.process.kill()
    server.process.wait()


def test_a_catalog_is_served_and_sliced(served):
    root, runs = served

    run = runs[WHOLE]

    assert list(runs) == [WHOLE]
    image = run["primary"]["pilatus_image"]
    assert image.shape == (N, *SHAPE)
    np.testing.assert_array_equal(image[4, 3:9, ::2], counts_of(4)[3:9, ::2])
    assert (image[3] == -1).all()
    assert [str(status) for status in run["primary"]["status"].read()].count("stored") == 5
    np.testing.assert_allclose(run["primary"]["angle"].read(), 1.0 + 2.0 * np.arange(N))
    np.testing.assert_allclose(
        run["cryostream_temperature"]["cryostream_temperature"].read(), [120.0, 120.5]
    )
    assert len(runs.v1[WHOLE].table()) == N
    resources = [doc for name, doc in run.documents() if name == "stream_resource"]
    assert "application/x-hdf5" in {doc["mimetype"] for doc in resources}
    assert verify(scan_file(root), catalog=lambda: runs).catalog == "agrees"


def test_a_run_in_it_is_left_alone_or_made_again(served):
    root, runs = served
    start = read_start(root / "journal" / f"{WHOLE}.jsonl")
    made = runs[WHOLE].item["attributes"]["metadata"]

    assert Publisher(lambda: runs, root / "experiment").done(start)
    shutil.move(root / "journal" / f"{BEGUN}.jsonl", root / f"{BEGUN}.jsonl")
    rebuilt = rebuild(
        root / "journal", root / "experiment", lambda: runs, frames=root / "frames",
        runs=[WHOLE[:8]],
    )  # fmt: skip

    assert rebuilt == {"runs": 1, "published": [WHOLE], "failed": []}
    again = runs[WHOLE]
    assert again.item["attributes"]["metadata"]["start"] == made["start"]
    np.testing.assert_array_equal(again["primary"]["pilatus_image"][4], counts_of(4))
