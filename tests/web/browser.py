"""A tab of Chromium whose console and requests are watched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from web.beamline import ShownBeamline

AXE = Path(__file__).parents[2] / "reports" / "node_modules" / "axe-core" / "axe.min.js"
"""Where `.ci/run` puts it; git ignores this folder."""

SERIOUS = ("serious", "critical")
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip


def chromium(playwright: Any, program: str) -> Any:
    return playwright.chromium.launch(executable_path=program, args=list(_OPTIONS))


@dataclass
class Watched:
    """A page, what its console has shown, and where its requests went."""

    page: Any
    origin: str
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    @classmethod
    def open(
        cls,
        browser: Any,
        beamline: ShownBeamline,
        *,
        key: bool = True,
        size: Sequence[int] = (1280, 800),
        dark: bool = False,
        **more: Any,
    ) -> Watched:
        context = browser.new_context(
            base_url=beamline.url,
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if dark else "light",
            timezone_id="UTC",
            locale="en-GB",
            **more,
        )
        if key:
            context.add_cookies([{
                "name": "tiled_api_key", "value": beamline.reading_key, "url": beamline.url,
                "httpOnly": True, "sameSite": "Strict",
            }])  # fmt: skip
        page = context.new_page()
        page.set_default_timeout(15_000)
        watched = cls(page, beamline.url)
        page.watched = watched
        page.on("console", watched._console)
        page.on("pageerror", lambda error: watched.errors.append(f"{error}"))
        page.on("request", lambda request: watched._request(request.url))
        page.on("websocket", lambda socket: watched._request(socket.url))
        return watched

    def expect(self, *texts: str) -> None:
        """Let the console have errors with these texts, such as ``401``."""
        self.expected += texts

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.text} {message.location.get('url', '')}")

    def _request(self, url: str) -> None:
        where = urlsplit(url)
        if where.scheme not in ("data", "blob") and where.netloc != urlsplit(self.origin).netloc:
            self.outside.append(url)

    def close(self) -> None:
        self.page.context.close()

    def check(self) -> None:
        errors = [e for e in self.errors if not any(text in e for text in self.expected)]
        assert not errors, errors
        assert not self.outside, self.outside


def violations(page: Any) -> list[str]:
    """Return what axe-core finds of serious or critical impact; skip where it is not installed."""
    if not AXE.exists():
        pytest.skip(f"axe-core is not at {AXE}: npm install --prefix reports axe-core")
    # a script that is evaluated over the DevTools is not one of the page: its policy stays
    page.evaluate(AXE.read_text())
    found = page.evaluate("async () => (await axe.run()).violations")
    return [
        f"{each['id']}: {each['help']}: "
        + "; ".join(str(node["target"][0]) for node in each["nodes"][:4])
        for each in found
        if each["impact"] in SERIOUS
    ]
