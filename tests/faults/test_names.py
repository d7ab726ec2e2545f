"""Names come from people and machines: nothing outside is touched, nothing acts on a terminal."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from pathlib import Path
from urllib.parse import quote

import pytest
from faults.conftest import stack_once
from faults.judge import judge, reasons, statuses
from faults.stacking import small_cbf
from hypothesis import given
from hypothesis import strategies as st

from offbragg.callbacks.journal import Journal
from offbragg.cli import main
from offbragg.errors import ConfigError, JournalError, MetadataError, RejectedFrame
from offbragg.export.artifacts import Directory
from offbragg.files.frame_files import FrameFiles
from offbragg.files.scan_folders import scan_directory
from offbragg.metadata import validate_start
from offbragg.printable import PrintableFormatter, printable
from offbragg.recovery.verify import verify
from offbragg.sample import check_component
from offbragg.status import describe

HOSTILE = [
    "../x", "..", ".", "/etc/passwd", "a/b", "a\0b", "%2e%2e/x", "%2e%2e", "a\nb", "a\rb",
    "\x1b[2Jx", "a\u202eb", "x" * 300, "", " ", "~root", "-rf", "a\\b", "CON:", "é", "\ud800",
    ".hidden", "a*b", "$(id)", "{0.__class__}", "\t",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_no_component(name):
    with pytest.raises(MetadataError) as refused:
        check_component(name, "sample.name")

    assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("field", ["name", "label"])
def test_no_field_of_a_sample_leads_out_of_the_experiment(waiting, field, name):
    start = waiting().start
    start["sample"][field] = name

    with pytest.raises(MetadataError):
        scan_directory(Path("/experiment"), start)
    with pytest.raises(MetadataError):
        validate_start(start)


@pytest.mark.parametrize("purpose", ["../data", "data/..", "\x1b[2J", "x" * 300])
def test_no_purpose_leads_out(waiting, purpose):
    with pytest.raises(MetadataError):
        scan_directory(Path("/experiment"), {**waiting().start, "purpose": purpose})


@pytest.mark.parametrize("setpoint", ["../x", float("nan"), float("inf"), 1e300, True])
def test_no_temperature_leads_out(waiting, setpoint):
    start = {**waiting().start, "temperature": {"setpoint": setpoint}}

    with pytest.raises(MetadataError):
        scan_directory(Path("/experiment"), start)


@pytest.mark.parametrize(
    "below",
    [
        "LSMO-140/c1",
        *(pytest.param(b, marks=pytest.mark.slow) for b in ("LSMO-140", "LSMO-140/c1/120K")),
    ],
)
def test_a_link_out_of_the_experiment_is_not_followed(waiting, tmp_path, below):
    run = waiting(n_frames=2).whole()
    (outside := tmp_path / "outside").mkdir()
    link = run.experiment / below
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)

    from offbragg.followers.follow import follow
    from offbragg.followers.stacker import Stacker

    failed = follow(run.journal_directory, [Stacker(run.experiment, late=0.0)], once=True)

    assert failed == {"stack": [run.uid]}
    assert list(outside.iterdir()) == []


def resource(run, **parameters) -> dict:
    uri = parameters.pop("uri", f"file://localhost{run.frames}/")
    return {"uri": uri, "parameters": {"template": "x_{:05d}.cbf", **parameters}}


@pytest.mark.parametrize(
    "template",
    [
        "../x_{:05d}.cbf", "a/x_{:05d}.cbf", "x\0_{:05d}.cbf", "x\n_{:05d}.cbf", "%2e%2e_{:05d}",
        "x_{0.__class__}.cbf", "x_{:99999999d}.cbf", "x_{}_{:05d}", "x" * 300 + "_{:05d}.cbf", "",
        "x.cbf", "{:05d}{:05d}", "\x1b[2J_{:05d}.cbf", ".{:05d}.cbf", "x_{!r:05d}.cbf",
    ],
)  # fmt: skip
def test_no_template_leads_out_of_the_frames(waiting, template):
    run = waiting()

    with pytest.raises(RejectedFrame) as refused:
        FrameFiles(resource(run, template=template), run.frames.parent)

    assert str(refused.value).partition("\n")[0].isprintable()


@pytest.mark.parametrize(
    "place", ["/etc", "/", "..", "%2e%2e", "a/../../..", "a%00b", "a%0Ab", "%1b[2J", "x" * 300, "~"]
)
def test_no_uri_leads_out_of_the_frames(waiting, place):
    run = waiting()
    root = run.frames.parent
    uri = f"file://localhost{place if place.startswith('/') else f'{root}/{place}'}/"

    with pytest.raises(RejectedFrame):
        FrameFiles(resource(run, uri=uri), root)


def test_frames_where_they_should_be_are_found(waiting):
    run = waiting()
    (run.frames.parent / "a").symlink_to(run.frames)

    for uri in (f"file://localhost{run.frames}/", f"file://localhost{run.frames.parent}/a/",
                f"file://localhost{quote(str(run.frames.parent.resolve()))}/a"):  # fmt: skip
        found = FrameFiles(resource(run, uri=uri), run.frames.parent)
        assert found.path(3).resolve() == run.path(3)


def test_what_lies_outside_is_listed_and_not_read(waiting, tmp_path):
    run = waiting(n_frames=3)
    outside = tmp_path / "outside"
    outside.mkdir()
    for number in range(3):
        (outside / f"x_{number:05d}.cbf").write_bytes(small_cbf(number))
    shutil_frames, run.frames = run.frames, outside
    run.begin()
    run.announce(3)
    run.end()
    run.frames = shutil_frames

    path = stack_once(run)

    assert statuses(path) == ["rejected"] * 3
    assert all("are not below" in reason for reason in reasons(path))


def test_a_frame_that_is_a_link_out_is_listed_and_not_read(waiting, tmp_path):
    run = waiting(n_frames=4).begin()
    (tmp_path / "secret.cbf").write_bytes(small_cbf(1))
    run.write(0, 3)
    run.path(1).symlink_to(tmp_path / "secret.cbf")
    (run.frames / "real.cbf").write_bytes(small_cbf(2))
    run.path(2).symlink_to(run.frames / "real.cbf")
    run.announce(4)
    run.end()

    path = stack_once(run)

    assert statuses(path) == ["stored", "rejected", "stored", "stored"]
    assert "leads out" in reasons(path)[1]
    assert not path.with_name("f1.rejected").exists()  # else a copy would be, from another disk
    assert judge(path, {n: run.path(n) for n in (0, 2, 3)}, over=True) == []


@pytest.mark.parametrize("uid", ["../x", "/tmp/x", "a/b", "a\0", "x" * 300, "\x1b[2J", ""])
def test_no_uid_leads_out_of_the_journals(tmp_path, uid):
    journal = Journal(tmp_path / "journal")

    with pytest.raises((JournalError, MetadataError)):
        journal("start", {"uid": uid, "time": 0.0})

    assert list(tmp_path.iterdir()) == [tmp_path / "journal"]
    assert list((tmp_path / "journal").iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/../../x", "a\0", "x\n", "\x1b[2J", "x" * 300, "out/x", "."]
)
def test_no_prefix_leads_out_of_an_export(tmp_path, name):
    (root := tmp_path / "export").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (root / "out").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ConfigError) as refused:
        Directory(root).reserve_name("stream_data", name)

    assert "\x1b" not in str(refused.value)
    assert "\0" not in str(refused.value)


# ---- terminals and logs ------------------------------------------------------------------


@given(st.text())
def test_what_is_printable_says_everything_and_does_nothing(text):
    shown = printable(text)

    assert shown.isprintable()
    assert "\n" not in shown
    if "\\" not in text and text.isprintable():
        assert shown == text


@given(st.text(), st.text())
def test_a_log_record_is_one_line_whatever_its_arguments_hold(name, value):
    record = logging.LogRecord("x", logging.INFO, "", 0, "sample %s has %r", (name, value), None)

    line = PrintableFormatter("%(levelname)s %(message)s").format(record)

    assert "\n" not in line
    assert "\x1b" not in line
    assert line.startswith("INFO sample ")


def test_an_error_in_a_log_keeps_its_lines_and_shows_its_escapes():
    error = RejectedFrame("frame \x1b[2J is bad\nmend it")
    record = logging.LogRecord("x", logging.INFO, "", 0, "run: %s", (error,), None)

    assert PrintableFormatter().format(record) == "run: frame \\x1b[2J is bad\nmend it"


@pytest.mark.parametrize(
    "hostile",
    ["\x1b[2J", "\u202e"]
    + [pytest.param(h, marks=pytest.mark.slow) for h in ("\x1b]0;owned\x07", "\x9b31m", "\r")],
)
def test_nothing_of_a_header_a_reason_or_a_run_reaches_the_terminal(
    waiting, capsys, hostile, monkeypatch
):
    run = waiting(n_frames=2).begin()
    raw = hostile.encode("utf-8")
    run.path(0).write_bytes(raw + small_cbf(0))
    run.write(1, damage=lambda c: c.replace(b"BYTE_OFFSET", b"BYTE" + raw))
    run.announce(2)
    run.journal(
        "stop",
        {"uid": "s", "run_start": run.uid, "time": run.began + 1, "exit_status": "fail",
         "reason": f"it said {hostile}", "num_events": {}},
    )  # fmt: skip
    path = stack_once(run)
    monkeypatch.setattr("sys.argv", ["offbragg", "verify", str(path)])
    with pytest.raises(SystemExit):
        main()
    monkeypatch.setattr("sys.argv", ["offbragg", "stack", "--beamline", f"/no/{hostile}.toml"])
    with pytest.raises(SystemExit):
        main()
    state = {"stacker": False, "catalog": {"up": False, "reason": hostile}, "running": [],
             "backlog": {"runs": 0, "frames": 0}, "last": None,
             "alarms": [{"severity": "major", "what": "x", "reason": hostile}]}  # fmt: skip

    shown = capsys.readouterr()

    for text in (shown.out, shown.err, describe(state)):
        assert hostile not in text
        assert all(c.isprintable() or c == "\n" for c in text)
    assert verify(path).listed


def test_json_for_machines_holds_no_escape_either(waiting, capsys, monkeypatch):
    run = waiting(n_frames=1).begin()
    run.write(0, damage=lambda c: b"\x1b[2J" + c)
    run.announce(1)
    run.end()
    path = stack_once(run)
    monkeypatch.setattr("sys.argv", ["offbragg", "verify", str(path), "--json"])
    with contextlib.suppress(SystemExit):
        main()

    shown = capsys.readouterr().out

    assert "\x1b" not in shown
    assert json.loads(shown)["files"][0]["listed"]


def test_a_scan_file_that_names_another_journal_reads_none(waiting, tmp_path):
    run = waiting(n_frames=1).whole()
    path = stack_once(run)
    import h5py

    with h5py.File(path, "r+") as file:
        start = json.loads(bytes(file["/entry/run/start"][()]))
        start["uid"] = "../secret"
        text = json.dumps(start).encode()
        del file["/entry/run/start"]
        file["/entry/run/start"] = text
    (run.root / "secret.jsonl").write_text('["start", {"secret": 1}]\n')

    verdict = verify(path, journal=run.journal_directory)

    assert any("uid is '../secret'" in problem for problem in verdict.problems)
    assert not any("secret, " in problem for problem in verdict.problems)
    assert os.path.lexists(run.root / "secret.jsonl")
