"""Frame files that belong together: one name with one number in it that counts."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from stat import S_ISREG

from offbragg.errors import ConfigError
from offbragg.files.compressed import KINDS, frame_kind, split_suffix

_MOST_FRAMES = 1_000_000
_DIGITS = re.compile(r"([0-9]+)")


@dataclass(frozen=True, slots=True)
class Series:
    """Frame files of one name with a number in it; frame 0 has the lowest one."""

    directory: Path
    template: str
    """With one ``{:05d}`` for the number; none for a single file without a number."""
    first: int
    n_frames: int
    n_files: int

    def path(self, number: int) -> Path:
        """Return where a frame's file is, or would be."""
        return self.directory / self.template.format(self.first + number)


@dataclass(frozen=True, slots=True)
class _Name:
    """A file's name, cut at its numbers: text, number, text, … text."""

    name: str
    parts: tuple[str, ...]
    suffix: str

    @property
    def numbers(self) -> tuple[str, ...]:
        return self.parts[1::2]

    def without(self, field: int) -> tuple[str, ...]:
        """Return all but one number."""
        at = 2 * field + 1
        return (*self.parts[:at], *self.parts[at + 1 :])


def find_series(pattern: str) -> Series:
    """Find the frame files that lie in a folder, or that a shell pattern matches.

    Other files of a folder are left out; a pattern has to match frame files only. The number that
    differs between their names says which frame a file is, wherever it stands; of a single file,
    the last one does.

    Raises
    ------
    ConfigError
        If there are none, or they are not of one series.
    """
    paths = _files(pattern)
    kinds: dict[tuple[Path, tuple[str, ...], str], list[_Name]] = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # a link to nothing is a missing frame
            if not S_ISREG(path.stat().st_mode):
                raise ConfigError(f"{path} is not a file\nGive a pattern that leaves it out.")
        if frame_kind(path) is None:
            raise ConfigError(f"{path.name} is not a frame: only {KINDS} are read")
        stem, suffix, packing = split_suffix(path.name)
        name = _Name(path.name, tuple(_DIGITS.split(stem)), suffix + packing)
        kinds.setdefault((path.parent, name.parts[::2], name.suffix), []).append(name)
    if len(kinds) > 1:
        raise _several(pattern, ["#".join(text) + suffix for _, text, suffix in kinds])
    (((directory, _, _), names),) = kinds.items()
    if not names[0].numbers:
        return Series(directory.resolve(), _escaped(names[0].name), 0, 1, 1)
    field = _counting(pattern, names)
    digits = {int(name.numbers[field]): name for name in names}
    _check_digits(names, field, digits)
    first, last = min(digits), max(digits)
    if last - first >= _MOST_FRAMES:
        raise ConfigError(
            f"{pattern} has numbers from {first} to {last}: too far apart for a sweep"
        )
    width = min(len(name.numbers[field]) for name in names)
    parts = [_escaped(part) for part in names[0].parts]
    parts[2 * field + 1] = f"{{:0{width}d}}"
    template = "".join(parts) + names[0].suffix
    return Series(directory.resolve(), template, first, last - first + 1, len(digits))


def _files(pattern: str) -> list[Path]:
    if Path(pattern).is_dir():
        paths = sorted(path for path in Path(pattern).iterdir() if frame_kind(path) is not None)
        if not paths:
            raise ConfigError(f"the folder {pattern} holds no frame: only {KINDS} are read")
        return paths
    paths = sorted(Path(name) for name in glob(pattern))  # noqa: PTH207  it may be absolute
    if not paths:
        raise ConfigError(
            f"no file matches {pattern}\nQuote the pattern, so that the shell leaves it."
        )
    return paths


def _counting(pattern: str, names: Sequence[_Name]) -> int:
    """Return which of the numbers in the names counts the frames."""
    fields = range(len(names[0].numbers))
    differ = [f for f in fields if len({int(name.numbers[f]) for name in names}) > 1]
    # 1 and 01 are one number, and no two frames
    written = [f for f in fields if len({name.numbers[f] for name in names}) > 1]
    field = (differ or written or [*fields])[-1]
    others = sorted({name.without(field) for name in names})
    if len(others) > 1:
        at = 2 * field + 1
        raise _several(
            pattern,
            ["".join((*other[:at], "#", *other[at:])) + names[0].suffix for other in others],
        )
    return field


def _check_digits(names: Sequence[_Name], field: int, digits: Mapping[int, _Name]) -> None:
    for name in names:
        number = int(name.numbers[field])
        if digits[number] is not name:
            raise ConfigError(f"{name.name} and another file both have the number {number}")
    width = min(len(name.numbers[field]) for name in names)
    for number, name in digits.items():
        if f"{number:0{width}d}" != name.numbers[field]:
            raise ConfigError(f"{name.name} has another number of digits than others")


def _several(pattern: str, names: Sequence[str]) -> ConfigError:
    some = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
    return ConfigError(
        f"{pattern} matches {len(names)} series: {some}\nGive a pattern that matches one."
    )


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
