"""How a command ends: in words where a user can mend it, and never inside HDF5."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from measured import Measured
from ophyd.signal import ReadTimeoutError

from offbragg.errors import OrientationError, ReductionError, ScanFileError
from offbragg.files.hdf5 import LIBVER
from offbragg.files.orientation import read_orientation
from offbragg.files.scan_file import ScanFile
from offbragg.files.volume_file import VolumeFile, read_volume
from offbragg.files.volume_writer import write_volume
from offbragg.grid import Grid
from offbragg.volume import Volume


def end(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line with what `code` does before."""
    start = "import os, sys, threading, time\nfrom offbragg import cli\n"
    return subprocess.run(
        [sys.executable, "-c", f"{start}{code}\ncli.main()", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    sweep = Measured(n_frames=3, step=2.0)
    return sweep.write(tmp_path_factory.mktemp("ends") / "KMnF3" / "c1" / "100K")


IN_HDF5 = """
import h5py, hdf5plugin
def read():
    while True:
        with h5py.File(sys.argv[1], "r", locking=False) as file:
            for number in range(3):
                file["entry/data/data"][number]
def app():
    for _ in range(3):
        threading.Thread(target=read, daemon=True).start()
    time.sleep(0.3)
    print("handled")
    raise SystemExit(3)
cli.app = app
"""


def test_a_command_ends_while_threads_are_in_hdf5(path):
    """As one that was ended by SIGTERM: HDF5 was closed under them, which crashed or hung."""
    done = end(IN_HDF5, path)

    assert (done.returncode, done.stdout, done.stderr) == (3, "handled\n", "")


def test_an_interrupt_while_a_command_begins_is_no_traceback():
    done = end("def app(): raise KeyboardInterrupt\ncli.app = app")

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


LEAVING = """
import logging
def app():
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
def interrupted():
    logging.shutdown = lambda: None
    raise KeyboardInterrupt
logging.shutdown = interrupted
cli.app = app
"""


def test_an_interrupt_while_the_command_line_is_imported_is_no_traceback(tmp_path):
    (tmp_path / "typer.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(30)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "offbragg", "status"], env={**os.environ, "PYTHONPATH": tmp_path},
        capture_output=True, text=True, check=False, timeout=120,
        # what a shell starts in the background ignores it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip

    assert done.returncode == -signal.SIGINT  # which a shell reports as 130
    assert done.stderr == ""


def test_a_second_interrupt_while_a_command_ends_is_no_traceback():
    done = end(LEAVING)

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_interrupted_command_ends_at_once():
    """It does not free its modules first: on a busy host that takes seconds."""
    done = end(
        "import atexit\natexit.register(print, 'freed')\n"
        "def app(): raise SystemExit(130)\ncli.app = app"
    )

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


AS_OTHER_USER = "os.setegid(65534); os.seteuid(65534)"
VERBS = ("reduce", "index")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_users_files_are_reported_in_a_line(path, tmp_path):
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o700)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    (tmp_path / "f1.h5").write_bytes(path.read_bytes())
    (tmp_path / "f1.h5").chmod(0o600)
    each = [[*verb.split(), str(f)] for verb in VERBS for f in (tmp_path / "f1.h5", shut / "f1.h5")]

    done = end(
        f"""
import contextlib
for verb in {VERBS!r}:  # another user may not be able to read what it imports
    with contextlib.suppress(SystemExit):
        sys.argv = ["offbragg", *verb.split(), "no.h5"]
        cli.main()
{AS_OTHER_USER}
for typed in {each!r}:
    if not os.fork():
        sys.argv = ["offbragg", *typed]
        os.dup2(1, 2)
        cli.main()
    os.wait()
sys.argv = ["offbragg", "--help"]
"""
    )

    assert "Traceback" not in done.stdout, done.stdout
    assert done.stdout.count("ermission denied") >= len(each), done.stdout


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        ("class E(TimeoutError): pass\ne = E('Failed to read X:m1.RBV')",
         "no answer in time: Failed to read X:m1.RBV"),
        ("e = OSError(28, 'No space left on device', '/data/x')",
         "/data/x: No space left on device"),
        ("e = MemoryError('Unable to allocate 7 TiB')", "not enough memory: Unable to allocate 7"),
        ("""e = RuntimeError("can't start new thread")""",
         "not enough memory: can't start new thread"),
    ],
)  # fmt: skip
def test_what_the_system_says_is_one_message(raised, message):
    done = end(f"{raised}\ndef app(): raise e\ncli.app = app")

    assert issubclass(ReadTimeoutError, TimeoutError)  # what ophyd raises
    assert done.returncode not in (0, -11)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


DEEP = "[" * 100_000 + "]" * 100_000


def test_deep_json_is_an_error_of_its_file(tmp_path, path):
    (tmp_path / "orientation.json").write_text(DEEP)
    with pytest.raises(OrientationError, match="cannot be read as an orientation"):
        read_orientation(tmp_path / "orientation.json")

    grid = Grid((0, 0, 0), (2, 2, 2), (10, 10, 10))
    volume = write_volume(tmp_path / "v.h5", Volume(np.ones((2,) * 3), np.ones((2,) * 3), grid), {})
    scan = tmp_path / "f1.h5"
    scan.write_bytes(path.read_bytes())
    for file, name in ((volume, "entry/process/record"), (scan, "entry/run/start")):
        with h5py.File(file, "r+", libver=LIBVER) as opened:
            del opened[name]
            opened[name] = np.bytes_(DEEP)
    with pytest.raises(ReductionError, match="is not a volume file"):
        VolumeFile(volume)
    with pytest.raises(ScanFileError, match="is not a scan file"):
        ScanFile.open(scan)


def test_a_flipped_bit_of_a_volume_is_noticed(tmp_path):
    rng = np.random.default_rng(3)
    grid = Grid((0, 0, 0), (40, 40, 40), (10, 10, 10))
    path = write_volume(
        tmp_path / "v.h5", Volume(rng.random(grid.shape), rng.random(grid.shape), grid), {}
    )
    with h5py.File(path) as file:
        info = file["entry/volume/counts"].id.get_chunk_info(0)
    raw = bytearray(path.read_bytes())
    raw[info.byte_offset + info.size // 2] ^= 1
    path.write_bytes(raw)

    with pytest.raises(ReductionError, match=r"v\.h5 is damaged: /entry/volume/counts"):
        read_volume(path)


def test_what_cannot_be_inspected_is_an_error_of_its_own(path, monkeypatch):
    """Not by an AttributeError of the one who tells it."""
    from offbragg.files import stored_sweep

    def fails(data):
        raise OSError("the disk is gone")

    with ScanFile.open(path) as scan:
        monkeypatch.setattr(stored_sweep, "count_chunks", fails)
        with pytest.raises(ScanFileError, match=r"f1\.h5 cannot be read: the disk is gone"):
            _ = scan.stack
