"""The blind test: a crystal that no one knows is measured, reduced by the commands, then scored.

::

    python tests/blind.py DIR [--crystals 3] [--keep]

For each crystal a process of its own, the *beamline*, draws cell, UB, Tc and β from the system's
random numbers. It writes them into a sealed file: encrypted with a key that is in its memory and
nowhere else; and says the SHA-256 of what is in it before anything is measured. Then it measures
what it is asked for, as scan files that tell neither cell nor UB. What is typed is what a user
types: ``offbragg index``, ``reduce --orientation``, ``reduce --again``, ``series --at``, first at
some temperatures from the lowest to the highest, then around the transition that was found. The
beamline gives its key for the SHA-256 of the results; then the seal is opened, compared with what
was given first, and each result with the truth.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE / "reduction")]

from crystals import direct, misorientation, orientation, random_turn  # noqa: E402

from offbragg.files.scan_writer import ScanWriter  # noqa: E402
from offbragg.frame import Frame  # noqa: E402
from offbragg.sweep import Sweep  # noqa: E402
from sim_iocs import crystal as sim  # noqa: E402

DETECTOR = "100K"
POINTS = [f"{h},{k},{m}" for h in (0.5, -0.5) for k in (0.5, -0.5) for m in (0.5, -0.5)]
FIRST = tuple(range(40, 221, 18))  # K
AROUND = (-24, -14, -8, -5, -3, -2, -1, 1, 2, 4, 8, 16)  # K from the transition that was found
GATES = {"angle": 0.02, "cell": 5e-4, "Tc": 0.5, "beta": 0.05}  # degree, relative, K


# ---- the beamline: its own process, the only one that knows --------------------------------


class Hidden(sim.Crystal):
    """The simulator's crystal with a right-angled cell of its own."""

    def __init__(self, cell: Sequence[float], UB: np.ndarray, *, seed: int) -> None:
        self.cell, self.hidden = np.array(cell[:3]), UB
        super().__init__(DETECTOR, seed=seed)

    def _list_peaks(self) -> None:
        self.UB = self.hidden
        limits = [math.ceil(self._q_max * a) + 1 for a in self.cell]
        whole = np.stack(
            np.meshgrid(*(np.arange(-n, n + 1) for n in limits), indexing="ij"), -1
        ).reshape(-1, 3)
        kept = []
        for hkl, is_super in ((whole[whole.any(axis=1)], False), (whole + 0.5, True)):
            near = np.linalg.norm(hkl @ self.UB.T, axis=1) < self._q_max + 0.05
            kept.append((hkl[near].astype(float), is_super))
        self.hkl = np.concatenate([hkl for hkl, _ in kept])
        self.is_super = np.concatenate([np.full(len(hkl), s) for hkl, s in kept])
        # |F|² as Wilson has it, Friedel's law kept by the absolute hkl
        table = np.random.default_rng(self.seed).exponential(size=(64, 64, 64))
        h, k, l = np.abs(self.hkl).astype(int).T % 64  # noqa: E741
        self.strength = np.where(self.is_super, sim.RPOINT, 3e5 * table[h, k, l])

    def _diffuse(self, rows: Any, rotation: Any, temperature: float, *, out: Any) -> None:
        to_hkl = (np.linalg.inv(self.UB) @ rotation.T).astype(np.float32)
        h = to_hkl @ self.q[:, rows].reshape(3, -1)
        value = np.exp(np.float32(1.5) * (np.cos(np.float32(2 * np.pi) * h).sum(axis=0) - 3))
        value *= np.float32(0.1 * sim.THERMAL * temperature / sim.DIFFUSE_CORE**2)
        away = (np.abs(h - np.rint(h)) - np.float32(0.5)) / self.cell[:, None].astype(np.float32)
        kappa = sim.inverse_correlation_length(temperature)
        value += np.float32(sim.CRITICAL) / (np.float32(kappa**2) + (away**2).sum(axis=0))
        np.multiply(value.reshape(out.shape), self.q_squared[rows], out=out)


