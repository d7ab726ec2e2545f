"""``offbragg up`` as it is typed: children are killed, it is ended, it is killed itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runs import MeasuredRun, wait_until
from typer.testing import CliRunner

from offbragg.cli.app import app
from offbragg.recovery.verify import verify


@pytest.fixture
def beamline(run: MeasuredRun) -> Path:
    file = run.root / "beamline.toml"
    file.write_text(
        'beamline_id = "test"\n[catalog]\nport = 1\n[paths]\n'
        + "".join(f'{n} = "{n}"\n' for n in ("experiment", "frames", "journal", "catalog", "log"))
    )
    return file


def start(beamline: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "offbragg", "up", "--only", "stack", "--json", *options,
         "--beamline", str(beamline)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
    )  # fmt: skip


def next_state(up: subprocess.Popen[str], status: str) -> dict:
    assert up.stdout is not None
    for line in up.stdout:
        state = json.loads(line)
        if state["status"] == status:
            return state
    raise AssertionError(f"it ended without {status!r}")


def test_a_killed_stacker_comes_back_and_nothing_is_lost(run, beamline):
    up = start(beamline)
    try:
        first = next_state(up, "running")
        run.begin()
        run.write(*range(5))
        run.announce(5)
        wait_until(lambda: list((run.root / "experiment").rglob("*.h5")), 60, "a scan file")
        os.kill(first["pid"], signal.SIGKILL)
        run.write(*range(5, 10))
        run.announce(10)
        run.monitor_counted(list(range(10)))
        run.end()

        crashed = next_state(up, "waiting")
        again = next_state(up, "running")

        assert (crashed["reason"], crashed["wait"]) == ("killed by SIGKILL", 1.0)
        assert again["pid"] != first["pid"]
        assert again["restarts"] == 1
        experiment = run.root / "experiment"
        (digest,) = wait_until(
            lambda: list(experiment.rglob("f*.h5.digest")), 60, "the scan file is finished"
        )
        verdict = verify(digest.with_suffix(""), journal=run.root / "journal")
        assert verdict.ok, verdict.problems
        assert verdict.frames["stored"] == 10
        up.send_signal(signal.SIGINT)
        rest, logs = up.communicate(timeout=60)
    finally:
        up.kill()
    assert up.returncode == 0, logs
    assert json.loads(rest.splitlines()[-1])["status"] == "ended"
    assert not Path(f"/proc/{again['pid']}").exists()
    assert "Traceback" not in logs


def test_no_child_is_left_when_it_is_killed_itself(beamline):
    up = start(beamline)
    pid = next_state(up, "running")["pid"]  # it is still importing: the worst moment

    up.kill()
    up.communicate()

    wait_until(lambda: not is_alive(pid), 60, "the stacker has ended")


def is_alive(pid: int) -> bool:
    try:  # whoever adopts it may be slow to look after it
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--only", "stak"], 2, "'stak' is not a service (did you mean 'stack'?)"),
        (["--beamline", "no.toml"], 3, "no.toml"),
    ],
)
def test_what_is_wrong_is_named_before_anything_starts(options, code, words):
    done = CliRunner().invoke(app, ["up", *options])

    assert code == (done.exit_code if done.exit_code == 2 else done.exception.exit_code)
    shown = " ".join(done.output.replace("│", " ").split())  # without its box
    assert words in shown + str(done.exception)
