"""The record of a reduction: everything that was chosen or found, and the files by content.

A volume is made from a `ReductionRecord` and the files that it names, and from nothing else. In a
volume file it is JSON, with the files relative to the volume.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from offbragg.errors import OffbraggError, ReductionError
from offbragg.geometry import Geometry
from offbragg.grid import Grid
from offbragg.reduction.binning import Oversample
from offbragg.reduction.corrections import Corrections
from offbragg.sample import Sample
from offbragg.spelling import did_you_mean
from offbragg.workflows.choices import Array
from offbragg.workflows.sweeps import Selection

T = TypeVar("T")

FORMAT = 1
GROWING = "growing"
"""Key that a volume's record has, in place of `FORMAT`, while its sweeps have not ended."""
_LATER = (
    "background_exponents", "binned", "contradictions", "damaged", "dataset", "fold", "inverted",
    "masked", "weight_exponent",
)  # fmt: skip
"""Keys that records of earlier versions do not have."""


@dataclass(frozen=True, slots=True)
class BackgroundInput:
    """The air run that is subtracted from a sweep."""

    file: str
    sha256: str
    run: str
    damaged: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {**asdict(self), "damaged": list(self.damaged)}

    @classmethod
    def from_dict(cls, value: object, where: str = "background") -> BackgroundInput:
        """Read what `to_dict` returned; `ReductionError` names the key that is wrong."""
        given = _object(value, cls, where)
        return cls(
            file=_text(given["file"], f"{where}.file"),
            sha256=_text(given["sha256"], f"{where}.sha256"),
            run=_text(given["run"], f"{where}.run"),
            damaged=_indices(given.get("damaged", []), f"{where}.damaged"),
        )


@dataclass(frozen=True, slots=True)
class MaskInput:
    """The user's mask, for all sweeps.

    Parameters
    ----------
    file, sha256
        Its file, without the dataset.
    dataset
        In an HDF5 file.
    inverted
        Pixels that are 0 are masked, instead of those that are not.
    masked
        Number of masked pixels; None in records of earlier versions.
    """

    file: str
    sha256: str
    dataset: str | None = None
    inverted: bool = False
    masked: int | None = None

    @property
    def name(self) -> str:
        """File and dataset, as `read_mask` takes them."""
        return self.file if self.dataset is None else f"{self.file}::{self.dataset}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: object, where: str = "mask") -> MaskInput:
        """Read what `to_dict` returned; `ReductionError` names the key that is wrong."""
        given = _object(value, cls, where)
        dataset, masked = given.get("dataset"), given.get("masked")
        return cls(
            file=_text(given["file"], f"{where}.file"),
            sha256=_text(given["sha256"], f"{where}.sha256"),
            dataset=None if dataset is None else _text(dataset, f"{where}.dataset"),
            inverted=_flag(given.get("inverted", False), f"{where}.inverted"),
            masked=None if masked is None else _whole(masked, f"{where}.masked"),
        )