def sealed(text: bytes, key: bytes) -> bytes:
    """Encrypt, or decrypt, with a key that is used once."""
    stream = hashlib.shake_256(key).digest(len(text))
    return bytes(a ^ b for a, b in zip(text, stream, strict=True))


def draw(family: str, rng: np.random.Generator) -> dict[str, Any]:
    """Draw a crystal."""
    while True:
        a, b, c = sorted(rng.uniform(4.0, 8.0, 3).tolist())
        if min(b / a, c / b) > 1.03 and abs(c / a - math.sqrt(2)) > 0.05:
            break
    cell = {"o": (a, b, c), "t": (a, a, c), "c": (b, b, b)}[family]
    cell = (*cell, 90.0, 90.0, 90.0)
    UB = orientation(cell, random_turn(rng))
    Tc, beta = float(rng.uniform(100, 180)), float(rng.uniform(0.2, 0.45))
    return {"cell": cell, "UB": UB.tolist(), "Tc": Tc, "beta": beta, "centring": "P"}


def beamline(folder: Path, family: str) -> None:
    """Draw a crystal, seal it, measure what is asked for; give the key for the results."""
    seed, key = secrets.randbits(64), secrets.token_bytes(32)
    truth = draw(family, np.random.default_rng(seed))
    sim.TC, sim.BETA = truth["Tc"], truth["beta"]
    text = json.dumps({**truth, "seed": seed, "salt": secrets.token_hex(16)}).encode()
    (folder / "sealed").write_bytes(sealed(text, key))
    tell(sha256=hashlib.sha256(text).hexdigest())
    crystal = Hidden(truth["cell"], np.array(truth["UB"]), seed=seed % 2**32)
    for run, line in enumerate(sys.stdin):
        asked = json.loads(line)
        if "results" in asked:
            tell(key=key.hex(), results=asked["results"])
            return
        tell(file=str(measure(crystal, folder, run, **asked)))


def measure(
    crystal: Hidden, folder: Path, run: int, *, purpose: str, temperature: float, step: float
) -> Path:
    """Turn the crystal once; the scan file tells neither its cell nor how it lies."""
    sweep = Sweep("phi", 0.0, step, round(360 / step), 0.1, 0.1)
    truth = sim.truth(DETECTOR)
    panel = truth["panel"]
    start = {
        "uid": f"{secrets.token_hex(8)}",
        "time": 1.77e9 + 60 * run,
        "plan_name": "rotation_scan",
        "purpose": purpose,
        "beamline_id": "simulated",
        "sample": {"name": "unknown", "label": "x1"},
        "temperature": {"setpoint": temperature},
        "sweep": sweep.to_dict(),
        "geometry": {
            "wavelength": truth["wavelength"],
            "panel": {
                "origin": panel["origin_mm"],
                "fast": panel["fast"],
                "slow": panel["slow"],
                "pixel_size": [panel["pixel_mm"]] * 2,
                "shape": panel["shape"],
            },
            "axes": [{**axis, "angle": 0.0} for axis in truth["axes"]],
            "scan_axis": "phi",
        },
        "detector": {
            "name": "pilatus",
            "shape": list(sim.SHAPES[DETECTOR]),
            "sensor_material": "Si",
            "sensor_thickness": 0.45,
            "saturation": sim.CUTOFF,
        },
        "per_frame": {"monitor": {"key": "monitor", "by": "monitor_frame", "units": "counts"}},
    }
    scan = ScanWriter.create(folder / purpose / f"{temperature:g}K", start=start)
    for n in range(sweep.n_frames):
        begin, end = sweep.edges[n : n + 2]
        exposure = sim.Exposure(
            number=n, angles=((begin, 0, 0), (end, 0, 0)), seconds=0.1, temperature=temperature,
            series=run,
        )  # fmt: skip
        scan.write_frame(Frame(n, crystal.count(exposure)), source=f"x_{n:05d}.cbf", time=n / 10)
    scan.set_values("monitor", np.arange(sweep.n_frames), np.full(sweep.n_frames, 100.0))
    scan.finish(time=1.77e9 + 60 * run + 36, exit_status="success", reason="", summary={})
    return scan.path


