"""The panels of Dectris by name: how many pixels, how large, and where modules leave gaps.

Each is a grid of modules with gaps between them. Where the sensor is of CdTe a module has two
pieces, and the pixels at their seam count otherwise: they are gaps, too. The numbers are those of
pyFAI's detectors, and a test compares every one of them with pyFAI.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import GeometryError
from offbragg.spelling import did_you_mean


@dataclass(frozen=True, slots=True)
class _Family:
    pixel: float
    module: tuple[int, int]
    gap: tuple[int, int]
    sizes: Mapping[str, tuple[int, int]]  # modules down and across
    seam: tuple[int, int] = (0, 0)  # of CdTe: from where to where, columns from a module's middle
    of_cdte: frozenset[str] = frozenset()  # which sizes there are of it


_PILATUS = {
    "100K": (1, 1), "200K": (2, 1), "300K": (3, 1), "300K-W": (1, 3), "900K": (3, 3),
    "900K-W": (1, 9), "1M": (5, 2), "2M": (8, 3), "6M": (12, 5),
}  # fmt: skip
_PILATUS4 = {"260K": (2, 1), "260K-W": (1, 2), "1M": (4, 2), "2M": (6, 3), "4M": (8, 4)}
_EIGER = {"500K": (1, 1), "1M": (2, 1), "4M": (4, 2), "9M": (6, 3), "16M": (8, 4)}
_EIGER2 = {"250K": (1, 1), **_EIGER, "1M-W": (1, 2), "2M-W": (1, 4)}
_FAMILIES = {
    "Pilatus": _Family(
        0.172, (195, 487), (17, 7), _PILATUS, (-1, 2),
        frozenset(("300K", "300K-W", "900K-W", "1M", "2M")),
    ),
    "Pilatus4": _Family(0.150, (255, 513), (20, 7), _PILATUS4, (0, 1), frozenset(_PILATUS4)),
    "Eiger": _Family(0.075, (514, 1030), (37, 10), _EIGER),
    "Eiger2": _Family(
        0.075, (512, 1028), (38, 12), _EIGER2, (-1, 1), frozenset(_EIGER2) - {"250K"}
    ),
}  # fmt: skip
_OF_CDTE_ONLY = ("Pilatus", "900K-W")
_HALF = ("Eiger2", "250K"), (512, 512)  # the only one that is a part of a module
_GENERATIONS = {
    "pilatus": {"": "Pilatus", "1": "Pilatus", "2": "Pilatus", "3": "Pilatus", "4": "Pilatus4"},
    "eiger": {"": "Eiger", "1": "Eiger", "2": "Eiger2"},
}
_REST = re.compile(r"((?:x|xe|s|r|a|si|cdte)*)(\d+[km])(w?)(cdte)?")


@dataclass(frozen=True, slots=True)
class PanelType:
    """A kind of detector.

    Parameters
    ----------
    name
        As ``Eiger2 CdTe 4M``.
    shape
        Rows and columns: (slow, fast).
    pixel
        Side of a pixel, mm.
    module, gap
        Pixels of a module and between modules: (slow, fast).
    seam
        Columns from a module's middle between which its two pieces meet; from 0 to 0: one piece.
    """

    name: str
    shape: tuple[int, int]
    pixel: float
    module: tuple[int, int]
    gap: tuple[int, int]
    seam: tuple[int, int] = (0, 0)

    def gaps(self) -> NDArray[np.bool_]:
        """Mark the pixels that count nothing on every such panel, shape (slow, fast)."""
        rows, columns = (
            np.arange(n) % (module + gap) >= module
            for n, module, gap in zip(self.shape, self.module, self.gap, strict=True)
        )
        within = np.arange(self.shape[1]) % (self.module[1] + self.gap[1]) - self.module[1] // 2
        columns |= (within >= self.seam[0]) & (within < self.seam[1])
        return rows[:, None] | columns[None, :]


def known_panels() -> list[PanelType]:
    """List every panel: of each family those of silicon, then those of CdTe."""
    return [
        _panel(family, size, cdte)
        for family, facts in _FAMILIES.items()
        for cdte in (False, True)
        for size in facts.sizes
        if _there_is(family, size, cdte)
    ]


def panel_named(name: str) -> PanelType:
    """Find a panel by what a header, a calibration or a person calls it.

    Parameters
    ----------
    name
        As ``PILATUS3 X CdTe 2M, S/N 24-0107``, ``Dectris EIGER2 XE 16M`` or pyFAI's ``Eiger2_4M``:
        maker, serial number, case, spaces and marks of the model do not matter.

    Raises
    ------
    GeometryError
        If it is not known, with the nearest name.

    Examples
    --------
    >>> panel_named("Dectris PILATUS3 X 2M, S/N 24-0107").shape
    (1679, 1475)
    >>> panel_named("eiger2_cdte_1m-w").name
    'Eiger2 CdTe 1M-W'
    """
    text = re.sub(r"[\s_-]+", " ", name.partition(",")[0].lower()).strip().removeprefix("dectris")
    for maker, generations in _GENERATIONS.items():
        for generation, family in generations.items():
            begin = re.match(f" ?{maker}( ?){generation}", text)
            if begin is None:
                continue
            if generation and text[begin.end() :][:1].isdigit() and (begin[1] or generation == "1"):
                continue  # it is of the size, as in 12M; pyFAI's eiger21m is an Eiger2
            rest = _REST.fullmatch(text[begin.end() :].replace(" ", ""))
            size = rest[2].upper() + "-W" * bool(rest[3]) if rest else ""
            cdte = bool(rest and ("cdte" in rest[1] or rest[4]))
            if size and _there_is(family, size, cdte):
                return _panel(family, size, cdte)
    known = [panel.name for panel in known_panels()]
    raise GeometryError(
        f"{name!r:.100} is not a panel that is known{did_you_mean(name, known)}\n"
        "offbragg panels lists them all."
    )


def size_named(family: str, shape: tuple[int, int]) -> str:
    """Return the size of the panel with this shape, as ``2M``; empty if there is none."""
    found = (size for size in _FAMILIES[family].sizes if _panel(family, size, False).shape == shape)
    return next(found, "")


def _there_is(family: str, size: str, cdte: bool) -> bool:
    if cdte:
        return size in _FAMILIES[family].of_cdte
    return size in _FAMILIES[family].sizes and (family, size) != _OF_CDTE_ONLY


def _panel(family: str, size: str, cdte: bool) -> PanelType:
    facts = _FAMILIES[family]
    down, across = facts.sizes[size]
    shape = (
        down * (facts.module[0] + facts.gap[0]) - facts.gap[0],
        across * (facts.module[1] + facts.gap[1]) - facts.gap[1],
    )
    whole = (family, size) != _HALF[0]
    return PanelType(
        f"{family} {'CdTe ' * cdte}{size}",
        shape if whole else _HALF[1],
        facts.pixel,
        facts.module,
        facts.gap,
        facts.seam if cdte and whole else (0, 0),
    )
