"""What publisher and stacker find wrong with a run is reported at the prompt, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rich.console import Console

from offbragg.printable import printable


class Unpublished:
    """Print which runs cannot be published, or have something else wrong with them, each once.

    Parameters
    ----------
    refused
        Returns the reasons by the uids of the runs; it is called often and must be quick.
    console
        Where to print.
    advice
        Printed with each.
    """

    def __init__(
        self,
        refused: Callable[[], Mapping[str, str]],
        console: Console | None = None,
        *,
        advice: str = "Its frames and its journal are safe; offbragg status lists it.",
    ) -> None:
        self._advice = advice
        self._refused = refused
        self._console = console or Console(stderr=True)
        self._printed: set[tuple[str, str]] = set()

    def __call__(self, *_: object) -> None:
        """Look, and print what is new."""
        for uid, reason in self._refused().items():
            if (uid, reason) not in self._printed:
                self._printed.add((uid, reason))
                self._console.print(
                    f"{printable(reason)}\n{self._advice}",
                    style="yellow", highlight=False, markup=False,
                )  # fmt: skip