def tell(**what: Any) -> None:
    """Send one answer to the process that asks."""
    print(json.dumps(what), flush=True)


# ---- the user, who knows nothing ---------------------------------------------------------------


@contextlib.contextmanager
def a_beamline(folder: Path, family: str) -> Iterator[Any]:
    """Start a beamline; gives what asks it something."""
    command = [sys.executable, __file__, "--beamline", str(folder), "--family", family]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None

    def ask(**what: Any) -> dict[str, Any]:
        if what:
            process.stdin.write(json.dumps(what) + "\n")
            process.stdin.flush()
        return json.loads(process.stdout.readline())

    try:
        yield ask
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


def offbragg(*words: object) -> dict[str, Any]:
    """Type a command; give its JSON."""
    command = [sys.executable, "-m", "offbragg", *map(str, words), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:])}: {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def attempt(folder: Path, family: str) -> dict[str, Any]:
    """Measure and reduce one crystal, then open the seal."""
    folder.mkdir(parents=True)
    origin = sim.panel_origin(DETECTOR)
    rows, columns = np.indices(sim.SHAPES[DETECTOR]) + 0.5
    x, y = origin[0] - columns * sim.PIXEL, origin[1] - rows * sim.PIXEL
    np.save(folder / "beamstop.npy", np.hypot(x, y) < sim.BEAMSTOP + 0.2)
    clock, seconds = time.monotonic(), {}

    def lap(name: str) -> None:
        nonlocal clock
        now = time.monotonic()
        seconds[name], clock = seconds.get(name, 0.0) + now - clock, now

    with a_beamline(folder, family) as ask:
        seal = ask()["sha256"]
        print(f"{family}: sealed, SHA-256 {seal}", flush=True)
        oriented = ask(purpose="orient", temperature=300.0, step=0.5)["file"]
        lap("measure")
        found = offbragg("index", oriented, "--out", folder / "orientation.json")
        lap("index")
        files: dict[float, str] = {}

        def series(at: str) -> dict[str, Any]:
            return offbragg(
                "series", folder / "data", f"--at={at}",
                "--orientation", folder / "orientation.json", "--mask", folder / "beamstop.npy",
                "--background", "none", "--no-efficiency", "--out", folder / "order.png",
            )  # fmt: skip

        for kelvin in FIRST:
            files[kelvin] = ask(purpose="data", temperature=float(kelvin), step=1.0)["file"]
        lap("measure")
        rough = None
        for at in POINTS:  # equivalent ones: the first that the sweep has measured
            try:
                rough = series(at)
                break
            except RuntimeError as error:
                print(f"{family}: {error}", flush=True)
        if rough is None:
            raise RuntimeError("no superlattice point could be followed")
        print(
            f"{family}: ({at}) Tc about {rough['Tc']:.1f} ± {rough['Tc_error']:.1f} K", flush=True
        )
        lap("series")
        for away in AROUND:
            kelvin = round(rough["Tc"] + away, 1)
            if min(abs(kelvin - other) for other in files) > 0.9:
                files[kelvin] = ask(purpose="data", temperature=kelvin, step=1.0)["file"]
        lap("measure")
        order = series(at)
        lap("series")
        volume = offbragg(
            "reduce", files[FIRST[0]], "--orientation", folder / "orientation.json",
            "--mask", folder / "beamstop.npy", "--background", "none", "--no-efficiency",
            "--out", folder / "volume.h5",
        )["volumes"][0]  # fmt: skip
        lap("reduce")
        again = offbragg("reduce", "--again", folder / "volume.h5")["same"]
        lap("again")
        results = {
            "UB": found["UB"], "lattice": found["lattice"], "Tc": order["Tc"],
            "Tc_error": order["Tc_error"], "beta": order["beta"],
            "beta_error": order["beta_error"], "at": at, "temperatures": len(files), "again": again,
            "completeness": volume["completeness"], "bragg": bragg(folder / "volume.h5"),
        }  # fmt: skip
        handed_in = hashlib.sha256(json.dumps(results).encode()).hexdigest()
        print(f"{family}: results, SHA-256 {handed_in}", flush=True)
        answer = ask(results=handed_in)
    text = sealed((folder / "sealed").read_bytes(), bytes.fromhex(answer["key"]))
    if answer["results"] != handed_in or hashlib.sha256(text).hexdigest() != seal:
        raise RuntimeError("the results are not those that were sealed")
    return score(results, json.loads(text)) | {"seconds": seconds, "file": str(folder)}


def bragg(path: Path) -> float:
    """Of the hundred brightest cells, the part that is within a cell of whole hkl."""
    with h5py.File(path) as file:
        data = file["entry/data"]
        intensity, errors = data["intensity"][()], data["intensity_errors"][()]
        axes = [data[name][()] for name in ("Ql", "Qk", "Qh")]
    sure = np.where(np.isfinite(intensity) & (errors < 0.2 * intensity), intensity, 0.0)
    brightest = np.unravel_index(np.argsort(sure, axis=None)[-100:], sure.shape)
    off = [
        np.abs(axis[where] - np.rint(axis[where])) / (axis[1] - axis[0])
        for axis, where in zip(axes, brightest, strict=True)
    ]
    return float(np.mean(np.max(off, axis=0) < 1.5))


def score(results: dict[str, Any], truth: dict[str, Any]) -> dict[str, Any]:
    """Compare with the truth."""
    angle, strain = misorientation(np.array(results["UB"]), np.array(truth["UB"]), truth["cell"])
    lengths = np.linalg.norm(direct(truth["cell"]), axis=1)
    found = {
        "angle": angle,
        "cell": strain,
        "Tc": results["Tc"] - truth["Tc"],
        "beta": results["beta"] - truth["beta"],
    }
    right = {name: abs(found[name]) < gate for name, gate in GATES.items()}
    right |= {"again": results["again"], "bragg": results["bragg"] >= 0.95}
    cell = f"{', '.join(f'{x:.3f}' for x in sorted(lengths))}"
    return {"truth": truth, "cell of": cell, "results": results, "found": found, "right": right}


def table(scores: Sequence[dict[str, Any]]) -> str:
    """Write a line for each crystal."""
    lines = [
        "cell (Å)               misorientation  cell       Tc (K)           found          "
        "β      found           Bragg  again  right"
    ]
    for each in scores:
        found, results, truth = each["found"], each["results"], each["truth"]
        lines.append(
            f"{each['cell of']:22} {found['angle']:9.4f}°  {found['cell']:12.1e}  "
            f"{truth['Tc']:8.2f}  {results['Tc']:8.2f} ± {results['Tc_error']:.2f}  "
            f"{truth['beta']:7.3f}  {results['beta']:.3f} ± {results['beta_error']:.3f}  "
            f"{results['bragg']:6.0%}  {'same' if results['again'] else 'DIFFERS':6} "
            f"{'yes' if all(each['right'].values()) else 'NO'}"
        )
        spent = ", ".join(f"{name} {s:.0f} s" for name, s in each["seconds"].items())
        lines.append(f"    {results['temperatures']} temperatures; {spent}")
    return "\n".join(lines)


def run(folder: Path, *, families: str = "otc", keep: bool = False) -> list[dict[str, Any]]:
    """Do it for some crystals, one after the other."""
    scores = []
    for n, family in enumerate(families):
        place = folder / f"{n + 1}{family}"
        scores.append(attempt(place, family))
        if not keep:
            shutil.rmtree(place)
    return scores


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="where all goes; new")
    parser.add_argument("--families", default="otc", help="a crystal for each letter")
    parser.add_argument("--keep", action="store_true", help="leave the files")
    parser.add_argument("--beamline", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--family", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.beamline is not None:
        beamline(chosen.beamline, chosen.family)
        return
    if chosen.folder is None:
        parser.error("a folder is needed")
    scores = run(chosen.folder, families=chosen.families, keep=chosen.keep)
    print(table(scores))
    sys.exit(0 if all(all(each["right"].values()) for each in scores) else 1)


if __name__ == "__main__":
    main()
