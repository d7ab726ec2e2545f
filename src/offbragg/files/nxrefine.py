"""Where NXRefine expects a sweep, and our geometry in its terms; nowhere else.

NXRefine and CCTW put x along the beam and z along the phi axis at zero angles, and know::

    G = R2(theta) R3(omega) R1(chi) R3(phi)        M = R1(roll) R2(pitch) R3(yaw)
    v = M [pixel (−(x − xc) ŷ + (y − yc) ẑ)] + distance x̂         (detector_orientation -y +z -x)
    q = G⁻¹ (v / |v| − x̂) / wavelength             hkl = UB⁻¹ q

with right-handed R1 R2 R3 about x y z, no 2π, and frame z at phi + step · z. Here x, y, xc, yc
have the corner of pixel 0 at 0, as pyFAI and CCTW have it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import shutil
import socket
import time as clock
from collections.abc import Generator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
from numpy.typing import NDArray

from offbragg.errors import GeometryError, ScanFileError
from offbragg.files import nexus, scan_layout
from offbragg.files.durable import sync
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_layout import ADOPTED
from offbragg.geometry import Geometry, rotation_about
from offbragg.lattice import direct_basis
from offbragg.sweep import Sweep

Array = NDArray[np.float64]


_HC = 12.398419843320026  # keV Å


_X, _Y, _Z = np.eye(3)


_ORIENTATION = "-y +z -x"


_LOCK_PATIENCE = 10.0  # s


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Setting:
    """One sweep in NXRefine's terms."""

    theta: float
    omega: float
    chi: float
    phi: float
    """Where the first frame starts, degree."""
    step: float
    yaw: float
    pitch: float
    roll: float
    xc: float
    yc: float
    """Where the beam meets the detector, pixel; the corner of pixel (0, 0) is (0, 0)."""
    distance: float
    """From the crystal to there, mm."""
    UB: Array | None
    """Å⁻¹ without 2π, half a step ahead: so that frame z at phi + step · z is right."""


def translate(geometry: Geometry, sweep: Sweep, UB: Array | None) -> Setting:
    """Express a geometry as NXRefine does.

    If the goniometer is NXRefine's (phi innermost and scanned, then chi about the beam, omega
    along phi, theta), its own angles are kept. Any other one becomes a rotation about phi on a
    theta tilt, and what is fixed goes into UB.

    Raises
    ------
    GeometryError
        If the beam never meets the panel, the scan axis runs along the beam, or pixels are not
        square: NXRefine has no words for that.
    """
    met = geometry.direct_beam()
    if met is None:
        raise GeometryError("the beam never meets the panel: NXRefine cannot describe that")
    along_fast, along_slow = geometry.panel.pixel_size
    if not math.isclose(along_fast, along_slow, rel_tol=1e-6):
        raise GeometryError(
            f"pixels of {along_fast} × {along_slow} mm are not square: "
            "NXRefine cannot describe that"
        )
    turned, theta, omega, chi, inner = _native(geometry) or _general(geometry)
    fast = turned @ np.array(geometry.panel.fast)
    normal = turned @ geometry.panel.normal
    # M takes −ŷ to fast and −x̂ to the panel's normal
    M = np.column_stack([-normal, -fast, np.cross(normal, fast)])
    if abs(M[0, 2]) < 1.0 - 1e-12:
        yaw, roll = math.atan2(-M[0, 1], M[0, 0]), math.atan2(-M[1, 2], M[2, 2])
    else:
        yaw, roll = math.atan2(M[1, 0], M[1, 1]), 0.0
    pitch = math.atan2(M[0, 2], math.hypot(M[0, 0], M[0, 1]))
    half_step = rotation_about(_Z, 0.5 * sweep.step)
    return Setting(
        theta=theta,
        omega=omega,
        chi=chi,
        phi=sweep.start,
        step=sweep.step,
        yaw=math.degrees(yaw),
        pitch=math.degrees(pitch),
        roll=math.degrees(roll),
        xc=met[0],
        yc=met[1],
        distance=met[2],
        UB=None if UB is None else half_step @ inner @ UB,
    )


_Frame = tuple[Array, float, float, float, Array]  # lab → NXRefine, theta, omega, chi, UB's turn


