"""The crystal and its mount."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from offbragg.errors import MetadataError
from offbragg.spelling import did_you_mean

Row = tuple[float, float, float]
FIELDS = ("name", "label", "formula", "composition", "space_group", "lattice", "UB")

_COMPONENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,+()-]*")


def check_component(value: object, field: str, *, longest: int = 100) -> str:
    """Return ``value`` if it can stand as one component of a path, anywhere.

    Parameters
    ----------
    value
        The name to check.
    field
        What it is called in the message, e.g. ``sample.name``.
    longest
        How many characters it may have.

    Raises
    ------
    MetadataError
        If it is not 1 to ``longest`` ASCII letters, digits and ``_ . , + ( ) -``, beginning with a
        letter or digit.
    """
    if not isinstance(value, str) or len(value) > longest or not _COMPONENT.fullmatch(value):
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:60]}… ({len(shown)} characters)"
        raise MetadataError(
            f"{field} is {shown}: it names a folder or file, so use 1 to {longest} letters, digits "
            "and _ . , + ( ) -, beginning with a letter or digit"
        )
    return value


@dataclass(frozen=True, slots=True)
class Sample:
    """The crystal and its mount: what a scientist searches by, and how the lattice lies.

    Parameters
    ----------
    name
        Names a folder, see `check_component`.
    label
        Which crystal or mount of that name; names a folder too.
    formula
        Chemical formula.
    composition
        In words, where a formula does not say it.
    space_group
        Hermann–Mauguin symbol.
    lattice
        a, b, c in Å and alpha, beta, gamma in degree, six numbers.
    UB
        Orientation matrix, Å⁻¹ without 2π, three rows of three; column j is reciprocal basis
        vector j in the lab frame with all goniometer axes at zero.

    Raises
    ------
    MetadataError
        Naming the field and what is wrong with it.
    """

    name: str
    label: str
    formula: str = ""
    composition: str | None = None
    space_group: str | None = None
    lattice: tuple[float, float, float, float, float, float] | None = None
    UB: tuple[Row, Row, Row] | None = None

    def __post_init__(self) -> None:
        check_component(self.name, "sample.name")
        check_component(self.label, "sample.label")
        for name in ("formula", "composition", "space_group"):
            value: object = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise MetadataError(f"sample.{name} is {value!r}: it must be text")
        if self.lattice is not None:
            _check_lattice(self.lattice)
        if self.UB is not None and not all(math.isfinite(x) for row in self.UB for x in row):
            raise MetadataError(f"sample.UB has a number that is not finite: {self.UB}")
        if self.UB is not None and _determinant(self.UB) == 0.0:
            raise MetadataError(
                f"sample.UB is singular: {self.UB}; its columns are the reciprocal basis vectors"
            )

    @property
    def centring(self) -> str | None:
        """Letter of the lattice's centring, A to I, P or R, if the space group is known.

        R means hexagonal axes: on rhombohedral axes the cell is primitive, P. H is R.
        """
        symbol = (self.space_group or "").strip()
        letter = symbol[:1].upper()
        letter = "R" if letter == "H" else letter
        if letter == "R" and symbol.upper().replace(" ", "").endswith(":R"):
            return "P"
        if letter == "R" and self.lattice is not None and abs(self.lattice[5] - 120.0) > 1.0:
            return "P"
        return letter if letter and letter in "PABCFIR" else None

    def to_dict(self) -> dict[str, Any]:
        """Return as plain JSON types; what is not known is left out."""
        known: dict[str, Any] = {"name": self.name, "label": self.label, "formula": self.formula}
        if self.composition is not None:
            known["composition"] = self.composition
        if self.space_group is not None:
            known["space_group"] = self.space_group
        if self.lattice is not None:
            known["lattice"] = list(self.lattice)
        if self.UB is not None:
            known["UB"] = [list(row) for row in self.UB]
        return known

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Sample:
        """Read what `to_dict` wrote; None counts as not known.

        Raises
        ------
        MetadataError
            If a key is unknown or missing, or a value is wrong: named.
        """
        for key in mapping:
            if key not in FIELDS:
                raise MetadataError(
                    f"sample.{key} is unknown{did_you_mean(key, FIELDS)}: a sample has "
                    f"{', '.join(FIELDS)}"
                )
        for key in ("name", "label"):
            if key not in mapping:
                raise MetadataError(f"sample.{key} is missing: it names a folder")
        lattice, UB = mapping.get("lattice"), mapping.get("UB")
        formula = mapping.get("formula")
        return cls(
            name=mapping["name"],
            label=mapping["label"],
            formula="" if formula is None else formula,
            composition=mapping.get("composition"),
            space_group=mapping.get("space_group"),
            lattice=None if lattice is None else cast(Any, _numbers(lattice, 6, "sample.lattice")),
            UB=None if UB is None else _matrix(UB),
        )


def _check_lattice(lattice: tuple[float, float, float, float, float, float]) -> None:
    a, b, c, alpha, beta, gamma = lattice
    if not all(math.isfinite(length) and length > 0 for length in (a, b, c)):
        raise MetadataError(f"sample.lattice has lengths {a}, {b}, {c} Å: they must be above 0")
    if not all(0 < angle < 180 for angle in (alpha, beta, gamma)):
        raise MetadataError(
            f"sample.lattice has angles {alpha}, {beta}, {gamma} degree: "
            "they must lie between 0 and 180"
        )
    ca, cb, cg = (math.cos(math.radians(angle)) for angle in (alpha, beta, gamma))
    if 1 + 2 * ca * cb * cg - ca * ca - cb * cb - cg * cg <= 0:
        raise MetadataError(
            f"sample.lattice has angles {alpha}, {beta}, {gamma} degree: they enclose no volume"
        )


def _numbers(values: object, length: int, field: str) -> tuple[float, ...]:
    if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
        raise MetadataError(f"{field} is {values!r}: it must be {length} numbers")
    items = cast(Sequence[Any], values)
    if len(items) != length:
        raise MetadataError(f"{field} has {len(items)} numbers: it must have {length}")
    try:
        return tuple(float(item) for item in items)
    except (TypeError, ValueError):
        raise MetadataError(f"{field} is {values!r}: it must be {length} numbers") from None


def _matrix(values: object) -> tuple[Row, Row, Row]:
    if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
        raise MetadataError(f"sample.UB is {values!r}: it must be three rows of three numbers")
    rows = cast(Sequence[Any], values)
    if len(rows) != 3:
        raise MetadataError(f"sample.UB has {len(rows)} rows: it must have three")
    return cast(Any, tuple(_numbers(row, 3, "a row of sample.UB") for row in rows))


def _determinant(rows: tuple[Row, Row, Row]) -> float:
    (a, b, c), (d, e, f), (g, h, i) = rows
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
