"""Numbers on the command line: finite and within a range, or an error in words."""

from __future__ import annotations

import math

import typer


class Number:
    """Read a finite number within a range: the ``parser`` of an option.

    Parameters
    ----------
    low, high
        The range, including its ends; None for no limit.
    above
        The lower end is excluded.
    unit
        Unit of the number, for the message.

    Examples
    --------
    >>> Number(0, 3650, above=True, unit="days")("30")
    30.0
    >>> Number(0, 3650, above=True, unit="days").range
    'above 0 and at most 3650 days'

    Raises
    ------
    typer.BadParameter
        When called with anything else than such a number.
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
        """Return the number that was typed."""
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
        """Return the range in words."""
        parts = []
        if self.low is not None:
            parts.append(f"{'above' if self.above else 'at least'} {self.low:g}")
        if self.high is not None:
            parts.append(f"at most {self.high:g}")
        return f"{' and '.join(parts)} {self.unit}".rstrip()


def numbers(text: str, count: int, option: str, example: str) -> tuple[float, ...]:
    """Read numbers separated by commas, as 0.5,0.5,0.5.

    Raises
    ------
    typer.BadParameter
        If the number of them is wrong, or one is not finite.
    """
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != count or not all(map(math.isfinite, found)):
        words = {2: "two", 3: "three", 6: "six"}[count]
        raise typer.BadParameter(f"{option} is {text}: it takes {words} numbers, as {example}")
    return found
