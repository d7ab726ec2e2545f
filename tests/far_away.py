"""A client in a network of its own, with little bandwidth, a long way and losses.

``with far_away() as there`` makes a network namespace of Linux and a link to it that ``tc`` slows
down. That needs root. A kernel without `netem` has the little bandwidth only.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

HOST, CLIENT = "10.211.55.1", "10.211.55.2"
LINKS = (  # each way; the first one that the kernel has
    "netem delay 25ms loss 1% rate 10mbit",
    "tbf rate 10mbit burst 32kb latency 400ms",
)


@dataclass(frozen=True)
class FarAway:
    """A network namespace."""

    name: str
    device: str
    link: str

    def command(self, *command: str) -> list[str]:
        """Return a command that runs there."""
        return ["ip", "netns", "exec", self.name, *command]


@contextlib.contextmanager
def far_away() -> Iterator[FarAway]:
    """Yield the namespace; skip the test, with the reason, where there can be none."""
    name, device = f"ob{os.getpid()}", f"obh{os.getpid()}"
    inside = ["ip", "netns", "exec", name]
    _try("ip", "netns", "add", name)
    try:
        _try("ip", "link", "add", device, "type", "veth", "peer", "name", "far", "netns", name)
        _try("ip", "addr", "add", f"{HOST}/30", "dev", device)
        _try("ip", "link", "set", device, "up")
        _try(*inside, "ip", "addr", "add", f"{CLIENT}/30", "dev", "far")
        _try(*inside, "ip", "link", "set", "far", "up")
        link = next((link for link in LINKS if _slows(device, link)), LINKS[-1])
        _try("tc", "qdisc", "replace", "dev", device, "root", *link.split())
        _try(*inside, "tc", "qdisc", "replace", "dev", "far", "root", *link.split())
        yield FarAway(name, device, link)
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", device], capture_output=True, check=False)


def _slows(device: str, link: str) -> bool:
    command = ["tc", "qdisc", "replace", "dev", device, "root", *link.split()]
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False


def _try(*command: str) -> None:
    try:
        subprocess.run(command, capture_output=True, check=True, text=True)
    except FileNotFoundError:
        pytest.skip(f"{command[0]} is not installed")
    except subprocess.CalledProcessError as error:
        why = error.stderr.strip().partition("\n")[0]
        pytest.skip(f"this host makes no slow network: {' '.join(command)}: {why}")
