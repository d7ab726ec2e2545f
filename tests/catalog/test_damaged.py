"""A frame that is not what was stored is not served: 503, with its number, over every route."""

from __future__ import annotations

import h5py
import httpx
import numpy as np
import pytest
from runs import SHAPE, counts_of
from tiled.structures.core import StructureFamily
from tiled.structures.data_source import Asset, DataSource, Management

from offbragg.errors import CatalogError
from offbragg.files import scan_layout
from offbragg.files.scan_file import ScanFile
from offbragg.files.stored_sweep import places_of_chunks


def test_a_damaged_frame_is_named_and_the_others_are_served(make_run, server, cat, tmp_path):
    run = make_run(n_frames=10).begin().create_scan_file()
    run.store(0, 1, 2, 4, 5, 6, 7, 8, 9)
    run.scan.mark(3, "missing", "was not there")
    run.announce(10)
    run.finish()
    path = run.scan.path
    # before the server first opens the file: links do not change after that
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        file["entry/data/same"] = file[scan_layout.DATA]
    run.open()
    run.feed()
    with ScanFile.open(path) as scan:
        offset, size = places_of_chunks(scan._get(scan_layout.DATA))[6]
    with path.open("r+b") as file:  # in LZ4's literals: HDF5 decodes it without an error
        file.seek(offset + size - 10)
        octet = file.read(1)
        file.seek(offset + size - 10)
        file.write(bytes([octet[0] ^ 4]))
    with h5py.File(path, "r", locking=False) as file:
        assert not np.array_equal(file[scan_layout.DATA][6], counts_of(6))
    frames = run.node["primary"]["pilatus_image"]

    np.testing.assert_array_equal(frames[5], counts_of(5))
    np.testing.assert_array_equal(frames[7:10, 1], [counts_of(n)[1] for n in (7, 8, 9)])
    assert (frames[3] == -1).all()
    for asked in (6, slice(4, 8), (slice(None), 0), (6, 0, 0), (slice(0, 10, 3), 0)):
        with pytest.raises(CatalogError, match=r"503.*Frame 6 is damaged"):
            frames[asked]
    with pytest.raises(CatalogError, match=r"503.*Frame 6 is damaged"):
        run.node["primary"].read()

    # the same file, registered as a whole, and through another link to the frames
    source = DataSource(
        structure_family=StructureFamily.container,
        structure=None,
        mimetype="application/x-hdf5",
        parameters={"swmr": True, "locking": False},
        assets=[Asset(f"file://localhost{path}", False, "data_uris", 0)],
        management=Management.external,
    )
    key = f"whole-file-{run.uid}"
    cat.new(StructureFamily.container, [source], key=key)
    where = f"{server.url}/api/v1/array/full/{cat.path_parts[0]}/{key}/entry"
    headers = {"Authorization": f"Apikey {server.key}"}
    with httpx.Client(headers=headers, timeout=60) as http:
        for name in ("data", "same"):
            good, bad = (
                http.get(
                    f"{where}/data/{name}",
                    params={"slice": part, "format": "application/octet-stream"},
                )
                for part in ("5", "5:8")
            )
            assert good.status_code == 200, good.text
            counts = np.frombuffer(good.content, "<i4").reshape(SHAPE)
            np.testing.assert_array_equal(counts, counts_of(5))
            assert bad.status_code == 503, bad.text
            assert "Frame 6 is damaged" in bad.json()["detail"]
        angles = http.get(f"{where}/frames/angle")
    assert angles.status_code == 200, angles.text


def test_a_scan_file_that_does_not_open_is_not_listed_as_whole(make_run, http):
    run = make_run(n_frames=3).begin().create_scan_file()
    run.store(0, 1, 2)
    run.announce(3)
    run.finish()
    run.open()
    run.feed()
    path = run.scan.path
    (before,) = http.get(f"/runs/{run.uid}").json()["files"]
    damaged = path.with_suffix(".part")
    damaged.write_bytes(path.read_bytes()[:2000])

    damaged.replace(path)

    (after,) = http.get(f"/runs/{run.uid}").json()["files"]
    assert (before["whole"], after["whole"]) == (True, False)