def _native(geometry: Geometry) -> _Frame | None:
    """If the goniometer is NXRefine's own, its angles."""
    names = [axis.name for axis in geometry.axes]
    order = ["phi", "chi", "omega", "theta"]
    if geometry.scan_axis != "phi" or names != [name for name in order if name in names]:
        return None
    phi = np.array(geometry.axes[0].vector)
    if abs(phi[2]) > 1e-9:
        return None
    turned = np.array([_Z, np.cross(phi, _Z), phi])
    expected = {"phi": _Z, "chi": _X, "omega": _Z, "theta": _Y}
    angles = {"theta": 0.0, "omega": 0.0, "chi": 0.0}
    for axis in geometry.axes:
        if not np.allclose(turned @ np.array(axis.vector), expected[axis.name], atol=1e-9):
            return None
        angles[axis.name] = axis.angle
    return turned, angles["theta"], angles["omega"], angles["chi"], turned


def _general(geometry: Geometry) -> _Frame:
    """Describe any goniometer as a rotation about phi on a theta tilt."""
    fixed = geometry.rotation(0.0)
    quarter = geometry.rotation(90.0) @ fixed.T
    # the scan axis as it stands in the lab: from the antisymmetric part of a quarter turn
    axis = 0.5 * np.array(
        [
            quarter[2, 1] - quarter[1, 2],
            quarter[0, 2] - quarter[2, 0],
            quarter[1, 0] - quarter[0, 1],
        ]
    )
    across = np.array([axis[0], axis[1], 0.0])
    if np.linalg.norm(across) < 1e-6:
        raise GeometryError(
            f"the scan axis {geometry.scan_axis!r} runs along the beam: "
            "NXRefine cannot describe that"
        )
    up = across / np.linalg.norm(across)
    turned = np.array([_Z, np.cross(up, _Z), up])
    theta = math.degrees(math.atan2(axis[2], float(axis @ up)))
    inner = rotation_about(_Y, -theta) @ turned @ fixed
    return turned, theta, 0.0, 0.0, inner


def has_wrapper(path: Path | str) -> bool:
    """Return whether the wrapper of a scan file is there and has its rotation."""
    path = Path(path).resolve()
    with ScanFile.open(path) as scan:
        wrapper = _wrapper_of(path, scan)
    if not wrapper.is_file():
        return False
    with h5py.File(wrapper, "r", locking=False) as file:
        return path.stem in file


def remove_left_locks(path: Path | str) -> None:
    """Remove locks on wrapper and parent of a scan file whose process has ended.

    One that was killed after its last rename left them complete and locked, for NeXpy for hours.
    """
    path = Path(path).resolve()
    with ScanFile.open(path) as scan:
        files = _wrapper_of(path, scan), path.parents[1] / f"{scan.sample.name}_scans.nxs"
    for file in files:
        lock = file.with_name(file.name + ".lock")
        if lock.exists() and _is_left(lock, 0.0):
            lock.unlink(missing_ok=True)


def wrapper_path(path: Path | str) -> Path:
    """Return where the wrapper of a scan file is, or would be."""
    path = Path(path).resolve()
    with ScanFile.open(path) as scan:
        return _wrapper_of(path, scan)


def _in_a_tree(path: Path) -> bool:
    """Whether a scan file has a name of NXRefine's tree, and so its folder that of a scan."""
    return re.fullmatch(r"f\d+\.h5", path.name) is not None


def _wrapper_of(path: Path, scan: ScanFile) -> Path:
    if _in_a_tree(path):
        return path.parents[1] / f"{scan.sample.name}_{path.parent.name}.nxs"
    return path.with_name(f"{scan.sample.name}_{path.stem}.nxs")


