"""What we take hold of in other packages that they do not document, and whether it still holds.

Each such hold lives in one module, which has a function ``self_test`` that returns `PrivatePart`s.
It is called when a process starts that needs the hold: what guards is refused then if its hold is
not active; what only saves time, or makes something nicer, is left out. ``offbragg doctor`` shows
all of them.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PrivatePart:
    """One hold on a part of another package that it does not document."""

    package: str
    """As it is installed, e.g. bluesky-tiled-plugins."""
    purpose: str
    """What it is for, and what is not done without it."""
    guards: bool = False
    """Whether something could be lost or revealed without it: then nothing is done without it."""
    why: str = ""
    """Why it is not available; empty if it is active."""

    @property
    def active(self) -> bool:
        """Whether the package still has what we take hold of."""
        return not self.why

    @property
    def version(self) -> str:
        """Version of the package that is installed; empty if none is."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return ""

    def __str__(self) -> str:
        state = "active" if self.active else "not available"
        named = f"{self.package} {self.version}".rstrip()
        return f"{self.purpose} ({named}): {state}" + (f": {self.why}" if self.why else "")


def examine(
    package: str, purpose: str, test: Callable[[], object], *, guards: bool = False
) -> PrivatePart:
    """Try a hold, and return whether it is active.

    Parameters
    ----------
    package, purpose, guards
        As `PrivatePart` has them.
    test
        Uses the package as we do; whatever it raises is why the hold is not available.

    Examples
    --------
    >>> examine("numpy", "arrays", lambda: None).active
    True
    >>> examine("numpy", "arrays", lambda: 1 / 0).why
    'ZeroDivisionError: division by zero'
    """
    try:
        test()
    except (Exception, SystemExit) as error:  # another package, in an unknown version
        first = str(error).strip().partition("\n")[0]
        return PrivatePart(package, purpose, guards, f"{type(error).__name__}: {first}")
    return PrivatePart(package, purpose, guards)


def require(where: object, *names: str) -> None:
    """Raise if a module, class or object lacks one of the names that we use.

    Raises
    ------
    AttributeError
        Naming those that it lacks.
    """
    lacking = [name for name in names if not hasattr(where, name)]
    if lacking:
        called = getattr(where, "__name__", type(where).__name__)
        raise AttributeError(f"{called} has no {', '.join(lacking)}")
