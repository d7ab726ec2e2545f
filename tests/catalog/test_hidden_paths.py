"""No error says where files lie on the server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from catalog.served import PublishedRun, Server

from offbragg.catalog.hidden_paths import HiddenPaths


def test_paths_begin_at_the_roots():
    hiding = HiddenPaths(lambda *_: None, [Path("/d"), Path("/d/experiment"), Path("/")])  # type: ignore[arg-type, return-value]

    assert hiding.without_roots(
        b"/d/experiment/a/f1.h5 of file://localhost/d/x, /entry/d/data"
    ) == (b"a/f1.h5 of x, /entry/d/data")


def test_a_damaged_file_is_named_without_its_place(
    server: Server, make_run: Callable[..., PublishedRun], http: httpx.Client
):
    run = make_run()
    run.begin()
    run.create_scan_file()
    run.store(0, 1)
    run.announce(2)
    run.open()
    run.feed()
    assert run.scan is not None
    path = run.scan.path
    run.finish()
    path.write_bytes(b"not HDF5 any more")

    refused: list[Any] = [
        http.get(f"/runs/{run.uid}/frames/0"),
        http.get(f"/api/v1/array/full/raw/{run.uid}/primary/pilatus_image?slice=0"),
    ]

    for answer in refused:
        assert answer.status_code >= 400
        assert str(server.root) not in answer.text
        assert int(answer.headers["content-length"]) == len(answer.content)