def write_wrapper(path: Path | str) -> Path:
    """Write what NXRefine and NeXpy open: the wrapper of a finished sweep, and its parent.

    Parameters
    ----------
    path
        The scan file, where `scan_directory` put it, or of any other name; none of adopted frames.

    Returns
    -------
    wrapper
        ``<sample>_<scan>.nxs`` beside the scan's directory; other rotations in it are kept. Of a
        file that is not called ``fN.h5``, ``<sample>_<name>.nxs`` beside it, without a parent.
    """
    path = Path(path)
    with ScanFile.open(path) as scan:
        if ADOPTED in scan.start:  # HDF5 finds no chunk there, and reads the fill value
            raise ScanFileError(
                f"{path} gets no wrapper: its frames lie in files of others, and NXRefine would "
                "read -1 for each pixel\nReduce it with offbragg reduce."
            )
        sample, scan_dir = scan.sample, path.resolve().parent
        setting = translate(
            scan.geometry, scan.sweep, None if sample.UB is None else np.array(sample.UB)
        )
        wrapper = _wrapper_of(path.resolve(), scan)
        name, target = path.stem, path.name
        if _in_a_tree(path):
            name, target = scan_dir.name, f"{scan_dir.name}/{path.name}"
            # the wrapper last: where it is, all of it is
            with _edited(scan_dir.parent / f"{sample.name}_scans.nxs") as file:
                _fresh_entry(file, scan, f"{sample.name} {sample.label}")
                if path.stem not in file:
                    rotation = nexus.add_group(file, path.stem, "NXentry")
                    _write_instrument(rotation, scan, setting)
        with _edited(wrapper) as file:
            _fresh_entry(file, scan, f"{sample.name} {sample.label} {name}")
            _write_rotation(file, scan, setting, target)
    return wrapper


def _fresh_entry(file: h5py.File, scan: ScanFile, title: str) -> None:
    """Make /entry with its sample if it is not there; what NXRefine put there stays."""
    if "entry" in file:
        return
    file.attrs["default"] = np.bytes_("entry")
    entry = nexus.add_group(file, "entry", "NXentry")
    nexus.add_field(entry, "title", title)
    sample = scan.sample
    group = nexus.add_group(entry, "sample", "NXsample")
    nexus.add_field(group, "name", sample.name)
    nexus.add_field(group, "label", sample.label)
    if sample.formula:
        nexus.add_field(group, "chemical_formula", sample.formula)
    if sample.space_group:
        nexus.add_field(group, "space_group", sample.space_group)
    if sample.centring:
        nexus.add_field(group, "lattice_centring", sample.centring)
    temperature: dict[str, Any] = scan.start.get("temperature") or {}
    kelvin = temperature.get("setpoint")
    if kelvin is not None:
        nexus.add_field(group, "temperature", float(kelvin), units="K")
    if sample.lattice is not None:
        for name, value in zip(("a", "b", "c"), sample.lattice[:3], strict=True):
            nexus.add_field(group, f"unitcell_{name}", float(value), units="Angstrom")
        for name, value in zip(("alpha", "beta", "gamma"), sample.lattice[3:], strict=True):
            nexus.add_field(group, f"unitcell_{name}", float(value), units="degrees")


def _write_rotation(file: h5py.File, scan: ScanFile, setting: Setting, target: str) -> None:
    name = scan.path.stem
    if name in file:
        del file[name]
    file.attrs["default"] = np.bytes_(name)
    entry = nexus.add_group(file, name, "NXentry", default="data")
    nexus.add_field(entry, "title", f"{scan.sample.name} {target}")
    nexus.add_field(entry, "start_time", nexus.iso(float(scan.start["time"])))
    nexus.add_field(entry, "entry_identifier", scan.run)
    entry["sample"] = h5py.SoftLink("/entry/sample")
    rows, columns = scan.shape
    n = scan.n_frames

    data = nexus.add_group(entry, "data", "NXdata", signal="data")
    data.attrs["axes"] = np.array([b"frame_number", b"y_pixel", b"x_pixel"])
    data["data"] = h5py.ExternalLink(target, scan_layout.DATA)
    for axis, length in (("frame_number", n), ("y_pixel", rows), ("x_pixel", columns)):
        nexus.add_field(data, axis, np.arange(length, dtype=np.int32))
    nexus.add_field(data, "frame_time", scan.sweep.period, units="s")

    weight, note = _monitor_weight(scan)
    nexus.add_field(data, "monitor_weight", weight, description=note)
    values = scan.frame_values()
    if "monitor" in values:
        monitor = nexus.add_group(entry, "monitor", "NXmonitor", signal="data", axes="frame_number")
        nexus.add_field(monitor, "data", values["monitor"])
        nexus.add_field(monitor, "frame_number", np.arange(n, dtype=np.int32))
    _write_instrument(entry, scan, setting)
    workflow = nexus.add_group(entry, "nxworkflow", "NXcollection")
    for task in ("nxload", "nxlink"):
        process = nexus.add_group(workflow, task, "NXprocess")
        nexus.add_field(process, "program", "offbragg")
        nexus.add_field(process, "version", version("offbragg"))
        nexus.add_field(process, "date", nexus.iso(clock.time()))
        nexus.add_field(process, "sequence_index", np.int32(1))


