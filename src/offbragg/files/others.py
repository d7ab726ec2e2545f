"""Find the frames in an HDF5 file of others, and what that file says about them.

An Eiger master (NXmx), files of areaDetector, nexgen, LImA and NXRefine, or a named dataset.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import h5py  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
from numpy.typing import NDArray

from offbragg.errors import ConfigError, ScanFileError
from offbragg.files.adopted import NOWHERE, Piece, path_in
from offbragg.files.adopted_datasets import open_dataset
from offbragg.files.filters import check_part
from offbragg.files.hdf5 import find_inside, link_of, open_to_read
from offbragg.files.others_places import find_places

_GROUP = "/entry/data"
_USUAL = (
    f"{_GROUP}/data",
    "/entry/instrument/detector/data",
    "/entry_0000/measurement/data",  # as LImA writes it at the ESRF
    "/entry_0000/instrument/detector/data",
)
_NUMBERED = re.compile(r"data_\d{6}")  # as Dectris names the links to data files
_DETECTOR = "/entry/instrument/detector"
_TURN = ("omega", "phi", "chi", "kappa")
_UNITS = {
    "exposure_time": ("s", "sec", "second", "seconds"),
    "exposure_period": ("s", "sec", "second", "seconds"),
    "wavelength": ("angstrom", "angstroms", "a", "å"),
    "angle": ("deg", "degree", "degrees", "°"),
}
"""Of what is read; what has others is asked for, and not converted."""
_MOST = 1 << 24  # values of what is read beside the frames


@dataclass(frozen=True, slots=True)
class OthersFrames:
    """Where frames of others are, and what their file says of them."""

    folder: Path
    pieces: tuple[Piece, ...]
    shape: tuple[int, int]
    header: dict[str, Any] = field(default_factory=dict[str, Any])
    """As those of frame files: ``exposure_time``, s, ``start_angle``, degree, and so on."""
    unclear: frozenset[str] = frozenset()
    """Keys of a header that the file has in units that are not known."""
    detector: dict[str, Any] = field(default_factory=dict[str, Any])
    """For a start document."""
    mask: NDArray[np.uint32] | None = None

    @property
    def n_frames(self) -> int:
        """How many frames there should be."""
        return self.pieces[-1].stop


def find_frames(
    path: Path, dataset: str | None = None, n_frames: int | None = None
) -> OthersFrames:
    """Find the frames that a file holds, or that its external links lead to.

    Parameters
    ----------
    path
        The file; all others are in its folder.
    dataset
        Of shape (frame, slow, fast), or a link to it; found by the usual names if None.
    n_frames
        How many there should be, instead of what the file says.

    Raises
    ------
    ConfigError
        If it is not known which dataset, how many frames, or which of them are missing.
    ScanFileError
        If something cannot be read, or leads out of the folder.
    """
    if not path.is_file():
        raise ScanFileError(f"{path} is not a file: give an HDF5 file that holds or links frames")
    try:
        file = open_to_read(path, swmr=False)
    except (OSError, RuntimeError) as error:
        raise ScanFileError(f"{path} cannot be opened: {error}") from error
    with file:
        names = _names(file, path, dataset)
        images = _number(file, f"{_DETECTOR}/detectorSpecific/nimages")
        triggers = _number(file, f"{_DETECTOR}/detectorSpecific/ntrigger") or 1
        declared = None if images is None else int(images * triggers)
        pieces, shape = _pieces(path, names, declared, n_frames)
        (header, unclear), mask = _header(file, pieces[-1].stop), _mask(file, shape)
        detector = _facts(file)
    return OthersFrames(path.parent, pieces, shape, header, unclear, detector, mask)


def read_values(path: Path, dataset: str, n_frames: int) -> NDArray[np.float64]:
    """Read one number for each frame.

    Raises
    ------
    ScanFileError
        If it is not there, or has another length.
    """
    with open_to_read(path, swmr=False) as file:
        found = _read(file, dataset)
    if found is None or found.shape != (n_frames,) or found.dtype.kind not in "iuf":
        what = "not there" if found is None else f"{found.dtype} of shape {found.shape}"
        raise ScanFileError(f"{path}: {dataset} is {what}: {n_frames} numbers are needed")
    return found.astype(np.float64)


def _names(file: h5py.File, path: Path, dataset: str | None) -> list[str]:
    if dataset is not None:
        return [dataset]
    group: Any = None
    try:
        group = find_inside(file, _GROUP, path)
        numbered = sorted(name for name in group if _NUMBERED.fullmatch(name))
    except (KeyError, TypeError):
        numbered = []
    if numbered:
        return [f"{_GROUP}/{name}" for name in numbered]
    for name in _USUAL:
        with contextlib.suppress(ConfigError):  # as of a name that is given: it may be a link
            find_places(path.parent, path.name, name)
            return [name]
    raise ConfigError(
        f"{path} has no frames under {_GROUP}/data_000001 or {' or '.join(_USUAL)}\n"
        f"Name the dataset: --dataset {' or '.join(_rotations(file)) or '/a/b'}"
    )


def _rotations(file: h5py.File) -> list[str]:
    """Return where a wrapper of NXRefine has, or links, the frames of each rotation."""
    found: list[str] = []
    for name in file:
        with contextlib.suppress(KeyError, OSError, RuntimeError, ScanFileError):
            group = find_inside(file, f"/{name}/data")
            if isinstance(group, h5py.Group) and link_of(group, "data") is not None:
                found.append(f"/{name}/data/data")
    return found


def _pieces(
    path: Path, names: list[str], declared: int | None, given: int | None
) -> tuple[tuple[Piece, ...], tuple[int, int]]:
    """Return where which frames are; of files that are not there by the length of the others."""
    found = [find_places(path.parent, path.name, name) for name in names]
    if len(names) == 1 and (virtual := found[0][1]) is not None:
        n = virtual[0] if given is None else given
        pieces = [
            Piece(one.file, one.dataset, one.first, min(one.first + (one.n or 0), n), one.offset)
            for one in sorted(found[0][0], key=lambda one: one.first)
            if one.first < n
        ]
        _check_apart(path, pieces)
        return _whole(path, pieces, n), (virtual[1], virtual[2])
    places = [(one[0][0].file, one[0][0].dataset) for one in found]
    if any(virtual is not None for _, virtual in found):
        raise ConfigError(f"{path} has virtual datasets among {names[0]} …: name one --dataset")
    shapes: list[tuple[int, ...] | None] = []
    for file, dataset in places:
        try:
            shapes.append(open_dataset(path_in(path.parent, file), dataset).shape)
        except FileNotFoundError:
            shapes.append(None)
    there = [shape for shape in shapes if shape is not None]
    if not there:
        raise ScanFileError(f"none of the data files of {path} is there: {places[0][0]} and so on")
    if len({shape[1:] for shape in there}) > 1:
        raise ScanFileError(f"the frames of {path} have several shapes: {sorted(set(there))}")
    lengths = [None if shape is None else shape[0] for shape in shapes]
    lengths = _lengths(path, lengths, declared if given is None else given, given is not None)
    pieces: list[Piece] = []
    first = 0
    for (file, dataset), n in zip(places, lengths, strict=True):
        if n:
            pieces.append(Piece(file, dataset, first, first + n))
        first += n
    if not pieces:
        raise ScanFileError(f"{path} has no frames")
    return tuple(pieces), (there[0][1], there[0][2])


def _check_apart(path: Path, pieces: list[Piece]) -> None:
    for before, piece in itertools.pairwise(pieces):
        if piece.first < before.stop:
            raise ScanFileError(
                f"{path} has frame {piece.first} twice: in {before.file} and in {piece.file}"
            )


def _whole(path: Path, pieces: list[Piece], n: int) -> tuple[Piece, ...]:
    """Return the pieces, the last of which says how many frames there should be."""
    if not pieces:
        raise ScanFileError(f"{path} has no frames")
    if pieces[-1].stop < n:  # the virtual dataset has nothing there
        pieces = [*pieces, Piece(NOWHERE, "", pieces[-1].stop, n)]
    return tuple(pieces)


def _lengths(path: Path, lengths: list[int | None], expected: int | None, given: bool) -> list[int]:
    """Return how many frames each data file has or had: all but the last one have as many.

    The last one may be shorter: where it is the only one that is there, that does not add up.
    """
    there = [n for n in lengths if n is not None]
    full = max(there)
    what = f"the data files of {path} hold {sum(there)} frames"
    how = "\nPut the missing files back, or give how many frames there are in all: --frames N"
    if len(there) == len(lengths) and (not given or sum(there) == expected):
        return there
    if expected is None:
        if lengths[-1] is None:
            raise ConfigError(f"{what}, the last one is missing, and nothing says its length{how}")
        if there.count(full) < 2:
            raise ConfigError(f"{what}, and nothing says how many were in those missing{how}")
    found = [full if n is None else n for n in lengths]
    if lengths[-1] is None and expected is not None:
        found[-1] = expected - sum(found[:-1])
    if not 0 <= found[-1] <= full or (expected is not None and sum(found) != expected):
        raise ConfigError(
            f"{what}, and there should be {expected}: which are missing is not known{how}"
        )
    return found


def _read(file: h5py.File, name: str) -> NDArray[Any] | None:
    """Read what is beside the frames; None if it is not there, or not in the file itself."""
    try:
        found: Any = find_inside(file, name)
        if not isinstance(found, h5py.Dataset) or (found.size or 0) > _MOST:
            return None
        check_part(found)
        return np.asarray(cast(Any, found)[()])
    except (KeyError, OSError, RuntimeError, ScanFileError):
        return None


def _number(file: h5py.File, name: str) -> float | None:
    found = _read(file, name)
    if found is None or found.size != 1 or found.dtype.kind not in "iuf":
        return None
    number = float(found.reshape(()))
    return number if np.isfinite(number) else None


def _has_units(file: h5py.File, name: str, known: tuple[str, ...]) -> bool:
    """Return whether a field that was read has one of these units, or says none."""
    try:
        units = find_inside(file, name).attrs.get("units")
    except (OSError, RuntimeError, ValueError, TypeError):
        return False
    if isinstance(units, np.ndarray) and units.size == 1:
        units = units.reshape(-1)[0]
    if isinstance(units, bytes):
        units = units.decode("utf-8", "replace")
    return units is None or str(units).strip().lower() in ("", *known)


def _header(file: h5py.File, n_frames: int) -> tuple[dict[str, Any], frozenset[str]]:
    """Return what an NXmx file says about exposure, beam and rotation, and what is unclear."""
    header: dict[str, Any] = {}
    unclear: set[str] = set()
    for key, name in (
        ("exposure_time", f"{_DETECTOR}/count_time"),
        ("exposure_period", f"{_DETECTOR}/frame_time"),
        ("wavelength", "/entry/instrument/beam/incident_wavelength"),
    ):
        value = _number(file, name)
        if value is not None and _has_units(file, name, _UNITS[key]):
            header[key] = value
        elif value is not None:
            unclear.add(key)
    turning = {
        name: found
        for name, where in _axes(file)
        if (found := _turn(file, where, n_frames)) is not None
    }
    if len(turning) == 1:  # of two, nobody says which is the sweep's
        ((name, found),) = turning.items()
        header |= {"oscillation_axis": name, **found}
    return header, frozenset(unclear)


def _axes(file: h5py.File) -> Iterator[tuple[str, str]]:
    """Yield names of rotation axes, and where NXmx files have their angles."""
    for name in _TURN:
        yield name, f"/entry/sample/goniometer/{name}"
    for group in ("/entry/sample/transformations", "/entry/data"):
        try:
            members: Any = find_inside(file, group)
            names = sorted(members) if isinstance(members, h5py.Group) else []
        except (KeyError, OSError, RuntimeError, ScanFileError):
            continue
        for name in names:
            where = f"{group}/{name}"
            with contextlib.suppress(KeyError, OSError, RuntimeError, ScanFileError):
                kind = find_inside(file, where).attrs.get("transformation_type")
                if kind in ("rotation", b"rotation"):
                    yield name, where


def _turn(file: h5py.File, where: str, n_frames: int) -> dict[str, float] | None:
    """Return start and step of an axis, degree, if it turns evenly by known units."""
    angles = _read(file, where)
    if angles is None or angles.dtype.kind not in "iuf" or angles.shape != (n_frames,):
        return None
    step = _even_step(angles.astype(np.float64))
    if not step or not _has_units(file, where, _UNITS["angle"]):
        return None
    return {"start_angle": float(angles[0]), "angle_increment": step}


def read_turn(path: Path, dataset: str, n_frames: int) -> dict[str, float]:
    """Read start and step of the axis that turned from its angles where frames begin.

    Raises
    ------
    ScanFileError
        If they are not there, are not as many as frames, are in other units than degrees, or do
        not grow evenly.
    """
    with open_to_read(path, swmr=False) as file:
        found = _turn(file, dataset, n_frames)
    if found is None:
        raise ScanFileError(
            f"{path}: {dataset} does not say how the axis turned: {n_frames} angles in degrees are "
            "needed, one step apart\nGive --start and --step."
        )
    return found


def _even_step(angles: NDArray[np.float64]) -> float | None:
    """Return the step of angles, degree; None if they are not even, or fewer than two."""
    if angles.size < 2 or not np.isfinite(angles).all():
        return None
    step = float(angles[-1] - angles[0]) / (angles.size - 1)
    even = angles[0] + step * np.arange(angles.size)
    return step if np.abs(angles - even).max() <= 1e-3 * abs(step) + 1e-4 else None


def _mask(file: h5py.File, shape: tuple[int, int]) -> NDArray[np.uint32] | None:
    """Return gaps as bit 0, and as bit 1 every other reason not to believe a pixel."""
    for name in (f"{_DETECTOR}/pixel_mask", f"{_DETECTOR}/detectorSpecific/pixel_mask"):
        found = _read(file, name)
        if found is not None and found.shape == shape and found.dtype.kind in "iu":
            bits = found.astype(np.uint32)
            return (bits & 1) | (np.uint32(2) * ((bits & ~np.uint32(1)) != 0)).astype(np.uint32)
    return None


def _facts(file: h5py.File) -> dict[str, Any]:
    saturation = _number(file, f"{_DETECTOR}/saturation_value")
    return {} if saturation is None else {"saturation": saturation}
