"""A network with little bandwidth and a long way, between a client and a server on this host."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import Iterator

_PIECE = 8192  # bytes
_SEGMENT = 1448  # bytes of a TCP segment


@contextlib.contextmanager
def slow_network(
    port: int,
    *,
    mbit: float = 10.0,
    round_trip: float = 0.05,
    loss: float = 0.0,
    sent: list[int] | None = None,
) -> Iterator[int]:
    """Yield the port of a proxy to a server on this host.

    Parameters
    ----------
    port
        Of the server.
    mbit
        Bandwidth towards the client, of all connections together, Mbit/s.
    round_trip
        s; a new connection takes one, too.
    loss
        Part of the segments that are lost: TCP then reaches 1.22 segments a round trip over the
        square root of it (Mathis et al., Comput. Commun. Rev. 27, 67, 1997).
    sent
        Takes the bytes to the client, and to the server, as they are sent.
    """
    if loss:
        mbit = min(mbit, 8e-6 * 1.22 * _SEGMENT / (round_trip * math.sqrt(loss)))
    loop, ready, found = asyncio.new_event_loop(), threading.Event(), list[int]()

    counted = [0, 0] if sent is None else sent

    async def carry(reader, writer, rate, line, way):
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver():
            while True:
                when, piece = await pieces.get()
                await asyncio.sleep(when - loop.time())
                writer.write(piece)
                await writer.drain()
                if not piece:
                    writer.close()
                    return

        delivering = asyncio.create_task(deliver())
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while piece := await reader.read(_PIECE):
                counted[way] += len(piece)
                line[0] = max(line[0], loop.time()) + len(piece) / rate  # the line is taken until
                pieces.put_nowait((line[0] + round_trip / 2, piece))
            pieces.put_nowait((loop.time() + round_trip / 2, b""))
            await delivering

    down, up = [0.0], [0.0]

    async def connected(reader, writer):
        writers = [writer]
        try:
            await asyncio.sleep(round_trip)
            theirs = await asyncio.open_connection("127.0.0.1", port)
            writers.append(theirs[1])
            await asyncio.gather(
                carry(reader, theirs[1], 1e9, up, 1),
                carry(theirs[0], writer, mbit * 1e6 / 8, down, 0),
            )
        except (OSError, asyncio.CancelledError):
            pass  # a client has left, or the network ends
        finally:
            for each in writers:
                each.transport.abort()

    async def serve():
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        found.append(server.sockets[0].getsockname()[1])
        ready.set()
        await server.serve_forever()

    def run():
        asyncio.set_event_loop(loop)
        with contextlib.suppress(asyncio.CancelledError):
            task.append(loop.create_task(serve()))
            loop.run_until_complete(task[0])
        left = asyncio.all_tasks(loop)
        for each in left:
            each.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(asyncio.sleep(0))  # what was aborted is closed
        loop.close()

    task: list[asyncio.Task[None]] = []
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(task[0].cancel)
        thread.join(10)