def _monitor_weight(scan: ScanFile) -> tuple[Array, str]:
    """Weight of each frame; CCTW leaves out what weighs nothing."""
    values = scan.frame_values()
    stored = values["status"] == "stored"
    if "weight" in values:
        stored &= values["weight"] != 0  # exposed without beam
    if "monitor" not in values:
        note = "no monitor was recorded: stored frames weigh 1, missing, rejected and dark ones 0"
        return stored.astype(np.float64), note
    monitor = values["monitor"]
    good = stored & np.isfinite(monitor) & (monitor > 0)
    weight = np.zeros(scan.n_frames)
    if good.any():
        weight[good] = monitor[good] / monitor[good].mean()
    note = "monitor / its mean; 0 for frames that are missing, rejected, dark or without monitor"
    return weight, note


def _write_instrument(entry: h5py.Group, scan: ScanFile, setting: Setting) -> None:
    panel = scan.geometry.panel
    facts: dict[str, Any] = scan.start.get("detector") or {}
    instrument = nexus.add_group(entry, "instrument", "NXinstrument")
    if scan.start.get("beamline_id"):
        nexus.add_field(instrument, "name", str(scan.start["beamline_id"]))
    detector: Any = nexus.add_group(instrument, "detector", "NXdetector")
    if facts.get("model"):
        nexus.add_field(detector, "description", _pyfai_name(str(facts["model"])))
    nexus.add_field(detector, "shape", np.array(scan.shape, np.int32))
    nexus.add_field(detector, "pixel_size", panel.pixel_size[0], units="mm")
    nexus.add_field(detector, "distance", setting.distance, units="mm")
    nexus.add_field(detector, "beam_center_x", setting.xc, units="pixel")
    nexus.add_field(detector, "beam_center_y", setting.yc, units="pixel")
    for name in ("yaw", "pitch", "roll"):
        nexus.add_field(detector, name, getattr(setting, name), units="deg")
    nexus.add_field(detector, "detector_orientation", _ORIENTATION)
    nexus.add_field(detector, "frame_time", scan.sweep.period, units="s")
    for name in ("translation_x", "translation_y"):
        nexus.add_field(detector, name, 0.0, units="mm")
    detector.create_dataset(
        "pixel_mask", data=scan.pixel_mask().astype(np.int8), **nexus.COMPRESSED
    )
    if setting.UB is not None:
        lattice = scan.sample.lattice
        basis = _basis_of(setting.UB) if lattice is None else direct_basis(lattice)
        nexus.add_field(detector, "orientation_matrix", setting.UB @ basis)

    _write_calibration(instrument, scan)
    goniometer = nexus.add_group(instrument, "goniometer", "NXgoniometer")
    end = setting.phi + setting.step * scan.n_frames
    nexus.add_field(goniometer, "phi", setting.phi, units="deg", step=setting.step, end=end)
    for name in ("chi", "omega", "theta"):
        nexus.add_field(goniometer, name, getattr(setting, name), units="deg")
    monochromator = nexus.add_group(instrument, "monochromator", "NXmonochromator")
    wavelength = scan.geometry.wavelength
    nexus.add_field(monochromator, "wavelength", wavelength, units="Angstrom")
    nexus.add_field(monochromator, "energy", _HC / wavelength, units="keV")
    source = nexus.add_group(instrument, "source", "NXsource")
    if scan.start.get("beamline_id"):
        nexus.add_field(source, "name", str(scan.start["beamline_id"]))
    nexus.add_field(source, "probe", "x-ray")


def _write_calibration(instrument: h5py.Group, scan: ScanFile) -> None:
    """Write the panel as pyFAI has it, where NXRefine looks for a calibration with a powder."""
    calibration = nexus.add_group(instrument, "calibration", "NXcollection")
    refinement = nexus.add_group(calibration, "refinement", "NXprocess")
    nexus.add_field(refinement, "program", "offbragg")
    nexus.add_field(refinement, "description", "of the scan file's geometry, not of a powder")
    found = nexus.add_group(refinement, "parameters", "NXcollection")
    facts: dict[str, Any] = scan.start.get("detector") or {}
    nexus.add_field(found, "Detector", _pyfai_name(str(facts.get("model") or "detector")))
    for name, value in pyfai_parameters(scan.geometry).items():
        nexus.add_field(found, name, value)