@dataclass(frozen=True, slots=True, eq=False)
class SweepInput:
    """One sweep that is reduced.

    Parameters
    ----------
    file, sha256, run
        Its scan file and run.
    frames
        Number of frames that count.
    damaged
        Stored frames that do not have their checksum: they do not count.
    contradictions
        In what headers of its frames contradict the run, which was taken to be right.
    UB
        Orientation matrix, Å⁻¹ without 2π, shape (3, 3).
    orientation
        Where ``UB`` is from: a file, or the start document.
    geometry
        Beam, panel and goniometer.
    background
        The air run that is subtracted; None: nothing is.
    temperature
        K.
    selection
        What of the sweep counts. Found when the record is built, so that the reduction uses what
        was reported; not in the JSON: the same function finds it again for a record that was read.
    """

    file: str
    sha256: str
    run: str
    frames: int
    damaged: tuple[int, ...]
    UB: Array
    orientation: str
    geometry: Geometry
    background: BackgroundInput | None
    temperature: float | None
    contradictions: tuple[str, ...] = ()
    selection: Selection | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {
            "file": self.file,
            "sha256": self.sha256,
            "run": self.run,
            "frames": self.frames,
            "damaged": list(self.damaged),
            "contradictions": list(self.contradictions),
            "UB": self.UB.tolist(),
            "orientation": self.orientation,
            "geometry": self.geometry.to_dict(),
            "background": None if self.background is None else self.background.to_dict(),
            "temperature": self.temperature,
        }

    @classmethod
    def from_dict(cls, value: object, where: str = "input") -> SweepInput:
        """Read what `to_dict` returned; `ReductionError` names the key that is wrong."""
        given = _object(value, cls, where, without=("selection",))
        background, kelvin = given["background"], given["temperature"]
        return cls(
            file=_text(given["file"], f"{where}.file"),
            sha256=_text(given["sha256"], f"{where}.sha256"),
            run=_text(given["run"], f"{where}.run"),
            frames=_whole(given["frames"], f"{where}.frames"),
            damaged=_indices(given.get("damaged", []), f"{where}.damaged"),
            contradictions=_texts(given.get("contradictions", []), f"{where}.contradictions"),
            UB=_matrix(given["UB"], f"{where}.UB"),
            orientation=_text(given["orientation"], f"{where}.orientation"),
            geometry=_part(Geometry.from_dict, given["geometry"], f"{where}.geometry"),
            background=(
                None
                if background is None
                else BackgroundInput.from_dict(background, f"{where}.background")
            ),
            temperature=None if kelvin is None else _number(kelvin, f"{where}.temperature"),
        )


