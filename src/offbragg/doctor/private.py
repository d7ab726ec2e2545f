"""Every hold on private parts of other packages, and whether it is active, for the doctor."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from offbragg.doctor.findings import Finding
from offbragg.private_parts import PrivatePart, examine

HOLDS = {
    "offbragg.files.hdf5": "h5py",
    "offbragg.devices.motor": "ophyd",
    "offbragg.devices.ca_messages": "pyepics",
    "offbragg.plans.beam": "bluesky",
    "offbragg.followers.run_writer": "bluesky-tiled-plugins",
    "offbragg.catalog.tiled_client": "tiled",
    "offbragg.catalog.inside": "tiled",
    "offbragg.catalog.checked": "tiled",
    "offbragg.catalog.served": "tiled",
    "offbragg.catalog.images": "tifffile",
    "offbragg.catalog.read_limits": "tiled",
    "offbragg.catalog.request_limits": "uvicorn",
    "offbragg.catalog.separation": "tiled",
    "offbragg.catalog.tiled_app": "tiled",
    "offbragg.catalog.tiled_patches": "tiled",
}
"""Modules that have a ``self_test``, and whose private parts they take hold of."""

_ADVICE = (
    "Install the versions that offbragg is tested with: pip install --upgrade 'offbragg[beamline]'"
)


def private_parts() -> Iterator[tuple[str, PrivatePart]]:
    """Test every hold, and yield its module with it.

    A module that cannot be imported counts as one hold that is not available.
    """
    for name, package in HOLDS.items():
        try:
            found = importlib.import_module(name).self_test()
        except (Exception, SystemExit) as error:  # a package that is absent or broken
            why = error

            def fail(why: BaseException = why) -> None:
                raise why

            found = examine(package, name, fail, guards=True)
        for part in found if isinstance(found, list) else [found]:
            yield name, part


def examine_private_parts() -> Iterator[Finding]:
    """Find each hold, as *active* or *not available*; one can measure without the catalog."""
    for name, part in private_parts():
        needed = part.guards and not name.startswith("offbragg.catalog.")
        level = "ok" if part.active else "failure" if needed else "warning"
        state = "active" if part.active else f"not available: {part.why}"
        yield Finding(
            f"private parts: {part.purpose}", level, f"{state} ({part.package} {part.version})",
            "" if part.active else _ADVICE,
            {"package": part.package, "guards": part.guards, "active": part.active},
        )  # fmt: skip
