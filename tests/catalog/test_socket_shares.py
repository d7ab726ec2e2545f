"""One key does not take all websockets."""

from __future__ import annotations

import asyncio
from typing import Any

from offbragg.catalog.socket_shares import SHARE, SocketShares


def test_a_key_has_its_share_and_others_have_theirs():
    ended = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await ended.wait()

    shares = SocketShares(app)
    closed: dict[str, int] = {}
    opened: dict[str, int] = {}

    def connect(key: str, **more: Any) -> asyncio.Task[None]:
        async def send(message: Any) -> None:
            counted = opened if message["type"] == "websocket.accept" else closed
            counted[key] = counted.get(key, 0) + 1

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        scope = {"type": "websocket", "path": "/now/socket", "query_string": b"",
                 "headers": [(b"authorization", f"Apikey {key}".encode())], **more}  # fmt: skip
        return asyncio.create_task(shares(scope, receive, send))

    async def talk() -> None:
        tasks = [connect("one") for _ in range(SHARE + 3)]
        tasks += [connect("other")]
        # wherever the key stands, it is the same one
        tasks += [connect("one", headers=[], query_string=b"api_key=one")]
        await asyncio.sleep(0.05)
        assert (opened, closed) == ({"one": SHARE, "other": 1}, {"one": 4})
        ended.set()
        await asyncio.gather(*tasks)
        await connect("one")
        assert opened["one"] == SHARE + 1

    asyncio.run(talk())
