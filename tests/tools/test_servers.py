"""Records are searched for at every address, and every server that answers is found."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from offbragg.doctor.servers import find_servers

HEADER = struct.Struct(">HHHHII")


class Server:
    """Answer searches for some records, as an IOC does: at the address of the answer, port 7000."""

    def __init__(self, records: set[str], tcp_port: int) -> None:
        self.records, self.tcp_port = records, tcp_port
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                datagram, sender = self.socket.recvfrom(65535)
            except OSError:
                return
            while datagram:
                command, size, _, _, number, _ = HEADER.unpack_from(datagram)
                name = datagram[16 : 16 + size].rstrip(b"\0").decode()
                if command == 6 and name in self.records:
                    answer = HEADER.pack(6, 8, self.tcp_port, 0, 0xFFFFFFFF, number)
                    self.socket.sendto(answer + struct.pack(">HHI", 13, 0, 0), sender)
                datagram = datagram[16 + size :]


@pytest.fixture
def two(monkeypatch) -> Iterator[tuple[Server, Server]]:
    many = {f"IOC:m{n}" for n in range(200)}
    servers = Server({"IOC:m1", "DET:x"} | many, 7000), Server({"IOC:m1"}, 7002)
    monkeypatch.setenv("EPICS_CA_ADDR_LIST", " ".join(server.address for server in servers))
    monkeypatch.setenv("EPICS_CA_AUTO_ADDR_LIST", "NO")
    yield servers
    for server in servers:
        server.socket.close()


def test_a_record_that_two_serve_and_one_that_none_serves_are_found(two):
    found = find_servers(["IOC:m1", "DET:x", "NO:where"])

    assert found == {
        "IOC:m1": {"127.0.0.1:7000", "127.0.0.1:7002"},
        "DET:x": {"127.0.0.1:7000"},
        "NO:where": set(),
    }


def test_more_records_than_a_datagram_holds_are_all_found(two):
    names = [f"IOC:m{n}" for n in range(200)]

    found = find_servers(names)

    assert all("127.0.0.1:7000" in servers for servers in found.values())


def test_an_address_where_nothing_listens_hinders_nothing(two, monkeypatch):
    two[1].socket.close()

    assert find_servers(["DET:x"]) == {"DET:x": {"127.0.0.1:7000"}}
