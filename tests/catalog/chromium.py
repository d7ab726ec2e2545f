"""A headless Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from runs import wait_until
from websockets.sync.client import ClientConnection, connect

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
_OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu-sandbox", "--disable-dev-shm-usage",
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--hide-scrollbars", "--window-size=1000,800", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-port=0", "about:blank",
)  # fmt: skip


class Page:
    """The only tab."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._connection.recv(timeout=120))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    def evaluate(self, script: str) -> Any:
        """What a script returns, or what its promise becomes."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        return answer["result"].get("value")

    def pixels(self, keep: Path) -> Any:
        """A picture of the page, (rows, columns, 3); also kept as a PNG."""
        png = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        keep.write_bytes(png)
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@contextlib.contextmanager
def browser(directory: Path) -> Iterator[Page]:
    """Start Chromium with nothing remembered; it reaches 127.0.0.1 only."""
    assert PROGRAM is not None
    port = directory / "DevToolsActivePort"
    with (directory / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [PROGRAM, f"--user-data-dir={directory}", *_OPTIONS], stdout=log, stderr=log
        )
        try:
            wait_until(port.exists, 60.0, "Chromium to start")
            wait_until(lambda: "\n" in port.read_text(), 10.0, "Chromium's port")
            number = port.read_text().split("\n")[0]
            yield from _page(int(number))
        finally:
            process.terminate()
            process.wait(timeout=30)


def _page(port: int) -> Iterator[Page]:
    import httpx

    tabs = httpx.get(f"http://127.0.0.1:{port}/json/list").json()
    address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
    with connect(address, max_size=None) as connection:
        yield Page(connection)
