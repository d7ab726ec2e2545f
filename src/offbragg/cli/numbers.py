"""Numbers on the command line: within a range, finite, and refused in words."""

from __future__ import annotations

import math

import typer


class Number:
    """Read a finite number within a range: the ``parser`` of an option.

    Parameters
    ----------
    low, high
        The range, with its ends; None where it has none.
    above
        The lower end is not in the range.
    unit
        Of the number, for the message.

    Examples
    --------
    >>> Number(0, 3650, above=True, unit="days")("30")
    30.0
    >>> Number(0, 3650, above=True, unit="days").range
    'above 0 and at most 3650 days'

    Raises
    ------
    typer.BadParameter
        When called with what is not such a number.
    """

    __name__ = "number"  # how help names the type

    def __init__(
        self,
        low: float | None = None,
        high: float | None = None,
        *,
        above: bool = False,
        unit: str = "",
    ) -> None:
        self.low, self.high, self.above, self.unit = low, high, above, unit

    def __call__(self, value: str | float) -> float:
        """Read what was typed."""
        try:
            number = float(value)
        except ValueError:
            raise typer.BadParameter(f"{value} is not a number") from None
        if not math.isfinite(number):
            raise typer.BadParameter(f"{value} is not a finite number")
        below = self.low is not None and (number <= self.low if self.above else number < self.low)
        if below or (self.high is not None and number > self.high):
            raise typer.BadParameter(f"{value} is not {self.range}")
        return number

    @property
    def range(self) -> str:
        """Return which numbers are in the range."""
        parts = []
        if self.low is not None:
            parts.append(f"{'above' if self.above else 'at least'} {self.low:g}")
        if self.high is not None:
            parts.append(f"at most {self.high:g}")
        return f"{' and '.join(parts)} {self.unit}".rstrip()


def numbers(text: str, count: int, option: str, example: str) -> tuple[float, ...]:
    """Read numbers with commas between them, as 0.5,0.5,0.5.

    Raises
    ------
    typer.BadParameter
        If they are not so many, or one is not finite.
    """
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != count or not all(map(math.isfinite, found)):
        words = {2: "two", 3: "three", 6: "six"}[count]
        raise typer.BadParameter(f"{option} is {text}: it takes {words} numbers, as {example}")
    return found
