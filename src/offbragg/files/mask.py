"""Masks: which pixels must not count, from the files that other programs write them into.

Not 0 is masked, as in pyFAI, Fit2D, silx and NeXus' ``pixel_mask``. DIALS and some scripts mean the
opposite (true is good); nothing in a file tells, so whoever uses a mask looks at how much it masks.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from pathlib import Path
from typing import Any, cast

import h5py  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
from numpy.typing import NDArray

from offbragg.errors import OffbraggError, ReductionError
from offbragg.files import read_frame
from offbragg.files.filters import check_part
from offbragg.files.scan_layout import MASK

Mask = NDArray[np.bool_]

_MOST_PIXELS = 100_000_000  # of any detector
_MOST_FILE = 2 << 30  # bytes
_HDF5 = (".h5", ".hdf5", ".hdf", ".nxs", ".nexus")
_IMAGES = (".tif", ".tiff", ".png", ".bmp", ".gif")
_MOST_DATASETS = 1000  # that are looked at for a mask


def split_name(name: Path | str) -> tuple[Path, str | None]:
    """Split ``file.h5::/entry/mask`` into the file and the dataset in it, if one is named.

    Examples
    --------
    >>> split_name("m.h5::/entry/mask")
    (PosixPath('m.h5'), '/entry/mask')
    """
    file, colons, dataset = str(name).partition("::")
    return (Path(file), dataset or None) if colons else (Path(name), None)


def read_mask(name: Path | str, *, inverted: bool = False) -> Mask:
    """Read a mask: true where a pixel must not count.

    Parameters
    ----------
    name
        ``.npy``, CBF, TIFF, EDF, Fit2D's ``.msk``, or HDF5 (``FILE`` or ``FILE::/DATASET``), of
        booleans or numbers. What is not 0 is masked. If there are NaN, they are what is masked,
        and everything else must be one number.
    inverted
        0 is masked instead.

    Raises
    ------
    ReductionError
        If it cannot be read, is not a picture, or does not say what it masks.
    """
    path, dataset = split_name(name)
    try:
        if path.stat().st_size > _MOST_FILE:
            raise ValueError(f"it has {path.stat().st_size:,} bytes")
        values = _read(path, dataset)
    except (OSError, EOFError, ValueError, RuntimeError, KeyError, OffbraggError) as error:
        what = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise ReductionError(f"mask {name} cannot be read: {what}") from error
    if values.dtype.kind not in "biuf" or values.ndim != 2:
        raise ReductionError(
            f"mask {name} holds {values.dtype} of shape {values.shape}: it must be booleans or "
            "numbers, of shape (slow, fast)"
        )
    masked = _masked(values, name)
    return ~masked if inverted else masked


def write_mask(path: Path, mask: Mask) -> None:
    """Write a mask as an array of NumPy, true where a pixel must not count.

    Raises
    ------
    ReductionError
        If the name does not end in ``.npy``, or the file cannot be written.
    """
    if path.suffix != ".npy":
        raise ReductionError(f"{path} is not a name for a mask: it must end in .npy")
    try:
        with path.open("xb") as file:
            np.save(file, mask)
    except OSError as error:
        raise ReductionError(f"{path} cannot be written: {error.strerror}") from error


def _masked(values: NDArray[Any], name: Path | str) -> Mask:
    if values.dtype.kind != "f":
        return values != 0
    finite = np.isfinite(values)
    if finite.all():
        return values != 0
    kept = values[finite]
    if kept.size and kept.min() != kept.max():
        raise ReductionError(
            f"mask {name} does not say what it masks: {np.count_nonzero(~finite)} of its pixels "
            f"are NaN or infinite, and the others from {kept.min():g} to {kept.max():g}\n"
            "Write 1 where a pixel must not count, and 0 elsewhere."
        )
    return ~finite


def _read(path: Path, dataset: str | None) -> NDArray[Any]:
    suffix = path.suffix.lower()
    if dataset is not None or suffix in _HDF5:
        return _read_hdf5(path, dataset)
    if suffix == ".npy":
        return _read_npy(path)
    if suffix in (".cbf", ".tif", ".tiff"):
        with contextlib.suppress(OffbraggError):  # of other depth, or not as a Pilatus writes it
            return read_frame(path, number=0).counts
    return _read_image(path) if suffix in _IMAGES else _read_picture(path)


def _check_size(shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or not 0 < math.prod(shape) <= _MOST_PIXELS:
        raise ValueError(
            f"it claims shape {shape}: a mask has two dimensions, and at most {_MOST_PIXELS:,} "
            "pixels"
        )


def _read_npy(path: Path) -> NDArray[Any]:
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        reader = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if reader is None:
            raise ValueError(f"it is of version {version}")
        shape, _, kind = reader(file)
        _check_size(shape)
        left = path.stat().st_size - file.tell()
    if kind.hasobject or left < math.prod(shape) * kind.itemsize:
        raise ValueError(f"it claims {shape} values of {kind}, and holds {left:,} bytes")
    return np.load(path, allow_pickle=False)


def _read_hdf5(path: Path, dataset: str | None) -> NDArray[Any]:
    with h5py.File(path, "r", locking=False) as file:
        found: Any = _find(file) if dataset is None else cast(Any, file).get(dataset)
        if not isinstance(found, h5py.Dataset):
            raise ValueError(
                f"it has no dataset {dataset}" if dataset is not None
                else "it has no pixel_mask, and not exactly one dataset of two dimensions: name "
                f"it, as {path.name}::/entry/mask"
            )  # fmt: skip
        data: Any = found
        if data.external or data.is_virtual or Path(data.file.filename) != Path(file.filename):
            raise ValueError(f"{data.name} lies in another file")
        _check_size(data.shape)
        check_part(data)
        return data[()]


def _find(file: h5py.File) -> Any:
    """Find the detector's mask, or the only picture that there is."""
    if MASK in file:
        return file[MASK]
    pictures: list[Any] = []
    seen = 0

    def look(_: str, item: Any) -> Any:
        nonlocal seen
        seen += 1
        if isinstance(item, h5py.Dataset) and cast(Any, item).ndim == 2:
            pictures.append(item)
        return True if seen > _MOST_DATASETS or len(pictures) > 1 else None

    cast(Any, file).visititems(look)
    return pictures[0] if len(pictures) == 1 and seen <= _MOST_DATASETS else None


def _read_picture(path: Path) -> NDArray[Any]:
    import fabio  # pyright: ignore[reportMissingTypeStubs]

    try:
        library: Any = fabio
        with library.openheader(str(path)) as header:
            shape = tuple(header.shape)
        _check_size(shape)
        with library.open(str(path)) as picture:
            return np.array(picture.data)
    except (OSError, ValueError):
        raise
    except Exception as error:  # whatever a file that is not a picture makes of its readers
        raise ValueError(f"it is not a picture that fabio reads: {error!r}") from error


def _read_image(path: Path) -> NDArray[Any]:
    """Read a TIFF of any depth and compression, or a mask that was drawn."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:  # its pixels are not read yet
                _check_size(image.size)
                return np.array(image)
    except (OSError, ValueError):
        raise
    except Exception as error:  # a bomb, or whatever else a file makes of Pillow
        raise ValueError(f"it is not a picture that Pillow reads: {error!r}") from error