def pyfai_parameters(geometry: Geometry) -> dict[str, float]:
    """Return a panel as pyFAI has it: lengths in m, angles in rad.

    pyFAI's axes are 1 up, 2 across, 3 along the beam, and a pixel is at R (d₁ − Poni1, d₂ − Poni2,
    Distance) with R = R₃(Rot3) R₂(−Rot2) R₁(−Rot1). Its panels are seen from the crystal with rows
    that run up where columns run along axis 2. One of the other hand, as most are, is described in
    a mirror that turns axis 2 round: polar angles, polarization and solid angles are the same.
    """
    panel = geometry.panel
    slow, fast = np.array(panel.slow), np.array(panel.fast)
    origin = 1e-3 * np.array(panel.origin)
    normal = np.cross(slow, fast)
    hand = 1.0 if origin @ normal > 0 else -1.0
    normal = hand * normal
    return {
        "Distance": float(origin @ normal),
        "PixelSize1": 1e-3 * panel.pixel_size[1],
        "PixelSize2": 1e-3 * panel.pixel_size[0],
        "Poni1": float(-origin @ slow),
        "Poni2": float(-origin @ fast),
        "Rot1": math.atan2(-fast[2], normal[2]),
        "Rot2": math.asin(max(-1.0, min(1.0, slow[2]))),
        "Rot3": math.atan2(-hand * slow[0], slow[1]),  # axis 2 is z × y
        "Wavelength": 1e-10 * geometry.wavelength,
    }


def _basis_of(UB: Array) -> Array:
    """Direct basis of UB's lattice, a along x and b in the xy plane."""
    direct = np.linalg.inv(UB).T
    return np.linalg.cholesky(direct.T @ direct).T.astype(np.float64)


def _pyfai_name(model: str) -> str:
    """Call a Pilatus as pyFAI does: 'Pilatus 2M' for 'PILATUS 2M, S/N 24-0107'."""
    words = model.split(",")[0].split()
    if len(words) >= 2 and words[0].upper().startswith("PILATUS"):
        return f"Pilatus {words[-1]}"
    return model


def _is_left(lock: Path, waited: float) -> bool:
    """Return whether the process that made a lock has ended: one of this host, NeXpy's or ours."""
    try:
        note = lock.read_text()
        if not note:  # it is named right after it is made
            return waited > 1.0
        pid, _, host = note.partition("@")
        if host == socket.gethostname():
            os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return False


@contextlib.contextmanager
def _edited(path: Path) -> Generator[h5py.File]:
    """Edit a copy of an HDF5 file under nexusformat's lock; it replaces the file at the end."""
    lock = path.with_name(path.name + ".lock")
    draft = path.with_name(f".{path.name}.draft")  # it is ours as long as the lock is
    began = clock.monotonic()
    while True:
        try:
            descriptor = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
            break
        except FileExistsError:
            waited = clock.monotonic() - began
            if _is_left(lock, waited):
                lock.unlink(missing_ok=True)
                continue
            if waited > _LOCK_PATIENCE:
                raise ScanFileError(
                    f"{path.name} is locked: {lock} has been there for {_LOCK_PATIENCE:g} s\n"
                    "If no NeXpy or NXRefine is at work, remove that file."
                ) from None
            clock.sleep(0.05)
    try:
        try:
            os.write(descriptor, f"{os.getpid()}@{socket.gethostname()}".encode())
        finally:
            os.close(descriptor)
        draft.unlink(missing_ok=True)
        if path.exists():
            shutil.copyfile(path, draft)
        with h5py.File(draft, "a", libver=("v110", "v110"), locking=False) as file:
            yield file
        sync(draft)  # else a power cut could leave an empty one in its place
        draft.replace(path)
        sync(path.parent)
    except (OSError, RuntimeError) as error:  # a full disk: RuntimeError
        raise ScanFileError(f"{path} cannot be written: {error}") from error
    finally:
        for left in (draft, lock):
            try:
                left.unlink(missing_ok=True)
            except OSError as error:  # whoever comes next takes it away
                log.warning("%s could not be removed: %s", left, error)
