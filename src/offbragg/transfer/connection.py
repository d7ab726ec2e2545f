"""A connection to a receiver, encrypted with CURVE."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Generator
from typing import Any

import zmq

from offbragg.errors import TransferError
from offbragg.transfer.keys import Key, encoded
from offbragg.transfer.messages import LARGEST


@contextlib.contextmanager
def connected(address: str, key: Key, receiver: str) -> Generator[tuple[Any, Any]]:
    """Connect to a receiver within a ``with``.

    Parameters
    ----------
    address
        Its host and port.
    key
        Of the sender.
    receiver
        Public key of the receiver.

    Yields
    ------
    socket, monitor
        ZeroMQ's; the monitor has something to read once the connection was lost.

    Raises
    ------
    TransferError
        If the address is none.
    """
    context = zmq.Context()
    socket: Any = context.socket(zmq.DEALER)
    monitor: Any = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    try:
        socket.curve_serverkey = encoded(receiver)
        socket.curve_publickey = encoded(key.public)
        socket.curve_secretkey = encoded(key.secret)
        socket.routing_id = uuid.uuid4().bytes
        socket.maxmsgsize, socket.linger = LARGEST, 0
        socket.sndhwm, socket.rcvhwm = 8, 1000
        socket.heartbeat_ivl, socket.heartbeat_timeout = 2000, 10_000
        try:
            socket.connect(address)
        except zmq.ZMQError as error:
            raise TransferError(
                f"{address!r} is not an address: {error.strerror}\n"
                "Give the receiver's host and port, as far.example.org:5599."
            ) from error
        yield socket, monitor
    finally:
        socket.disable_monitor()
        monitor.close(0)
        socket.close()
        context.term()
