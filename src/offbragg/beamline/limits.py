"""What a beamline's directories, disks and limits allow."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offbragg.beamline.config import Beamline
from offbragg.errors import ConfigError, MetadataError
from offbragg.metadata import validate_start

_PROPOSAL = 100  # characters; longer ones are in no file of people


def check_start(config: Beamline, md: Mapping[str, Any]) -> None:
    """Refuse a run that must not be opened: its metadata, its temperature, the disks.

    Raises
    ------
    MetadataError, ConfigError
        With the field or the path, and what to do.
    """
    validate_start(md)
    if config.catalog.people is not None and ("sweep" in md or "purpose" in md):
        proposal = md.get("proposal")
        if not isinstance(proposal, str) or not 0 < len(proposal) <= _PROPOSAL:
            raise MetadataError(
                f"proposal is {proposal!r}: it must be a text of 1 to {_PROPOSAL} characters\n"
                "The catalog shows each person the runs of their proposals: "
                'experiment(proposal="…"). '
                f"[catalog] people in {config.file} asks for it."
            )
    if "sweep" not in md:
        return
    low, high = config.limits.temperature
    kelvin = md.get("temperature", {}).get("setpoint")
    if kelvin is not None and not low <= kelvin <= high:
        raise ConfigError(
            f"temperature.setpoint {kelvin:g} K is outside {low:g} to {high:g} K\n"
            f"The range is [limits] temperature in {config.file}."
        )
    check_paths(config, n_frames=md["sweep"]["n_frames"], detector=md["detector"])


def check_paths(config: Beamline, **needs: Any) -> None:
    """Refuse directories that are not there, cannot be written, or have too little space.

    Parameters
    ----------
    config
        Whose [paths].
    needs
        As for `lacking_room`.

    Raises
    ------
    ConfigError
        Naming the path's key, the directory and the numbers.
    """
    if lack := lacking_room(config, **needs):
        raise ConfigError(lack)


def lacking_room(
    config: Beamline,
    *,
    n_frames: int = 0,
    detector: Mapping[str, Any] | None = None,
    what: str = "the sweep",
) -> str:
    """Return what a sweep lacks on the disks that its data cross; an empty string if it fits.

    What shares a disk is added up. The catalog's disk can hold up nothing.

    Parameters
    ----------
    config
        Whose [paths].
    n_frames
        How many frames are to be measured.
    detector
        Its ``shape`` and ``format``, as in a start document, or its ``frame_bytes``.
    what
        The frames are of, in the message.
    """
    stacked = written = 0.0
    if detector and "shape" in detector:
        slow, fast = detector["shape"]
        stacked = slow * fast * 1.2
        # uncompressed, or about a byte a pixel
        written = slow * fast * (4.0 if detector.get("format") == "tif" else 1.2)
    written = float((detector or {}).get("frame_bytes", written))
    needs = {"frames": written, "experiment": stacked, "journal": 0.0}
    disks: dict[int, list[str]] = {}
    for name in needs:
        path: Path = getattr(config.paths, name)
        if not path.is_dir() or not os.access(path, os.W_OK):
            return (
                f"paths.{name} {path} is not there or cannot be written\n"
                f"Make it, or set [paths] {name} in {config.file}."
            )
        disks.setdefault(path.stat().st_dev, []).append(name)
    for names in disks.values():
        path = getattr(config.paths, names[0])
        room = sum(needs[name] for name in names) * n_frames / 1e9
        free = shutil.disk_usage(path).free / 1e9
        if free < room + config.limits.free_disk:
            keys = ", ".join(f"paths.{name}" for name in names)
            return (
                f"too little disk for {what}: {free:.2f} GB free in {path} ({keys}), "
                f"{room:.2f} GB needed and {config.limits.free_disk:g} GB to be left\n"
                f"Free some, or set [paths] in {config.file} to a larger disk."
            )
    return ""


def make_paths(config: Beamline) -> None:
    """Make the directories of [paths] that are not there yet.

    That of the frames gets the mode of the frame folders (``directory_mode`` of the detector):
    camserver may be another user than ours, with a common group.
    """
    for name, path in config.paths:
        try:
            new = not path.is_dir()
            # only who has its key may read the catalog's databases
            path.mkdir(mode=0o700 if name == "catalog" else 0o777, parents=True, exist_ok=True)
            if new and name == "frames":
                path.chmod(_directory_mode(config))
        except OSError as error:
            raise ConfigError(
                f"paths.{name} {path} cannot be made: {error.strerror}\n"
                f"Set [paths] {name} in {config.file} to a directory that can be written."
            ) from error


def _directory_mode(config: Beamline) -> int:
    modes = [device.parameters.get("directory_mode") for device in config.devices.values()]
    mode = next((mode for mode in modes if isinstance(mode, str)), "2775")
    try:
        return int(mode, 8)
    except ValueError:
        raise ConfigError(
            f"directory_mode is {mode!r} in {config.file}: it must be octal digits, as '2775'"
        ) from None
