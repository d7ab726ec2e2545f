"""What can go wrong, as a tree.

::

    OffbraggError
    ├── ConfigError          beamline.toml: unknown key, wrong type, path that cannot be used
    ├── MetadataError        a start document that must not open a run
    ├── SweepError           a rotation that cannot be measured as asked
    ├── GeometryError        vectors or matrices that describe no instrument
    ├── FrameError           one frame file cannot be used
    │   ├── IncompleteFrame    still being written, or cut short
    │   └── RejectedFrame      complete but wrong: checksum, size, format
    ├── ScanFileError        a scan file cannot be made, opened or resumed
    │   └── DamagedFrame       a stored frame is not what was stored
    ├── JournalError         the journal cannot be written or read
    ├── CatalogError         the catalog refused or cannot be reached
    │   ├── PublishError       it will not take this run, however often it is asked
    │   └── NoSuchEntry        it, or a run in it, has nothing of this name (a KeyError, too)
    ├── DeviceError          a device did not do what was asked in time
    ├── ReductionError       frames cannot become a volume, or volumes one
    ├── OrientationError     no lattice can be found, or an orientation cannot be used
    └── TransferError        what was measured cannot be sent to or taken by another host

The message says what, where, the numbers and what to do; its first line alone is
enough for a log. The command line turns each into one message and ``exit_code``.
"""

from __future__ import annotations

from collections.abc import Callable


class OffbraggError(Exception):
    """Base of everything that offbragg raises on purpose."""

    exit_code = 1


class ConfigError(OffbraggError):
    """The configuration cannot be used: the message names the key and the file."""

    exit_code = 3


class MetadataError(OffbraggError):
    """A start document lacks or contradicts something; the run is not opened."""

    exit_code = 4


class SweepError(OffbraggError):
    """The asked sweep cannot be measured; nothing has moved."""

    exit_code = 4


class GeometryError(OffbraggError):
    """The given vectors or matrices describe no instrument."""

    exit_code = 4


class FrameError(OffbraggError):
    """One frame file cannot be used."""

    exit_code = 5


class IncompleteFrame(FrameError):  # noqa: N818  a state of the file, not a fault of the program
    """The file is still being written, or was cut short."""


class RejectedFrame(FrameError):  # noqa: N818
    """The file is complete but its content must not be trusted."""


class ScanFileError(OffbraggError):
    """A scan file cannot be made, opened or resumed."""

    exit_code = 6


class DamagedFrame(ScanFileError):  # noqa: N818
    """A stored frame does not have the checksum with which it was stored.

    Parameters
    ----------
    message
        What, where, and what to do.
    number
        The frame's.
    adopted
        Whether it lies in a file of others, and not in the scan file.
    """

    def __init__(self, message: str, number: int, *, adopted: bool = False) -> None:
        super().__init__(message)
        self.number = number
        self.adopted = adopted


class JournalError(OffbraggError):
    """The journal cannot be written or read."""

    exit_code = 7


class CatalogError(OffbraggError):
    """The catalog refused a request or cannot be reached."""

    exit_code = 8
    status: int | None = None
    """The HTTP status with which it answered, if it did."""

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class PublishError(CatalogError):
    """The catalog cannot take a run: asking again soon is of no use."""

    retry_after = 600.0
    """Time until it is tried again, s."""


class NoSuchEntry(CatalogError, KeyError, ValueError):  # noqa: N818  as KeyError is one of its names
    """The catalog, a run or a stream has nothing under the key that was asked for.

    Programs catch the `KeyError`, or the `ValueError` that the start of a uid gives which is too
    short or fits several runs.

    Parameters
    ----------
    message
        What has nothing of which name.
    near
        Returns what there is, to be added to the message; called when somebody reads that.
    """

    def __init__(self, message: str, near: Callable[[], str] = str) -> None:
        super().__init__(message)
        self._message = message
        self._near: Callable[[], str] | None = near

    def __str__(self) -> str:
        near, self._near = self._near, None
        if near is not None:
            try:
                self._message += near()
            except Exception:  # the catalog may be away by now, and the message is true without
                return self._message
        return self._message


class DeviceError(OffbraggError):
    """A device did not do what was asked, in the time it was given."""

    exit_code = 9


class ReductionError(OffbraggError):
    """Frames cannot become a volume as asked, or volumes do not belong together."""

    exit_code = 10


class VolumeWriteError(ReductionError):
    """A volume file cannot be written, such as on a full disk: later it may be."""


class OrientationError(OffbraggError):
    """No lattice can be found in the frames, or an orientation cannot be used."""

    exit_code = 11


class TransferError(OffbraggError):
    """What was measured cannot be sent to another host, or is not taken there."""

    exit_code = 12
