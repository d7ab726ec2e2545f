"""Which Channel Access servers serve a record: the question that libca asks, put to all of them.

libca takes the first server that answers and prints a box about any other. Here every answer
counts, so a record that two IOCs serve is found before a motor of the wrong one moves.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Sequence

from caproto import get_client_address_list

_VERSION, _SEARCH = 0, 6  # commands of the Channel Access protocol
_MINOR = 13
_NO_REPLY_IF_ABSENT = 5
_HEADER = struct.Struct(">HHHHII")
_ANY = 0xFFFFFFFF  # "at the address from which this answer comes"
_LARGEST = 1400  # bytes of one datagram
_TRIES = 2  # a datagram may be lost


def find_servers(records: Sequence[str], *, timeout: float = 0.6) -> dict[str, set[str]]:
    """Return the servers of each record as ``host:port``; an empty set if none serves it.

    The search addresses come from the environment (EPICS_CA_ADDR_LIST and related).

    Parameters
    ----------
    records
        Names of records.
    timeout
        Time to wait for answers, s; the search is sent twice in it.
    """
    found: dict[str, set[str]] = {record: set() for record in records}
    names = list(found)
    questions = _questions(names)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for _ in range(_TRIES):
            for address in get_client_address_list():
                for question in questions:
                    with contextlib.suppress(OSError):  # a network that is down serves nothing
                        asking.sendto(question, address)
            deadline = time.monotonic() + timeout / _TRIES
            while (left := deadline - time.monotonic()) > 0:
                asking.settimeout(left)
                try:
                    answer, (sender, _) = asking.recvfrom(65535)
                except TimeoutError:
                    break
                except OSError:  # a port where nothing listens
                    continue
                for number, server in _answers(answer, sender):
                    if number < len(names):
                        found[names[number]].add(server)
    return found


def _questions(names: Sequence[str]) -> list[bytes]:
    """Return datagrams that search all of the records, by their place in the list."""
    version = _HEADER.pack(_VERSION, 0, 0, _MINOR, 0, 0)
    datagrams = [version]
    for number, name in enumerate(names):
        payload = name.encode() + b"\0"
        payload += b"\0" * (-len(payload) % 8)
        search = _HEADER.pack(_SEARCH, len(payload), _NO_REPLY_IF_ABSENT, _MINOR, number, number)
        if len(datagrams[-1]) + len(search) + len(payload) > _LARGEST:
            datagrams.append(version)
        datagrams[-1] += search + payload
    return datagrams


def _answers(datagram: bytes, sender: str) -> list[tuple[int, str]]:
    """Return (place in the list, server) of each answer in a datagram."""
    found: list[tuple[int, str]] = []
    while len(datagram) >= _HEADER.size:
        command, size, port, _, address, number = _HEADER.unpack_from(datagram)
        if command == _SEARCH:
            host = sender if address == _ANY else socket.inet_ntoa(struct.pack(">I", address))
            found.append((number, f"{host}:{port}"))
        datagram = datagram[_HEADER.size + size :]
    return found
