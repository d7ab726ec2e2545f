"""What the prompt makes of errors and of ``%mov %movr %ct %wa``, without a beamline."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import pytest
from bluesky.utils import FailedStatus, RunEngineInterrupted, TransitionError
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from ophyd.sim import SynAxis, SynGauss

from offbragg.errors import DeviceError, SweepError
from offbragg.plans import rotation_scan
from offbragg.shell.describe_errors import describe_error, show_errors
from offbragg.shell.magics import HostLook, PromptMagics, moves_of, where_all
from offbragg.sweep import Sweep


class Shutter:
    name = "shutter"
    connected = True

    def set(self, where):
        raise AssertionError("nothing moves here")


class Away(SynAxis):
    connected = False


@pytest.fixture
def names():
    phi, omega = (SynAxis(name=name, labels={"motors"}) for name in ("phi", "omega"))
    cooler = SynAxis(name="cooler", labels={"sample environment"})
    ring = SynGauss("ring", phi, "phi", center=0, Imax=1, labels={"detectors"})
    return {
        "phi": phi, "omega": omega, "ring": ring, "cooler": cooler, "shutter": Shutter(),
        "Sweep": Sweep,
        "away": Away(name="away", labels={"motors"}), "rotation_scan": rotation_scan, "three": 3,
    }  # fmt: skip


@pytest.fixture
def shell(names):
    shell = InteractiveShell()
    shell.user_ns.update(names)
    shell.register_magics(PromptMagics)
    yield shell
    shell.history_manager.end_session()


@pytest.mark.parametrize(
    ("line", "moves"),
    [
        ("phi 10", {"phi": 10}),
        ("phi 10 omega -5", {"phi": 10, "omega": -5}),
        ("phi 10, omega three", {"phi": 10, "omega": 3}),
        ("phi=10, omega = -5", {"phi": 10, "omega": -5}),
        ("phi 2*three", {"phi": 6}),
        ("shutter open", {"shutter": "open"}),
        ("shutter 'closed'", {"shutter": "closed"}),
    ],
)
def test_mov_takes_what_people_type(names, line, moves):
    found = moves_of("mov", line, names)

    assert {device.name: target for device, target in found} == moves


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("", "%mov takes pairs of a device and a number"),
        ("phi", "phi has no target"),
        ("phi 1 omega", "omega has no target"),
        ("phy 1", r"phy is not a device \(did you mean 'phi'\?\)"),
        ("1 phi", "1 is not a device"),
        ("phi omega", "phi moves to a number, and omega is not one"),
        ("phi nan", "phi moves to a number, and nan is not one"),
        ("phi open", "phi moves to a number, and open is not one"),
        ("phi True", "phi moves to a number, and True is not one"),
        ("ring 1", "ring cannot be moved: it is a SynGauss"),
        ("three 1", "three is not a device"),
        ("Sweep 1", "Sweep is not a device"),
        ("phi 1 phi 2", "phi is named twice"),
        ("phi.nothing 1", r"phi\.nothing is not a device"),
    ],
)
def test_mov_names_what_it_cannot_understand(names, line, text):
    with pytest.raises(UsageError, match=text):
        moves_of("mov", line, names)


def test_a_device_that_is_away_is_not_moved(names):
    with pytest.raises(DeviceError, match="away cannot be moved: not connected"):
        moves_of("mov", "away 3", names)


def test_movr_needs_a_position(names):
    with pytest.raises(UsageError, match="shutter has no position"):
        moves_of("movr", "shutter 1", names)


def test_where_is_everything_also_what_has_no_limits(names):
    names["phi"].limits = (-400, 400)

    rows = where_all([(name, names[name]) for name in ("phi", "omega", "ring", "away")])

    assert rows[1].split() == ["phi", "0", "-400", "400", "–", "mm"]
    assert rows[2].split() == ["omega", "0", "–", "–", "–", "mm"]
    assert rows[3:] == ["ring", "away: not connected"]
    assert "Error" not in "\n".join(rows)


def test_the_magics_run(shell, capsys):
    shell.run_line_magic("mov", "phi 3")
    shell.run_line_magic("movr", "phi 1")
    shell.run_line_magic("wa", "")
    shell.run_line_magic("wa", "phi")
    shell.run_line_magic("ct", "")
    shell.run_line_magic("ct", "ring")
    shell.run_line_magic("wa", "'sample environment', phi")

    assert shell.user_ns["phi"].position == 4
    text = capsys.readouterr().out
    assert "Error" not in text
    assert text.count("ring  ") == 2
    for magic in ("wa", "ct"):
        with pytest.raises(UsageError, match=r"motos is neither a label nor a device \(did you"):
            shell.run_line_magic(magic, "motos")


IDLE, PAUSED = SimpleNamespace(state="idle"), SimpleNamespace(state="paused")


def raised(text: str, names: dict) -> BaseException:
    """Return what a typed line raises."""
    try:
        exec(text, names)
    except Exception as error:
        error.__traceback__ = error.__traceback__.tb_next  # without this frame, as IPython shows it
        return error
    raise AssertionError(f"{text} is right")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("list(rotation_scan(phi, phi, sweeep=3))", r"'sweeep' \(did you mean 'sweep'\?\): it has "
         r"detector, .*\nIt is called as rotation_scan\(sweep\) or rotation_scan\(detector, axis,"),
        ("list(rotation_scan(phi, phi))", r"was given no sweep.*\nIt is called as rotation_scan\("),
        ("Sweep('phi', 0, 0.5, 30, 0.09)", r"sweep\.period is missing: give period, s, or speed"),
        ("Sweep('phi', 0, stepp=0.5)", r"'stepp' \(did you mean 'step'\?\)\nIt is called as Sweep\("
         r"axis, start, step=None"),
        ("Sweep('phi')", r"missing 1 .*'start'\nIt is called as Sweep\(axis, start, step=None"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named_with_the_nearest_right_one(names, line, text):
    error = raised(line, names)

    assert re.search(text, describe_error(error, error.__traceback__, IDLE, names))


@pytest.mark.parametrize("line", ["raise TypeError('mine')", "len(3)", "int('x')"])
def test_errors_of_others_keep_their_traceback(names, line):
    error = raised(line, names)

    assert describe_error(error, error.__traceback__, IDLE, names) is None


def test_a_pause_says_what_can_be_done():
    text = describe_error(RunEngineInterrupted("…"), None, PAUSED, {})
    assert "a plan is paused" in text
    for what in ("RE.resume()", "RE.abort(", "RE.stop()", "RE.halt()"):
        assert what in text

    busy = RuntimeError("The RunEngine is in a paused state")
    assert "RE.resume()" in describe_error(busy, None, PAUSED, {})
    assert "paused" not in describe_error(RunEngineInterrupted("…"), None, IDLE, {})
    assert "nothing to resume" in describe_error(TransitionError("…"), None, IDLE, {})


def test_a_status_that_failed_says_why():
    error = FailedStatus()
    error.__cause__ = DeviceError("phi was stopped")

    assert describe_error(error, None, IDLE, {}) == "DeviceError: phi was stopped"


def test_a_refusal_costs_no_formatting_of_its_traceback(shell, monkeypatch, capsys):
    show_errors(shell, IDLE)
    shell.user_ns["SweepError"] = SweepError
    formatted = []
    monkeypatch.setattr(
        type(shell.InteractiveTB), "structured_traceback",
        lambda *args, **options: formatted.append(args) or ["the traceback"],
    )  # fmt: skip

    result = shell.run_cell("raise SweepError('too fast')", store_history=True)

    assert isinstance(result.error_in_exec, SweepError)
    assert formatted == []
    assert capsys.readouterr().err == "SweepError: too fast\n"
    assert not hasattr(result.error_in_exec, "_render_traceback_")  # %tb has the whole one
    assert sys.last_value is result.error_in_exec
    shell.run_line_magic("tb", "")
    assert len(formatted) == 1


def test_a_host_that_is_too_busy_is_shown_at_the_prompt_and_not_all_the_time(
    tmp_path, monkeypatch, caplog
):
    now = [0.0]
    load = [40.0]
    monkeypatch.setattr("os.getloadavg", lambda: (load[0], 0.0, 0.0))
    host = HostLook(tmp_path, clock=lambda: now[0])

    assert host().startswith("load 40.0 on ")
    for _ in range(5):
        host.warn()
        now[0] += 60
    load[0] = 0.1
    host.warn()

    assert host() == ""
    (text,) = [record.getMessage() for record in caplog.records]
    assert text.startswith("this host is too busy: load 40.0 on ")
