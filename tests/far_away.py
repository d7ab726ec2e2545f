"""A client in a network of its own, with little bandwidth, a long way and losses.

``with far_away() as link`` makes a network namespace of Linux and a link to it that ``tc`` slows
down. That needs root, and a kernel with `netem`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

HOST, CLIENT = "10.211.55.1", "10.211.55.2"
LINK = "delay 25ms loss 1% rate 10mbit"  # each way


@dataclass(frozen=True)
class FarAway:
    """A network namespace."""

    name: str
    device: str

    def command(self, *command: str) -> list[str]:
        """Return a command that runs there."""
        return ["ip", "netns", "exec", self.name, *command]

    def sent(self) -> int:
        """Return how many bytes have been sent there, repetitions and all headers included."""
        out = subprocess.run(
            ["cat", f"/sys/class/net/{self.device}/statistics/tx_bytes"],
            capture_output=True,
            check=True,
        )
        return int(out.stdout)


@contextlib.contextmanager
def far_away() -> Iterator[FarAway]:
    """Yield the namespace; skip the test, with the reason, where there can be none."""
    name, device = f"ob{os.getpid()}", f"obh{os.getpid()}"
    there = FarAway(name, device)
    _try("ip", "netns", "add", name)
    try:
        _try("ip", "link", "add", device, "type", "veth", "peer", "name", "far", "netns", name)
        _try("ip", "addr", "add", f"{HOST}/30", "dev", device)
        _try("ip", "link", "set", device, "up")
        _try(*there.command("ip", "addr", "add", f"{CLIENT}/30", "dev", "far"))
        _try(*there.command("ip", "link", "set", "far", "up"))
        _try("tc", "qdisc", "add", "dev", device, "root", "netem", *LINK.split())
        _try(*there.command("tc", "qdisc", "add", "dev", "far", "root", "netem", *LINK.split()))
        yield there
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", device], capture_output=True, check=False)


def _try(*command: str) -> None:
    try:
        subprocess.run(command, capture_output=True, check=True, text=True)
    except FileNotFoundError:
        pytest.skip(f"{command[0]} is not installed")
    except subprocess.CalledProcessError as error:
        why = error.stderr.strip().partition("\n")[0]
        pytest.skip(f"this host makes no slow network: {' '.join(command)}: {why}")
