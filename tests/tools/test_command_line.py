"""The command line as people type it: numbers, version, key; and what ``status`` imports."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from runs import MeasuredRun
from typer.testing import CliRunner

from offbragg.catalog.authentication import right_of
from offbragg.catalog.named_keys import NamedKeys
from offbragg.cli import numbers as cli_numbers
from offbragg.cli.app import app

WRONG = [
    ("key", "--days", ("0", "-1", "3651", "nan", "inf", "x", "")),
    ("token Ada", "--days", ("0", "-1", "3651", "nan")),
    ("token Ada", "--scope", ("write", "")),
    ("stack", "--late", ("-1", "nan", "1e9")),
    ("init", "--timeout", ("0", "nan", "1e6")),
    ("reduce f1.h5", "--background-scale", ("0", "-2", "nan", "inf")),
    ("reduce f1.h5", "--polarization", ("1.1", "nan")),
    ("reduce f1.h5", "--oversample", ("0,1", "2,-1", "2", "1000,1", "1.5,2")),
    ("plot volume.h5", "--thickness", ("-0.1", "nan")),
    ("plot volume.h5", "--low", ("nan", "inf")),
    ("plot volume.h5 --low 3", "--high", ("2", "3")),
    ("series f1.h5", "--at", ("nan,0,0", "0,0", "0,0,0,0", "a,b,c")),
    ("series f1.h5 --at 0,0,1", "--reach", ("0", "-1", "nan")),
    ("series f1.h5 --at 0,0,1", "--step", ("0", "2", "nan")),
    ("pdf volume.h5", "--punch", ("-1", "nan")),
    ("pdf volume.h5", "--q-max", ("0", "nan")),
    ("index f1.h5", "--cell", ("4,4,4,90,90", "4,4,4,90,90,nan", "4,4,4,90,90,x")),
]


def words(text: str) -> str:
    """Return the text in a box, without the box."""
    return " ".join(text.replace("│", " ").split())


@pytest.mark.parametrize(("command", "option", "values"), WRONG)
def test_a_number_out_of_its_range_is_refused_in_words(command, option, values, tmp_path):
    for value in values:
        done = CliRunner().invoke(
            app, [*command.split(), f"{option}={value}"], env={"OFFBRAGG_BEAMLINE": str(tmp_path)}
        )

        assert done.exit_code == 2, (value, done.output, done.exception)
        assert option in words(done.output), value
        assert "Traceback" not in done.output


def test_a_range_says_itself():
    assert cli_numbers.Number(0, 3650, above=True, unit="days").range == (
        "above 0 and at most 3650 days"
    )
    assert cli_numbers.Number(0).range == "at least 0"
    assert cli_numbers.Number(high=1, unit="s").range == "at most 1 s"


def test_the_version_is_one_line():
    done = CliRunner().invoke(app, ["--version"])

    assert done.exit_code == 0
    assert done.output.startswith("offbragg ")
    assert done.output.count("\n") == 1


@pytest.fixture
def beamline(run: MeasuredRun):
    file = run.root / "beamline.toml"
    file.write_text(
        'beamline_id = "test"\n[catalog]\nport = 54321\n[paths]\n'
        + "".join(f'{n} = "{n}"\n' for n in ("experiment", "frames", "journal", "catalog", "log"))
    )
    (run.root / "catalog").mkdir(exist_ok=True)
    (run.root / "catalog" / "key").write_text("0123")
    return file


def test_a_key_comes_with_the_address_and_what_to_type(beamline):
    done = CliRunner().invoke(app, ["key", "--days", "0.5", "--beamline", str(beamline)])
    document = CliRunner().invoke(app, ["key", "--json", "--beamline", str(beamline)])

    key = done.stdout.strip()  # a script takes that alone
    assert right_of(key, "0123", now=time.time()) == "reading"
    assert right_of(key, "0123", now=time.time() + 86400) == "ended"
    assert "http://127.0.0.1:54321" in done.stderr
    assert "ssh -L 54321:127.0.0.1:54321" in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "connect(" in line]
    compile(line, "pasted", "exec")
    assert key in line
    assert json.loads(document.stdout)["address"] == "http://127.0.0.1:54321"


def test_a_named_key_is_shown_once_listed_and_revoked(beamline):
    def typed(*words: str) -> str:
        done = CliRunner().invoke(app, ["token", *words, "--beamline", str(beamline)])
        assert done.exit_code == 0, done.output
        return done.stdout.strip()

    named = NamedKeys(beamline.parent / "catalog", "0123")
    key = typed("Ada, at home", "--days", "2")
    staff = json.loads(typed("the queue", "--scope", "staff", "--json"))
    listed = typed()

    assert right_of(key, "0123", now=time.time(), named=named) == "reading"
    assert right_of(key, "0123", now=time.time() + 3 * 86400, named=named) == "ended"
    assert right_of(staff["key"], "0123", now=time.time(), named=named) == "everything"
    assert [line.split("  ")[:2] for line in listed.splitlines()] == [
        ["Ada, at home", "read"], ["the queue", "staff"],
    ]  # fmt: skip
    assert key not in listed
    assert len(json.loads(typed("--json"))["keys"]) == 2
    assert typed("Ada, at home", "--revoke") == "Ada, at home: revoked"
    assert right_of(key, "0123", now=time.time(), named=named) == "none"
    done = CliRunner().invoke(app, ["token", "--revoke", "--beamline", str(beamline)])
    assert done.exit_code == 2


def test_the_status_imports_nothing_that_takes_seconds():
    heavy = ("ophyd", "bluesky", "tiled", "dask", "event_model", "fabio", "rich", "matplotlib")
    code = (
        "import sys, offbragg.cli, offbragg.status; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )

    assert done.stdout.strip() == "[]"


def test_the_status_says_whether_the_host_and_the_instruments_can_be_relied_on(
    beamline, run: MeasuredRun, monkeypatch
):
    run.begin()
    (run.journal_directory / ".follow.json").write_text("{}")
    monkeypatch.setattr("os.getloadavg", lambda: (40.0, 1.0, 1.0))
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})

    done = CliRunner().invoke(app, ["status", "--beamline", str(beamline)])
    document = CliRunner().invoke(app, ["status", "--json", "--beamline", str(beamline)])

    assert "host      TOO BUSY: load 40.0 on 2 cores" in done.stdout
    assert "instruments were not checked (offbragg status --devices)" in done.stdout
    assert json.loads(document.stdout)["host"]["busy"] == "load 40.0 on 2 cores"
    assert json.loads(document.stdout)["instruments"] is False