@dataclass(frozen=True, slots=True, eq=False)
class ReductionRecord:
    """How a volume is made.

    Parameters
    ----------
    inputs
        The sweeps.
    sample
        The crystal.
    temperature
        Mean over the sweeps, K.
    grid
        Cells of the volume.
    binned
        Cells that are filled: with a symmetry also the equivalents of those of ``grid``.
    symmetry
        A Laue class; empty: none.
    fold
        Whether sums were kept of the part of ``binned`` that the class does not repeat.
    monitor
        False: the flux was constant.
    corrections, oversample
        As for `Choices`.
    mask
        The user's; None: no other pixels than those of the scan files.
    hot
        Whether hot pixels are excluded.
    background_scale
        Factor applied to the background.
    weight_exponent
        n of the unit 2⁻ⁿ in which weights are summed; None in records of earlier versions.
    background_exponents
        The same of the background and its variance; None without one, and in records of earlier
        versions, which sum it stay by stay.
    versions
        Of offbragg and the libraries that compute.
    """

    inputs: tuple[SweepInput, ...]
    sample: Sample
    temperature: float | None
    grid: Grid
    binned: Grid
    symmetry: str
    fold: bool
    monitor: bool
    corrections: Corrections
    oversample: Oversample
    mask: MaskInput | None
    hot: bool
    background_scale: float
    weight_exponent: int | None
    background_exponents: tuple[int, int] | None
    versions: Mapping[str, str]
    format: int = FORMAT

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {
            "format": self.format,
            "inputs": [each.to_dict() for each in self.inputs],
            "sample": self.sample.to_dict(),
            "temperature": self.temperature,
            "grid": self.grid.to_dict(),
            "binned": self.binned.to_dict(),
            "symmetry": self.symmetry,
            "fold": self.fold,
            "monitor": self.monitor,
            "corrections": self.corrections.to_dict(),
            "oversample": asdict(self.oversample),
            "mask": None if self.mask is None else self.mask.to_dict(),
            "hot": self.hot,
            "background_scale": self.background_scale,
            "weight_exponent": self.weight_exponent,
            "background_exponents": _list(self.background_exponents),
            "versions": dict(self.versions),
        }

    @classmethod
    def from_dict(cls, value: object, where: str = "record") -> ReductionRecord:
        """Read what `to_dict` returned, also by an earlier version.

        Raises
        ------
        ReductionError
            If a key is unknown or missing, or a value is wrong: naming the key and what it must be.
        """
        if GROWING in _mapping(value, where):
            raise ReductionError(
                "the volume still grows: what it is made of is known once its sweeps have ended"
            )
        version = _mapping(value, where).get("format")
        if version != FORMAT:  # before all: a later format may have other keys
            raise ReductionError(f"{where}.format is {version!r}: it must be {FORMAT}")
        given = _object(value, cls, where)
        inputs = _items(given["inputs"], f"{where}.inputs")
        if not inputs:
            raise ReductionError(f"{where}.inputs is empty: it must be a list of sweeps")
        mask, kelvin = given["mask"], given["temperature"]
        versions = _mapping(given["versions"], f"{where}.versions")
        grid = _part(Grid.from_dict, given["grid"], f"{where}.grid")
        return cls(
            inputs=tuple(
                SweepInput.from_dict(each, f"{where}.inputs[{n}]") for n, each in enumerate(inputs)
            ),
            sample=_part(Sample.from_dict, given["sample"], f"{where}.sample"),
            temperature=None if kelvin is None else _number(kelvin, f"{where}.temperature"),
            grid=grid,
            binned=(
                _part(Grid.from_dict, given["binned"], f"{where}.binned")
                if "binned" in given
                else grid
            ),
            symmetry=_text(given["symmetry"], f"{where}.symmetry"),
            fold=_flag(given.get("fold", False), f"{where}.fold"),
            monitor=_flag(given["monitor"], f"{where}.monitor"),
            corrections=_corrections(given["corrections"], f"{where}.corrections"),
            oversample=_oversample(given["oversample"], f"{where}.oversample"),
            mask=None if mask is None else MaskInput.from_dict(mask, f"{where}.mask"),
            hot=_flag(given["hot"], f"{where}.hot"),
            background_scale=_scale(given["background_scale"], f"{where}.background_scale"),
            weight_exponent=(
                None
                if given.get("weight_exponent") is None
                else _whole(given["weight_exponent"], f"{where}.weight_exponent")
            ),
            background_exponents=_pair(
                given.get("background_exponents"), f"{where}.background_exponents"
            ),
            versions={
                name: _text(each, f"{where}.versions.{name}") for name, each in versions.items()
            },
        )

    def files(self) -> Iterator[SweepInput | BackgroundInput | MaskInput]:
        """Return each of the files that it names."""
        for each in self.inputs:
            yield each
            if each.background is not None:
                yield each.background
        if self.mask is not None:
            yield self.mask

    def relative_to(self, volume: Path) -> ReductionRecord:
        """Return it with the files relative to where a volume file is, so that both move."""
        return self._with_files(lambda name: _from(volume.absolute().parent, Path(name)))

    def absolute_from(self, volume: Path) -> ReductionRecord:
        """Return it with absolute paths, as seen from a volume file."""

        def find(name: str) -> str:
            path = os.path.normpath(volume.absolute().parent / name)
            if not Path(path).exists():  # the folder may be a link: .. leads elsewhere then
                path = os.path.normpath(volume.parent.resolve() / name)
            return path

        return self._with_files(find)

    def _with_files(self, renamed: Callable[[str], str]) -> ReductionRecord:
        inputs = tuple(
            replace(
                each,
                file=renamed(each.file),
                background=(
                    None
                    if each.background is None
                    else replace(each.background, file=renamed(each.background.file))
                ),
            )
            for each in self.inputs
        )
        mask = None if self.mask is None else replace(self.mask, file=renamed(self.mask.file))
        return replace(self, inputs=inputs, mask=mask)


