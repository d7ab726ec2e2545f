"""A fresh install lets nobody in, and tells its key to nobody."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from runs import wait_until

from offbragg.beamline import Catalog, load, profile_directory
from offbragg.errors import CatalogError


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Iterator[tuple[Path, subprocess.Popen[bytes], str]]:
    """``offbragg serve`` as somebody types it first, with nothing but paths configured."""
    root = tmp_path_factory.mktemp("fresh")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (root / "beamline.toml").write_text(
        'beamline_id = "fresh"\n[paths]\nexperiment = "experiment"\nframes = "frames"\n'
        'journal = "journal"\ncatalog = "catalog"\nlog = "log"\n'
        f"[catalog]\nport = {port}\n"
    )
    with (root / "said").open("wb") as said:
        serving = subprocess.Popen(
            [sys.executable, "-m", "offbragg", "serve", "--beamline", str(root / "beamline.toml"),
             "--ready", str(root / "ready")],
            stdout=said, stderr=said, umask=0o000,
        )  # fmt: skip
    wait_until(lambda: (root / "ready").exists() or serving.poll() is not None, 90, "the catalog")
    assert serving.poll() is None, (root / "said").read_text()
    yield root, serving, f"http://127.0.0.1:{port}"
    serving.terminate()
    serving.wait(30)


def listening(pid: int) -> set[str]:
    """Addresses, as the kernel writes them, at which a process listens."""
    inodes = set()
    for name in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(str(name.readlink()))
        except FileNotFoundError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in inodes:
                found.add(words[1].partition(":")[0])
    return found


def test_the_default_is_loopback():
    assert Catalog().host == "127.0.0.1"
    assert load(profile_directory() / "beamline.toml").catalog.host == "127.0.0.1"


def test_a_fresh_catalog_listens_on_the_loopback_interface_only(fresh):
    assert listening(fresh[1].pid) == {"0100007F"}


@pytest.mark.parametrize("path", ["metadata/", "metadata/raw", "search/raw", "array/full/raw/x"])
def test_a_fresh_catalog_wants_a_key(fresh, path):
    _, _, url = fresh

    assert httpx.get(f"{url}/api/v1/{path}").status_code == 401
    assert httpx.get(f"{url}/api/v1/{path}?api_key=wrong").status_code == 401


def test_whatever_the_umask_key_and_databases_are_their_owners(fresh):
    catalog = fresh[0] / "catalog"

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in catalog.iterdir()}

    assert modes["key"] == 0o600
    assert stat.S_IMODE(catalog.stat().st_mode) & 0o077 == 0, "nobody else looks in"


def test_the_key_is_in_no_log_no_process_list_and_no_message(fresh):
    root, serving, url = fresh
    key = (root / "catalog" / "key").read_text().strip()
    assert httpx.get(f"{url}/api/v1/metadata/raw?api_key={key}").status_code == 200
    httpx.get(f"{url}/api/v1/no/such/{key}?api_key={key}")
    (root / "journal").mkdir(exist_ok=True)
    told = subprocess.run(
        [sys.executable, "-m", "offbragg", "status", "--no-devices",
         "--beamline", str(root / "beamline.toml")],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip

    assert "catalog   0 runs" in told.stdout
    for text in (told.stdout, told.stderr, (root / "said").read_text(),
                 (root / "ready").read_text()):  # fmt: skip
        assert key not in text
    for pid in (serving.pid, os.getpid()):
        assert key not in Path(f"/proc/{pid}/cmdline").read_text()
    assert key not in Path(f"/proc/{serving.pid}/environ").read_text()


def test_an_error_of_a_client_does_not_hold_the_key(fresh):
    root, _, url = fresh
    config = load(root / "beamline.toml")
    key = config.key_file.read_text().strip()
    runs = config.connect_catalog()

    with pytest.raises((CatalogError, KeyError, httpx.HTTPError)) as failed:
        runs["no such run"]

    assert key not in repr(failed.value)
    assert key not in str(failed.value)
    assert key not in repr(runs)
    assert key not in repr(config)
    runs.context.http_client.close()
    assert url in config.catalog_url
