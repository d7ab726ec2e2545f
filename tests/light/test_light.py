"""The small installation: no control system, no server, and nothing that only POSIX has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from growing import Growing, measured

import offbragg
from offbragg.extras import describe_absent, extra_with

AT_HOME = Path(__file__).with_name("as_at_home.py")
SOURCE = Path(offbragg.__file__).parent
HEAVY = {
    "alarms", "beamline", "callbacks", "catalog", "demo", "devices", "doctor", "export",
    "followers", "host", "metadata", "nexpy", "now", "plans", "profile", "recovery", "shell",
    "status", "testing", "transfer",
    "__main__",
}  # fmt: skip
"""What the extras are for; of two of them a part is light."""

LIGHT = [
    "offbragg.catalog.client", "offbragg.recovery.verify",
    *sorted(
        ".".join(["offbragg", *parts]).removesuffix(".__init__")
        for path in SOURCE.rglob("*.py")
        if (parts := path.relative_to(SOURCE).with_suffix("").parts)[0] not in HEAVY
    ),
]  # fmt: skip


def at_home(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(AT_HOME), *arguments], capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    growing = Growing(tmp_path_factory.mktemp("light"), measured())
    growing.store(*range(growing.sweep.n_frames))
    return growing.end()


def test_every_light_module_is_imported():
    done = at_home("--import", *LIGHT)
    assert not done.returncode, done.stderr


def test_what_is_done_at_home(sweep, tmp_path):
    volume, picture = tmp_path / "volume.h5", tmp_path / "hk0.png"
    grid = "-2:2:0.2,-2:2:0.2,-2:2:0.2"
    for arguments in (
        ["verify", str(sweep)],
        ["reduce", str(sweep), "--grid", grid, "--out", str(volume)],
        ["why", str(volume), "1,0,0", "--json"],
        ["plot", str(volume), "hk0", "--out", str(picture)],
    ):
        done = at_home(*arguments)
        assert not done.returncode, f"{arguments[0]}: {done.stderr}"
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("verb", "extra"),
    [("key", "catalog"), ("demo", "beamline"), ("ioc", "beamline"), ("doctor", "catalog")],
)
def test_what_needs_more_says_what_to_install(verb, extra):
    done = at_home(verb)
    assert done.returncode == 3
    assert f"pip install 'offbragg[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_needs_another_system_says_so():
    absent = describe_absent(ModuleNotFoundError(name="fcntl"))
    assert absent.startswith("this runs on Linux and macOS only")


def test_which_extra():
    assert extra_with("bluesky_tiled_plugins.clients") == "tiled"
    assert extra_with("starlette.requests") == "catalog"
    assert extra_with("IPython") == "beamline"
    assert extra_with("zmq.auth") == "transfer"
    assert extra_with("distributed") == "dask"
    assert extra_with("no_such_thing") == ""
    assert describe_absent(ModuleNotFoundError(name="numpy")) == ""