def _from(folder: Path, file: Path) -> str:
    """Return where a file is, seen from a folder; also right where either is reached by a link."""
    name, really = os.path.relpath(file, folder), folder.resolve()
    there = Path(os.path.normpath(really / name))
    if there.exists() and there.samefile(file):
        return name
    return os.path.relpath(file.parent.resolve() / file.name, really)


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ReductionError(f"{where} is {_shown(value)}: it must be an object")
    return cast(Mapping[str, Any], value)


def _object(
    value: object, of: type[Any], where: str, *, without: Sequence[str] = ()
) -> Mapping[str, Any]:
    """Refuse what is not an object with the fields of a dataclass as its keys."""
    given = _mapping(value, where)
    keys = [each.name for each in fields(of) if each.name not in without]
    for key in given:
        if key not in keys:
            raise ReductionError(
                f"{where}.{key} is unknown{did_you_mean(key, keys)}: it has {', '.join(keys)}"
            )
    for key in keys:
        if key not in given and key not in _LATER:
            raise ReductionError(f"{where}.{key} is missing: it has {', '.join(keys)}")
    return given


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _items(value: object, where: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise ReductionError(f"{where} is {_shown(value)}: it must be a list")
    return list(cast(Sequence[Any], value))


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ReductionError(f"{where} is {_shown(value)}: it must be text")
    return value


def _list(pair: tuple[int, int] | None) -> list[int] | None:
    return None if pair is None else list(pair)


def _pair(value: object, where: str) -> tuple[int, int] | None:
    if value is None:
        return None
    numbers = _items(value, where)
    if len(numbers) != 2:
        raise ReductionError(f"{where} is {_shown(value)}: it must be two whole numbers")
    return _whole(numbers[0], f"{where}[0]"), _whole(numbers[1], f"{where}[1]")


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise ReductionError(f"{where} is {_shown(value)}: it must be true or false")
    return value


def _whole(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ReductionError(f"{where} is {_shown(value)}: it must be a whole number")
    return value


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ReductionError(f"{where} is {_shown(value)}: it must be a number")
    return value


def _scale(value: object, where: str) -> float:
    number = _number(value, where)
    if not 0 < number < math.inf:
        raise ReductionError(f"{where} is {number:g}: it must be a number above 0")
    return number


def _indices(value: object, where: str) -> tuple[int, ...]:
    return tuple(_whole(each, f"{where}[{n}]") for n, each in enumerate(_items(value, where)))


def _texts(value: object, where: str) -> tuple[str, ...]:
    return tuple(_text(each, f"{where}[{n}]") for n, each in enumerate(_items(value, where)))


def _matrix(value: object, where: str) -> Array:
    rows = [_items(row, f"{where}[{n}]") for n, row in enumerate(_items(value, where))]
    if [len(row) for row in rows] != [3, 3, 3]:
        raise ReductionError(f"{where} is {_shown(value)}: it must be 3 × 3 numbers")
    return np.array([[_number(x, where) for x in row] for row in rows], np.float64)


def _corrections(value: object, where: str) -> Corrections:
    given = _object(value, Corrections, where)
    degree = given["polarization"]
    if degree is not None:
        _number(degree, f"{where}.polarization")
    flags = {key: _flag(given[key], f"{where}.{key}") for key in given if key != "polarization"}
    return _part(lambda read: Corrections(**read), {**flags, "polarization": degree}, where)


def _oversample(value: object, where: str) -> Oversample:
    given = _object(value, Oversample, where)
    parts = {key: _whole(given[key], f"{where}.{key}") for key in given}
    return _part(lambda read: Oversample(**read), parts, where)


def _part(read: Callable[[Mapping[str, Any]], T], value: object, where: str) -> T:
    """Read a part that checks itself, naming where it stands."""
    given = _mapping(value, where)
    try:
        return read(given)
    except OffbraggError as error:
        raise ReductionError(f"{where} cannot be read: {error}") from error
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ReductionError(f"{where} is {_shown(value)}: {error}") from error
