"""Show a volume in a browser: ``/view/KEY`` leads to neuroglancer, which the catalog serves, too.

Neuroglancer sends a cookie only to the origin from which it came. So the catalog serves the client
that the Python package ``neuroglancer`` contains, if that is installed. The cookie is that of the
page; `offbragg.catalog.page` makes it of a key in the address, too. This client lies below
``v/TOKEN/``, and waits for what a Python program might send it from ``events/TOKEN``: here that is
nothing. The token is the volume's key.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.staticfiles import StaticFiles
from tiled.utils import BrokenLink, ensure_awaitable

from offbragg.catalog.authentication import App, Receive, Scope, Send, refuse
from offbragg.catalog.containers import VOLUMES
from offbragg.catalog.sent import Refusal, begin, lookup
from offbragg.errors import CatalogError
from offbragg.grid import NAMES, Grid

PATH = "/view/"
_CLIENT = re.compile(r"/view/v/[^/]+(?=/)")
_EVENTS = re.compile(r"/view/events/[^/]+")
_PIXELS = 400  # of a panel, which the longest axis fills
_SHADER = """#uicontrol float low slider(min=-4, max=8, step=0.1, default={low:.1f})
#uicontrol float high slider(min=-4, max=8, step=0.1, default={high:.1f})
void main() {{
  float value = toRaw(getDataValue());
  float place = (log(value) / log(10.0) - low) / (high - low);
  emitRGB(value > 0.0 ? colormapJet(clamp(place, 0.0, 1.0)) : vec3(0.1, 0.1, 0.1));
}}
"""
"""Colours of the logarithm to base 10; what is not above 0, or not measured, is dark grey."""


def client_directory() -> Path | None:
    """Return where the package ``neuroglancer`` has its client; None: it is not installed."""
    found = importlib.util.find_spec("neuroglancer")
    for place in (found.submodule_search_locations or ()) if found else ():
        if (directory := Path(place, "static", "client")).is_dir():
            return directory
    return None


def view_state(key: str, grid: Grid, *, address: str, low: float, high: float) -> dict[str, Any]:
    """Return the state of neuroglancer that shows a volume from its middle, h to the right, k up.

    Parameters
    ----------
    key
        Of the volume's node.
    grid
        Its cells.
    address
        Of the catalog, as the browser sees it.
    low, high
        Ends of the colours, as logarithms to base 10.
    """
    # cells are counted from the origin there, and their centres are whole numbers, as for NGFF
    middle = [first + (n - 1) / 2 for first, n in zip(grid.first, grid.shape, strict=True)]
    source = f"{address}/zarr/v3/{VOLUMES}/{quote(key)}/|zarr3:"
    return {
        "dimensions": {name: [step, ""] for name, step in zip(NAMES, grid.step, strict=True)},
        "position": middle,
        "crossSectionOrientation": [1, 0, 0, 0],
        "crossSectionScale": max(grid.shape) / _PIXELS,
        "layers": [{
            "type": "image", "name": key, "source": source,
            "shader": _SHADER.format(low=low, high=high),
        }],
        "selectedLayer": {"layer": key, "visible": True},
        "layout": "4panel",
    }  # fmt: skip


class Viewer:
    """Answers requests for views, and passes on all others.

    Parameters
    ----------
    app
        The app that answers all other requests.
    tree
        The root of Tiled's catalog, to look up volumes.
    """

    def __init__(self, app: App, tree: Any) -> None:
        self._app = app
        self._tree = tree
        directory = client_directory()
        self._client = None if directory is None else StaticFiles(directory=directory, html=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or not scope.get("path", "").startswith(PATH):
            await self._app(scope, receive, send)
            return
        try:
            if self._client is None:
                raise Refusal(
                    404,
                    "Neuroglancer is not installed where the catalog is served: "
                    "pip install neuroglancer, then restart offbragg serve.",
                )
            if found := _CLIENT.match(scope["path"]):
                inner: Any = {**scope, "root_path": scope.get("root_path", "") + found[0]}
                await self._client(inner, receive, send)
            elif _EVENTS.fullmatch(scope["path"]):
                await _send_nothing(receive, send)
            else:
                await (await self._lead(Request(scope)))(scope, receive, send)
        except Refusal as refusal:
            await refuse(send, refusal.status, str(refusal), refusal.headers)
        except HTTPException as error:
            await refuse(send, error.status_code, str(error.detail), dict(error.headers or {}))
        except BrokenLink as error:
            await refuse(send, 410, str(error))
        except CatalogError as error:
            await refuse(send, 403, str(error))

    async def _lead(self, request: Request) -> RedirectResponse:
        """Return the way to the client, with the state behind ``#``."""
        key = request.url.path.removeprefix(PATH)
        node = await lookup(self._tree, [VOLUMES, key]) if key and "/" not in key else None
        metadata: Any = {} if node is None else node.metadata()
        if not isinstance(grid := metadata.get("grid"), Mapping):
            raise Refusal(404, f"The address is {PATH}KEY with the key of a volume.")
        low, high = await self._range([VOLUMES, key], max(metadata.get("levels") or [1]))
        address = f"{request.url.scheme}://{request.url.netloc}"
        state = view_state(key, Grid.from_dict(grid), address=address, low=low, high=high)
        return RedirectResponse(f"{PATH}v/{quote(key)}/#!{quote(json.dumps(state))}", 302)

    async def _range(self, where: list[str], level: int) -> tuple[float, float]:
        """Return between which powers of 10 nearly all cells of the coarsest level lie."""
        inside = ["intensity"] if level == 1 else ["levels", str(level)]
        array = await lookup(self._tree, [*where, *inside])
        cells = np.asarray(await ensure_awaitable(array.read))
        above = cells[cells > 0]
        if not above.size:
            return 0.0, 1.0
        low, high = (math.log10(each) for each in np.percentile(above, (5, 99.9)))
        return low, max(high, low + 0.1)


async def _send_nothing(receive: Receive, send: Send) -> None:
    """Begin a stream of events, and wait until the client leaves."""
    await begin(send, 200, {"content-type": "text/event-stream", "cache-control": "no-store"})
    await send({"type": "http.response.body", "body": b"", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass
    await send({"type": "http.response.body", "body": b""})
