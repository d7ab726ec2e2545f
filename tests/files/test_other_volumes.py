"""Volumes as Mantid, meerkat, DISCUS, NXRefine and Scatty write them."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest

from offbragg.errors import ReductionError
from offbragg.files.other_volumes import (
    read_any_volume,
    read_other_volume,
    write_other_volume,
)
from offbragg.files.volume_file import read_volume
from offbragg.files.volume_writer import write_volume
from offbragg.grid import Grid
from offbragg.lattice import direct_basis
from offbragg.sample import Sample
from offbragg.volume import Volume

MONOCLINIC = (4.1, 5.3, 6.7, 90.0, 103.7, 90.0)
TRICLINIC = (4.1, 5.3, 6.7, 81.0, 103.7, 117.3)
PEAK = (1.0, -0.5, 0.75)  # a delta function, at three different indices


@pytest.fixture
def volume() -> Volume:
    grid = Grid((-20, -8, 3), (31, 14, 9), (10, 10, 5))
    rng = np.random.default_rng(0)
    weight = rng.random(grid.shape) * (rng.random(grid.shape) > 0.3)
    counts = rng.poisson(20, grid.shape) * (weight > 0).astype(float)
    UB = np.linalg.inv(direct_basis(TRICLINIC)).T  # columns a*, b*, c*
    rows = tuple(tuple(map(float, row)) for row in UB)
    sample = Sample("LSMO", "c1", lattice=TRICLINIC, space_group="P -1", UB=rows)
    return Volume(counts, weight, grid, sample=sample, symmetry="-1")


def _delta(shape, place):
    data = np.zeros(shape)
    data[place] = 7.0
    return data


def _peak(volume: Volume) -> tuple[float, ...]:
    place = np.unravel_index(np.nanargmax(volume.intensity), volume.counts.shape)
    assert volume.grid is not None
    return tuple(float(volume.grid.axis(i)[n]) for i, n in enumerate(place))


# -- as the other programs write them ----------------------------------------------------------


def write_meerkat(path, *, keep=False, **other):
    """As meerkat.reconstruct_data does, with maxind (2, 1, 1.5) and 41 × 21 × 13 pixels."""
    maxind, pixels = np.array([2.0, 1.0, 1.5], np.float32), np.array([41, 21, 13])
    step = 1 / ((pixels - 1) / maxind / 2)
    index = np.around((np.array(PEAK) + maxind) / step).astype(int)
    sums, count = np.zeros(pixels, np.float32), np.ones(pixels, np.int64)
    sums[tuple(index)], count[tuple(index)], count[0, 0, 0] = 14.0, 2, 0
    with h5py.File(path, "w") as file:
        if keep:
            file["rebinned_data"], file["number_of_pixels_rebinned"] = sums, count
        else:
            with np.errstate(invalid="ignore"):
                file["data"] = sums / count.astype(np.float32)
        file["format"] = "Yell 0.9" if keep else "Yell 1.0"
        file["space_group_nr"] = np.array([1.0])
        file["unit_cell"] = np.array(MONOCLINIC)
        file["metric_tensor"] = np.eye(3)
        file["step_sizes"], file["lower_limits"] = step, -maxind
        file["is_direct"] = False
        for name, value in other.items():
            del file[name]
            if value is not None:
                file[name] = value
    return path


def write_mantid(path, *, names=("[H,0,0]", "[0,K,0]", "[0,0,L]"), convention="Crystallography"):
    """As SaveMD version 2 does, with edges half a bin outside of -2..2, -1..1, -1.5..1.5."""
    edges = [np.linspace(-2.05, 2.05, 42), np.linspace(-1.05, 1.05, 22)]
    edges.append(np.linspace(-1.625, 1.625, 14))
    centres = [(axis[1:] + axis[:-1]) / 2 for axis in edges]
    place = tuple(int(np.argmin(np.abs(c - x))) for c, x in zip(centres, PEAK, strict=True))
    signal = _delta([len(c) for c in centres], place).T
    mask = np.zeros(signal.shape, np.int8)
    mask[-1, 0, 0], signal[0, 0, -1] = 1, np.nan
    with h5py.File(path, "w") as file:
        entry = file.create_group("MDHistoWorkspace")
        entry.attrs["SaveMDVersion"] = np.int32(2)
        if convention:
            entry.attrs["QConvention"] = convention
        data = entry.create_group("data")
        for i, (axis, name) in enumerate(zip(edges, names, strict=True)):
            data[f"D{i}"] = axis
            data[f"D{i}"].attrs.update(long_name=name, units="r.l.u.", frame="HKL")
        for name, values in (
            ("signal", signal), ("errors_squared", 2 * signal), ("mask", mask),
            ("num_events", np.zeros(signal.shape)),
        ):  # fmt: skip
            data.create_dataset(name, data=values, chunks=(1, 21, 41), compression="gzip")
        data["signal"].attrs["axes"] = "D2:D1:D0"
        sample = entry.create_group("experiment0/sample")
        sample.attrs["name"] = "PZN #3"
        lattice = sample.create_group("oriented_lattice")
        lattice["orientation_matrix"] = np.linalg.inv(direct_basis(MONOCLINIC)).T
    return path


def write_nxrefine(folder, *, outside=False):
    """A wrapper with axes, and the values in transform.nxs in a folder below it, as nxcombine."""
    below = folder.parent / "elsewhere" if outside else folder / "300K"
    folder.mkdir()
    below.mkdir()
    axes = [np.linspace(-2, 2, 41), np.linspace(-1, 1, 21), np.linspace(-1.5, 1.5, 13)]
    place = tuple(int(np.argmin(np.abs(c - x))) for c, x in zip(axes, PEAK, strict=True))
    v = _delta((41, 21, 13), place)
    v[:, :, 0] = 3.0
    with h5py.File(below / "transform.nxs", "w") as file:
        file["entry/data/v"] = v.T.astype(np.float32)
    path = folder / "x_300K.nxs"
    with h5py.File(path, "w") as file:
        group = file.create_group("entry/transform")
        for name, axis in zip(("Qh", "Qk", "Ql"), axes, strict=True):
            group[name] = axis
        group.attrs["axes"], group.attrs["signal"] = ["Ql", "Qk", "Qh"], "data"
        leads = ("../elsewhere" if outside else "300K") + "/transform.nxs"
        group["data"] = h5py.ExternalLink(leads, "/entry/data/v")
        for name, value in zip("abc", MONOCLINIC, strict=False):
            file[f"entry/sample/unitcell_{name}"] = value
        for name, value in zip(("alpha", "beta", "gamma"), MONOCLINIC[3:], strict=True):
            file[f"entry/sample/unitcell_{name}"] = value
    return path


def write_scatty(path, *, missing=(), twice=False):
    rows = [
        f"{h:12.5f}{k:12.5f}{l:12.5f}{7.0 if (h, k, l) == PEAK else 0.25:14.6f}{1.0:10.4f}"
        for h in np.arange(-20, 21) / 10 for k in np.arange(-10, 11) / 10
        for l in np.arange(-6, 7) / 4 if (h, k, l) not in missing  # noqa: E741
    ]  # fmt: skip
    path.write_text("\n".join(rows + rows[:1] * twice) + "\n")
    return path


def write_discus(path, *, axes="hk", change=lambda text: text):
    """As DISCUS writes its format standard: the layer across the third index through the peak."""
    across = next(name for name in "hkl" if name not in axes)
    ends = {"h": (-2.0, 2.0, 41), "k": (-1.0, 1.0, 21), "l": (-1.5, 1.5, 13)}
    corner = {name: ends[name][0] for name in axes} | {across: PEAK["hkl".index(across)]}
    corners = [corner] + [corner | {name: ends[name][1]} for name in axes]
    columns, rows = (np.linspace(*ends[name]) for name in axes)
    lines = ["# HEADER  : lines, sec  ;2I::       22,        2",
             "# CRYSTAL : no. atoms   ;3I::            8,            1,            8",
             "# FOURIER : radiation   ;1C:: xray"]  # fmt: skip
    for name, at in zip(("lower left", "lower right", "upper left"), corners, strict=True):
        h, k, l = (at[each] for each in "hkl")  # noqa: E741
        lines.append(f"# FOURIER : {name:11} ;3R::{h:12.5f}, {k:12.5f}, {l:12.5f}")
    lines.append(f"# FOURIER : no. points  ;3I::{len(columns):12d}, {len(rows):12d}, {1:12d}")
    lines.append(f" {len(columns):8d} {len(rows):8d}")
    limits = (columns[0], columns[-1], rows[0], rows[-1])
    lines.append("".join(f" {value:12.5E}" for value in limits))
    for ordinate in rows:
        at = corner | {axes[1]: ordinate}
        row = [
            7.0 if np.allclose([(at | {axes[0]: x})[name] for name in "hkl"], PEAK) else 0.25
            for x in columns
        ]
        for first in range(0, len(row), 5):
            lines.append("".join(f" {value:12.5E}" for value in row[first : first + 5]))
    path.write_text(change("\n".join(lines) + "\n\n"))
    return path


# -- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [False, True])
def test_the_limits_of_meerkat_are_centres(tmp_path, keep):
    kind, volume = read_other_volume(write_meerkat(tmp_path / "m.h5", keep=keep))

    assert kind == "yell"
    assert _peak(volume) == PEAK
    assert volume.grid == Grid((-20, -10, -6), (41, 21, 13), (10, 10, 4))
    assert volume.sample.lattice == MONOCLINIC
    assert np.argwhere(~volume.measured).tolist() == [[0, 0, 0]]
    assert np.nanmax(volume.intensity) == 7.0
    assert np.isnan(volume.sigma).all()  # the format has none


def test_the_axes_of_mantid_are_edges(tmp_path):
    kind, volume = read_other_volume(write_mantid(tmp_path / "m.nxs"))

    assert kind == "mantid"
    assert _peak(volume) == PEAK
    assert volume.grid == Grid((-20, -10, -6), (41, 21, 13), (10, 10, 4))
    assert sorted(map(tuple, np.argwhere(~volume.measured))) == [(0, 0, 12), (40, 0, 0)]
    np.testing.assert_allclose(volume.sample.lattice, MONOCLINIC, rtol=1e-12)
    np.testing.assert_allclose(volume.sample.UB, np.linalg.inv(direct_basis(MONOCLINIC)).T)
    assert volume.sample.name == "PZN_3"
    assert np.nanmax(volume.sigma) == np.sqrt(14.0)


@pytest.mark.parametrize("convention", ["Inelastic", None])
def test_hkl_of_mantid_changes_its_sign_with_the_convention_of_q(tmp_path, convention):
    volume = read_any_volume(write_mantid(tmp_path / "m.nxs", convention=convention))

    assert _peak(volume) == tuple(-x for x in PEAK)
    assert volume.grid == Grid((-20, -10, -6), (41, 21, 13), (10, 10, 4))


def test_the_axes_of_mantid_are_put_into_order(tmp_path):
    names = ("[0,H,0]", "[0,0,-K]", "[L,0,0]")

    volume = read_any_volume(write_mantid(tmp_path / "m.nxs", names=names))

    assert _peak(volume) == (PEAK[2], PEAK[0], -PEAK[1])
    assert volume.counts.shape == (13, 41, 21)


def test_a_transform_of_nxrefine_is_read_through_its_wrapper(tmp_path):
    kind, volume = read_other_volume(write_nxrefine(tmp_path / "sample"))

    assert kind == "nxrefine"
    assert _peak(volume) == PEAK
    assert volume.sample.lattice == MONOCLINIC
    assert volume.measured.sum() == 41 * 21 + 1  # CCTW leaves at 0 what no pixel met


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    with pytest.raises(ReductionError, match="not in its folder"):
        read_any_volume(write_nxrefine(tmp_path / "sample", outside=True))


def test_a_list_of_scatty_is_read_and_holes_are_unmeasured(tmp_path):
    hole = (0.5, 0.0, 0.25)

    kind, volume = read_other_volume(write_scatty(tmp_path / "x_sc_list.txt", missing=[hole]))

    assert kind == "hkl list"
    assert _peak(volume) == PEAK
    assert volume.grid == Grid((-20, -10, -6), (41, 21, 13), (10, 10, 4))
    assert np.argwhere(~volume.measured).tolist() == [list(volume.grid.index(hole))]
    assert np.isnan(volume.sigma[volume.measured]).all()


@pytest.mark.parametrize(
    ("axes", "first", "shape"),
    [
        ("hk", (-20, -10, 3), (41, 21, 1)),
        ("kh", (-20, -10, 3), (41, 21, 1)),
        ("lh", (-20, -1, -6), (41, 1, 13)),
        ("kl", (1, -10, -6), (1, 21, 13)),
    ],
)
def test_a_layer_of_discus_lies_where_its_header_says(tmp_path, axes, first, shape):
    kind, volume = read_other_volume(write_discus(tmp_path / "x.inte", axes=axes))

    assert kind == "discus"
    assert _peak(volume) == PEAK
    assert (volume.grid.first, volume.grid.shape) == (first, shape)
    assert volume.measured.all()
    assert np.isnan(volume.sigma).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("lower right", "lower wrong"), "no line FOURIER : lower right"),
        (lambda text: text.replace("# FOURIER", "# PATTERSON"), "write them in its format hdf5"),
        (lambda text: text.replace("2.50000E-01", "***********", 1), "something between"),
        (lambda text: text[:-40], "numbers after its header"),
        (lambda text: text.replace("       41,", " 99999999,"), "too short"),
        (lambda text: text.replace("21,            1", "21,            5"), "a layer is read"),
        (lambda text: text.replace("left  ;3R::    -2.00000", "left  ;3R::    nan"), "lower left"),
        (
            lambda text: text.replace(" 2.00000,     -1.00000", " 2.00000,     -0.50000"),
            "only axes along",
        ),
        (
            lambda text: text.replace("-2.00000,      1.00000", " 2.00000,     -1.00000"),
            "two axes along h",
        ),
    ],
)
def test_what_is_wrong_with_a_layer_of_discus_is_named(tmp_path, change, message):
    with pytest.raises(ReductionError, match=message):
        read_any_volume(write_discus(tmp_path / "x.inte", change=change))


def test_a_plane_of_scatty_says_that_its_list_is_to_be_read(tmp_path):
    path = tmp_path / "x_sc.txt"
    np.savetxt(path, np.ones((7, 9)))

    with pytest.raises(ReductionError, match=r"Read x_sc_list\.txt.*: it is not there"):
        read_any_volume(path)
    write_scatty(tmp_path / "x_sc_list.txt")
    with pytest.raises(ReductionError, match="it is there"):
        read_any_volume(path)


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"is_direct": True}, "is a pair distribution"),
        ({"unit_cell": None}, "has no /unit_cell"),
        ({"data": None}, "has no /data"),
        ({"data": np.zeros((4, 4))}, "has 2 dimensions, not 3"),
        ({"step_sizes": np.array([0.1, 0.1, 0.3])}, "not whole multiples"),
        ({"step_sizes": np.array([0.1, np.nan, 0.3])}, "not 3 numbers"),
        ({"lower_limits": np.array([-1.95, -1, -1.5])}, "not whole multiples"),
        ({"unit_cell": np.array([4.0, 4, 4, 170, 170, 170])}, "lattice"),
    ],
)  # fmt: skip
def test_what_yell_lacks_is_named(tmp_path, other, message):
    with pytest.raises(ReductionError, match=message):
        read_any_volume(write_meerkat(tmp_path / "m.h5", **other))


@pytest.mark.parametrize("vector", [[0.1, 0.1, 0.0], [-0.1, 0.0, 0.0]])
def test_oblique_and_mirrored_steps_of_discus_are_refused(tmp_path, vector):
    path = write_meerkat(tmp_path / "d.h5")
    with h5py.File(path, "a") as file:
        file["step_sizes_abs"] = np.array(vector)

    with pytest.raises(ReductionError, match="only axes along h, k and l"):
        read_any_volume(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f["MDHistoWorkspace/data/D0"].attrs.modify("long_name", "[H,H,0]"), r"H,H,0"),
        (lambda f: f["MDHistoWorkspace/data/D1"].attrs.modify("long_name", "[K,0,0]"), "one of h"),
        (lambda f: f["MDHistoWorkspace/data/D1"].attrs.modify("frame", "QSample"), "QSample"),
        (
            lambda f: f.__delitem__("MDHistoWorkspace/data/mask"),
            "has no /MDHistoWorkspace/data/mask",
        ),
        (lambda f: f.__delitem__("MDHistoWorkspace/data/signal"), "SaveMD version 2"),
        (lambda f: f["MDHistoWorkspace/data/D0"].write_direct(np.linspace(-2, 2, 42)), "401 bins"),
        (lambda f: f.move("MDHistoWorkspace", "MDEventWorkspace"), "BinMD"),
    ],
)
def test_what_mantid_has_that_a_volume_cannot_hold_is_named(tmp_path, change, message):
    path = write_mantid(tmp_path / "m.nxs")
    with h5py.File(path, "a") as file:
        change(file)

    with pytest.raises(ReductionError, match=message):
        read_any_volume(path)


def test_two_lines_for_one_cell_are_refused(tmp_path):
    with pytest.raises(ReductionError, match="two lines for hkl"):
        read_any_volume(write_scatty(tmp_path / "x.txt", twice=True))


def test_a_line_between_two_cells_is_refused(tmp_path):
    path = write_scatty(tmp_path / "x.txt")
    lines = [
        line
        for line in path.read_text().splitlines()
        if line[:12].strip() not in ("0.50000", "0.60000")
    ]
    path.write_text("\n".join([*lines, "0.54 0 0 1 1"]) + "\n")

    with pytest.raises(ReductionError, match="not the centre of a cell"):
        read_any_volume(path)


def test_what_is_not_a_volume_is_refused_as_before(tmp_path):
    (tmp_path / "x.txt").write_text("not a volume\n" * 3)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data"] = np.zeros(3)

    for name in ("x.txt", "x.h5", "none.h5"):
        assert read_other_volume(tmp_path / name) is None
        with pytest.raises(ReductionError):
            read_any_volume(tmp_path / name)


# -- round trips -------------------------------------------------------------------------------


def _exactly(one: Volume, other: Volume) -> None:
    assert (one.grid, one.sample, one.symmetry) == (other.grid, other.sample, other.symmetry)
    np.testing.assert_array_equal(one.intensity, other.intensity)
    np.testing.assert_array_equal(one.measured, other.measured)


@pytest.mark.parametrize("kind", ["yell", "mantid", "nxrefine"])
def test_ours_is_written_and_read_exactly(tmp_path, volume, kind):
    path = write_other_volume(tmp_path / "o", volume, kind)

    found, again = read_other_volume(path)

    assert found == kind
    _exactly(again, volume)
    if kind == "nxrefine":
        np.testing.assert_array_equal(again.counts, volume.counts)
        np.testing.assert_array_equal(again.weight, volume.weight)
        np.testing.assert_array_equal(again.sigma, volume.sigma)
    if kind == "mantid":
        np.testing.assert_allclose(again.sigma, volume.sigma, rtol=1e-15)


@pytest.mark.parametrize("kind", ["yell", "mantid", "nxrefine"])
def test_one_layer_is_written_and_read_exactly(tmp_path, volume, kind):
    grid = Grid((-20, -8, 3), (31, 14, 1), (10, 10, 5))
    layer = Volume(
        volume.counts[..., :1], volume.weight[..., :1], grid,
        sample=volume.sample, symmetry=volume.symmetry,
    )  # fmt: skip

    _exactly(read_any_volume(write_other_volume(tmp_path / "o", layer, kind)), layer)


@pytest.mark.parametrize("kind", ["yell", "mantid", "nxrefine"])
def test_theirs_is_written_again_exactly(tmp_path, volume, kind):
    once = read_any_volume(write_other_volume(tmp_path / "1", volume, kind))
    ours = read_volume(write_volume(tmp_path / "ours.h5", once, {"inputs": []}))
    twice = read_any_volume(write_other_volume(tmp_path / "2", ours, kind))

    _exactly(twice, once)
    np.testing.assert_array_equal(twice.total_variance, once.total_variance)
    np.testing.assert_array_equal(twice.weight, once.weight)


def test_a_cell_without_an_orientation_is_written_for_mantid(tmp_path, volume):
    sample = Sample("LSMO", "c1", lattice=TRICLINIC)
    path = write_other_volume(tmp_path / "o", replace(volume, sample=sample), "mantid")
    with h5py.File(path, "a") as file:
        del file.attrs["offbragg"]  # as Mantid would see it

    again = read_any_volume(path)

    np.testing.assert_array_equal(again.sample.lattice, TRICLINIC)


def test_no_file_is_overwritten(tmp_path, volume):
    (tmp_path / "o").touch()

    with pytest.raises(ReductionError, match="there already"):
        write_other_volume(tmp_path / "o", volume, "mantid")
