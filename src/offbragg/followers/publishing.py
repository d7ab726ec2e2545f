"""Whether runs can be published, without being in the way of the frames.

The publisher needs Tiled and bluesky-tiled-plugins, and private parts of these. Frames need
neither: where one of them is absent, broken or changed, `make_publisher` returns a follower that
publishes nothing and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offbragg.errors import CatalogError
from offbragg.printable import printable

if TYPE_CHECKING:
    from offbragg.followers.publisher import Publisher


class PublishingOff:
    """A follower in place of the publisher: it takes note of the runs, and publishes none.

    Parameters
    ----------
    error
        Why nothing can be published.
    """

    name = "publish"

    def __init__(self, error: CatalogError) -> None:
        self.error = error
        self._waiting: set[str] = set()

    def done(self, start: Mapping[str, Any]) -> bool:
        """Take note of a run; there is nothing to do for it."""
        self._waiting.add(start["uid"])
        return True

    def open(self, start: Mapping[str, Any]) -> Any:
        """Raise why nothing is published."""
        raise self.error

    def backlog(self) -> dict[str, Any]:
        """Return what waits until runs are published again, and ``off``: why none is published."""
        off = str(self.error).partition("\n")[0]
        return {"runs": len(self._waiting), "refused": {}, "off": off}


def load_publisher() -> type[Publisher]:
    """Return the class of the publisher, once what it needs of other packages has been tested.

    Raises
    ------
    CatalogError
        If it cannot publish, naming the package and what is wrong with it.
    """
    try:
        from offbragg.followers.publisher import Publisher
        from offbragg.followers.run_writer import self_test
    except (Exception, SystemExit) as error:  # whatever a broken package does when it is imported
        raise _cannot(_first_line(error)) from error
    part = self_test()
    if not part.active:
        raise _cannot(f"{part.package} {part.version}: {part.why}")
    return Publisher


def make_publisher(
    connect: Callable[[], Any], experiment: Path
) -> tuple[Publisher | PublishingOff, CatalogError | None]:
    """Make the follower that publishes, or one that only takes note if that cannot be done.

    Parameters
    ----------
    connect, experiment
        As `Publisher` has them.

    Returns
    -------
    publisher, off
        The follower, and why nothing is published; None if runs are.
    """
    try:
        return load_publisher()(connect, experiment), None
    except CatalogError as error:
        return PublishingOff(error), error


def _cannot(why: str) -> CatalogError:
    return CatalogError(
        f"publishing is off: {why}\n"
        "Frames are stacked without it, and every run is in its journal. Install the packages "
        "again (pip install --upgrade 'offbragg[catalog]'); then offbragg stack publishes what is "
        "missing."
    )


def _first_line(error: BaseException) -> str:
    text = printable(str(error).strip().partition("\n")[0])
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
