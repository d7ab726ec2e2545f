"""A command of the beamline's own is run for each run that is whole on disk."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from runs import MeasuredRun

from offbragg.files.digest import read_digest
from offbragg.followers.follow import follow
from offbragg.followers.on_stored import OnStored
from offbragg.followers.stacker import Stacker

SNIPPET = Path(__file__).parents[2] / "docs/snippets/ingest_scicat.py"
TAKE = "import json, sys\nopen(sys.argv[1], 'a').write(json.dumps(json.load(sys.stdin)) + '\\n')\n"


def finish(run: MeasuredRun, *frames: int) -> None:
    run.begin()
    run.write(*frames)
    run.announce(run.n_frames)
    run.end()


def hook_of(run: MeasuredRun, text: str, **options: Any) -> OnStored:
    script = run.root / "command.py"
    script.write_text(text)
    return OnStored(
        [sys.executable, str(script), str(run.root / "taken")],
        journal=run.journal_directory, experiment=run.experiment, beamline="13-ID-X",
        **{"waits": (0.05,), **options},
    )  # fmt: skip


def once(run: MeasuredRun, hook: OnStored) -> dict[str, list[str]]:
    stacker = Stacker(run.experiment, late=run.late)
    return follow(run.journal_directory, [stacker, hook], once=True)


def taken(run: MeasuredRun) -> list[dict[str, Any]]:
    path = run.root / "taken"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def short(tmp_path) -> MeasuredRun:
    return MeasuredRun(tmp_path, n_frames=2)


def test_the_command_gets_what_was_stored_once(short):
    finish(short, 0, 1)

    failed = once(short, hook_of(short, TAKE))

    (document,) = taken(short)
    scan = next(short.experiment.rglob("f*.h5"))
    digest = read_digest(scan)
    assert digest is not None
    assert failed == {"stack": [], "on_stored": []}
    assert document["run"] == short.uid
    assert document["scan_file"] == str(scan)
    assert (document["size"], int(document["crc64"], 16)) == (digest.size, digest.crc64)
    assert document["frames"] == {"pending": 0, "stored": 2, "missing": 0, "rejected": 0}
    assert Path(document["journal"]).is_file()
    assert hook_of(short, TAKE).done(short.start), "a new start does not run it again"


def test_a_frame_that_comes_later_is_another_event(short):
    finish(short, 0)
    once(short, hook_of(short, TAKE))

    short.write(1)
    once(short, hook_of(short, TAKE))

    assert [each["frames"]["stored"] for each in taken(short)] == [1, 2]


def test_a_failing_command_is_tried_again_and_not_for_ever(short, caplog):
    finish(short, 0, 1)
    failing = hook_of(short, TAKE + "sys.exit(3)\n", tries=2)

    failed = once(short, failing)

    assert len(taken(short)) == 2
    assert failed["stack"] == []
    assert "on_stored failed" in caplog.text
    assert "after 2 tries" in caplog.text
    assert failing.done(short.start)
    assert not hook_of(short, TAKE).done(short.start), "a new start runs it again"


def test_a_command_that_hangs_holds_up_no_stacking(short):
    finish(short, 0, 1)
    hook = hook_of(short, TAKE.replace("json.load", "__import__('time').sleep(60) or json.load"))
    hook.timeout = 0.5
    second = MeasuredRun(short.root, n_frames=2, scan_id=2, temperature=130.0)
    stop = threading.Event()
    stacker = Stacker(short.experiment, late=short.late)
    following = threading.Thread(
        target=follow, args=(short.journal_directory, [stacker, hook]), kwargs={"stop": stop}
    )

    following.start()
    try:
        finish(second, 0, 1)
        wait_until(lambda: stacker.done(short.start) and stacker.done(second.start), 10)
    finally:
        stop.set()
        began = time.monotonic()
        following.join(20)
    assert time.monotonic() - began < 3, "it does not wait for the command"
    wait_until(lambda: not any(each.name == "on_stored" for each in threading.enumerate()), 5)


def wait_until(is_true: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_runs_from_long_before_the_hook_are_left_out(tmp_path):
    old = MeasuredRun(tmp_path, n_frames=2, began=time.time() - 2 * 86400)
    hook = hook_of(old, TAKE)

    assert hook.done(old.start)
    assert not hook.done({**old.start, "time": time.time() - 3600})


def test_a_run_without_a_sweep_is_left_out(short):
    hook = hook_of(short, TAKE)

    assert hook.done({"uid": "x", "time": time.time()})


class SciCat(BaseHTTPRequestHandler):
    """Three routes of SciCat; it puts its prefix before each pid, and takes each once."""

    def do_POST(self) -> None:
        document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        taken: list[Any] = self.server.taken  # pyright: ignore[reportAttributeAccessIssue]
        pids = [each[2].get("pid") for each in taken]
        if "pid" in document and document["pid"] in pids:
            self._answer(409, {"message": "Dataset already exists"})
            return
        taken.append((self.path, self.headers["Authorization"], document))
        self._answer(201, {"pid": f"20.500/{document.get('pid', '')}"})

    def do_GET(self) -> None:
        pid = unquote(self.path.split("/")[-2])
        taken: list[Any] = self.server.taken  # pyright: ignore[reportAttributeAccessIssue]
        if pid not in [f"20.500/{each[2].get('pid')}" for each in taken]:
            self._answer(404, {})
            return
        self._answer(200, [each[2] for each in taken if each[2].get("datasetId") == pid])

    def _answer(self, code: int, content: object) -> None:
        answer = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def scicat() -> Iterator[Any]:
    server: Any = HTTPServer(("127.0.0.1", 0), SciCat)
    server.taken = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


BEAMLINE = """
beamline_id = "13-ID-X"
[paths]
experiment = "experiment"
frames = "frames"
journal = "journal"
catalog = "catalog"
log = "log"
[records]
owner = "Maxwell"
owner_group = "group"
contact_email = "somebody@example.org"
principal_investigator = "James Maxwell"
location = "/site/facility/13-ID-X"
"""


def test_the_example_of_the_how_to_puts_a_run_into_scicat(short, scicat, monkeypatch):
    finish(short, 0, 1)
    (short.root / "beamline.toml").write_text(BEAMLINE)
    (short.root / "token").write_text("secret\n")
    monkeypatch.setenv("OFFBRAGG_BEAMLINE", str(short.root / "beamline.toml"))
    monkeypatch.setenv("SCICAT_URL", f"http://127.0.0.1:{scicat.server_port}/api/v3")
    monkeypatch.setenv("SCICAT_TOKEN_FILE", str(short.root / "token"))
    hook = OnStored(
        [sys.executable, str(SNIPPET)],
        journal=short.journal_directory, experiment=short.experiment, beamline="13-ID-X", tries=1,
    )  # fmt: skip

    once(short, hook)

    (path, token, dataset), (block_path, _, block) = scicat.taken
    assert (path, block_path) == ("/api/v3/datasets", "/api/v3/origdatablocks")
    assert token == "Bearer secret"
    assert dataset["pid"] == short.uid
    assert block["datasetId"] == f"20.500/{short.uid}"
    (file,) = block["dataFileList"]
    assert Path(dataset["sourceFolder"], file["path"]).stat().st_size == file["size"]


def test_the_example_goes_on_where_an_earlier_one_was_killed(short, scicat, monkeypatch):
    finish(short, 0, 1)
    follow(short.journal_directory, [Stacker(short.experiment, late=short.late)], once=True)
    (short.root / "beamline.toml").write_text(BEAMLINE)
    (short.root / "token").write_text("secret\n")
    monkeypatch.setenv("OFFBRAGG_BEAMLINE", str(short.root / "beamline.toml"))
    monkeypatch.setenv("SCICAT_URL", f"http://127.0.0.1:{scicat.server_port}/api/v3")
    monkeypatch.setenv("SCICAT_TOKEN_FILE", str(short.root / "token"))
    monkeypatch.setenv("SCICAT_PREFIX", "20.500/")
    scicat.taken.append(("/api/v3/datasets", "", {"pid": short.uid}))  # and no files of it

    for _ in range(2):
        subprocess.run(
            [sys.executable, str(SNIPPET)], input=json.dumps({"run": short.uid}), text=True,
            check=True,
        )  # fmt: skip

    _, (path, _, block) = scicat.taken
    assert path == "/api/v3/origdatablocks"
    assert block["datasetId"] == f"20.500/{short.uid}"


def test_of_all_runs_that_wait_two_are_handed_over_at_a_time(tmp_path):
    counted = (
        "import os, sys, time\n"
        "mine = sys.argv[1] + '.' + os.environ['OFFBRAGG_RUN']\n"
        "open(mine, 'w').close()\n"
        "time.sleep(0.6)\n"
        "here = os.path.dirname(mine)\n"
        "alive = len([n for n in os.listdir(here) if n.startswith('taken.')])\n"
        "open(sys.argv[1], 'a').write(f'{alive}\\n')\n"
        "os.remove(mine)\n"
    )
    runs = [MeasuredRun(tmp_path, n_frames=1) for _ in range(6)]
    for run in runs:
        finish(run, 0)

    failed = once(runs[0], hook_of(runs[0], counted))

    alive = [int(line) for line in (tmp_path / "taken").read_text().split()]
    assert failed == {"stack": [], "on_stored": []}
    assert len(alive) == 6
    assert max(alive) == 2


def test_a_catalog_that_takes_nothing_keeps_no_command_waiting(short):
    class Away:
        name = "publish"

        def done(self, start: Mapping[str, Any]) -> bool:
            return False

        def open(self, start: Mapping[str, Any]) -> Any:
            raise ConnectionError("the catalog is away")

    finish(short, 0, 1)
    stacker = Stacker(short.experiment, late=short.late)
    slow = hook_of(short, "import time\ntime.sleep(3)\n" + TAKE)  # the catalog is given up first

    failed = follow(short.journal_directory, [stacker, Away(), slow], once=True)

    assert failed == {"stack": [], "publish": [short.uid], "on_stored": []}
    assert len(taken(short)) == 1
