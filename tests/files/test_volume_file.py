from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from nexusformat.nexus import nxload

from offbragg.errors import ReductionError
from offbragg.files.volume_file import VolumeFile, read_volume
from offbragg.files.volume_writer import write_volume
from offbragg.grid import Grid
from offbragg.sample import Sample
from offbragg.volume import Volume

HEXAGONAL = (4.0, 4.0, 6.0, 90.0, 90.0, 120.0)


@pytest.fixture
def volume() -> Volume:
    grid = Grid((-20, -8, 3), (50, 40, 35), (10, 10, 5))
    rng = np.random.default_rng(0)
    weight = rng.random(grid.shape) * (rng.random(grid.shape) > 0.3)
    counts = rng.poisson(20, grid.shape) * (weight > 0).astype(float)
    sample = Sample("LSMO", "c1", lattice=HEXAGONAL, space_group="R -3 c")
    return Volume(counts, weight, grid, sample=sample, symmetry="-1")


def test_what_was_written_is_read(tmp_path, volume):
    path = write_volume(tmp_path / "v.h5", volume, {"inputs": []})

    again = read_volume(path)

    np.testing.assert_array_equal(again.counts, volume.counts)
    np.testing.assert_array_equal(again.weight, volume.weight)
    assert (again.grid, again.sample, again.symmetry) == (volume.grid, volume.sample, "-1")
    with VolumeFile(path) as file:
        part = file.part((slice(2, 5), slice(0, 40), slice(7, 8)))
        assert file.completeness == volume.completeness
    np.testing.assert_array_equal(part.counts, volume.counts[2:5, :, 7:8])
    np.testing.assert_allclose(part.grid.l, [2.0])


def test_nexpy_plots_it_and_nxrefine_reads_the_transform(tmp_path, volume):
    """As nexusformat sees it, on which both are built: default data, axes, weights."""
    path = write_volume(tmp_path / "v.h5", volume, {"inputs": []})

    root = nxload(path)

    data = root.plottable_data
    assert data.nxname == "data"
    assert data.nxsignal.shape == (35, 40, 50)
    assert [axis.nxname for axis in data.nxaxes] == ["Ql", "Qk", "Qh"]
    assert np.isnan(data.nxsignal.nxvalue[volume.weight.T == 0]).all()
    transform = root["entry/transform"]
    assert transform.nxsignal.nxname == "v"
    np.testing.assert_array_equal(transform.nxsignal.nxdata, volume.counts.T)
    np.testing.assert_array_equal(transform["n"].nxdata, volume.weight.T)
    np.testing.assert_array_equal(transform["data"].nxdata, data.nxsignal.nxdata)
    np.testing.assert_allclose(transform["Qh"].nxvalue, volume.grid.h)
    scale = transform["Qh"].attrs["scaling_factor"]
    assert float(scale) == pytest.approx(2 * np.pi / (4.0 * np.sin(np.radians(120.0))))
    with np.errstate(invalid="ignore"):  # nexusformat divides by all weights
        weighted = transform.weighted_data()
    seen = volume.weight.T > 0
    np.testing.assert_allclose(weighted.nxsignal.nxvalue[seen], volume.intensity.T[seen])


def test_arrays_are_in_cubic_chunks_and_compressed(tmp_path, volume):
    path = write_volume(tmp_path / "v.h5", volume, {"inputs": []})

    with h5py.File(path) as file:
        for name in ("volume/counts", "volume/weight", "data/intensity"):
            data = file[f"entry/{name}"]
            assert data.chunks == (32, 32, 32)
            assert "32008" in data._filters  # bitshuffle


def test_levels_are_sums_of_blocks(tmp_path, volume):
    path = write_volume(tmp_path / "v.h5", volume, {"inputs": []})

    with h5py.File(path) as file:
        for level in (2, 4, 8):
            coarse = file[f"entry/levels/{level}"]
            block = volume[:level, level : 2 * level, :level]
            expected = block.counts.sum() / block.weight.sum()
            assert coarse["intensity"][0, 1, 0] == pytest.approx(expected, rel=1e-6)
            assert coarse["Qk"][1] == pytest.approx(block.grid.k.mean())
            assert coarse["intensity"].shape == tuple(-(-n // level) for n in (35, 40, 50))
            last = volume.grid.l[34 - 34 % level :]  # fewer cells: their middle, not outside
            assert coarse["Ql"][-1] == pytest.approx(last.mean())


def test_v_is_above_background(tmp_path, volume):
    air = Volume(np.full(volume.counts.shape, 2.0), np.ones(volume.counts.shape), volume.grid)
    above = volume.subtract(air)

    path = write_volume(tmp_path / "v.h5", above, {"inputs": []})

    with h5py.File(path) as file:
        v, n = file["entry/transform/v"][()].T, file["entry/transform/n"][()].T
    seen = n > 0
    np.testing.assert_allclose(v[seen] / n[seen], above.intensity[seen])
    np.testing.assert_allclose(read_volume(path).sigma, above.sigma)


def test_the_same_makes_the_same_bytes_and_is_never_overwritten(tmp_path, volume):
    record = {"inputs": [], "versions": {"offbragg": "0.1.0"}, "temperature": 100.0}
    one = write_volume(tmp_path / "one.h5", volume, record)
    other = write_volume(tmp_path / "other.h5", volume, record)

    assert one.read_bytes() == other.read_bytes()
    with VolumeFile(one) as file:
        assert file.record == json.loads(json.dumps(record))
    with pytest.raises(ReductionError, match="not overwritten"):
        write_volume(one, volume, record)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.h5", "other.h5"]


def test_what_is_no_volume_file_is_refused(tmp_path):
    with pytest.raises(ReductionError, match=r"no\.h5 is not there"):
        VolumeFile(tmp_path / "no.h5")
    (tmp_path / "text.h5").write_text("no")
    with pytest.raises(ReductionError, match="cannot be opened"):
        VolumeFile(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["a"] = 1
    with pytest.raises(ReductionError, match="is not a volume file"):
        VolumeFile(tmp_path / "other.h5")
