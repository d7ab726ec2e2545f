"""A link between two network namespaces that loses packets, takes its time and can be cut.

``with lossy_link(...) as link`` makes two namespaces of Linux with a TUN device each; a child
process carries every IP packet from one to the other: late, at a rate, and not all of them. So the
kernel's own TCP meets real loss, which a proxy between two connections cannot make. It needs root
and ``/dev/net/tun``, and no `netem` in the kernel.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

NEAR, FAR = "10.211.56.1", "10.211.56.2"
_TUNSETIFF = 0x400454CA
_TUN_WITHOUT_HEADER = 0x1001
_QUEUE = 0.1  # s that a packet waits for the line at most, or it is dropped, as a router does


@dataclass
class LossyLink:
    """Two namespaces and the process between them."""

    near: str
    far: str
    carrier: subprocess.Popen[str]

    def command(self, end: str, *command: str) -> list[str]:
        """Return a command that runs at one end."""
        return ["ip", "netns", "exec", end, *command]

    def tell(self, word: str) -> None:
        """``cut`` the link, or ``mend`` it."""
        assert self.carrier.stdin is not None
        self.carrier.stdin.write(word + "\n")
        self.carrier.stdin.flush()

    def counts(self) -> dict[str, int]:
        """Return what was carried and lost since the last call: packets, and bytes."""
        assert self.carrier.stdout is not None
        self.tell("counts")
        return json.loads(self.carrier.stdout.readline())


@contextlib.contextmanager
def lossy_link(
    *, mbit: float, round_trip: float, loss: float = 0.0, congestion: str = ""
) -> Iterator[LossyLink]:
    """Yield the link; skip the test, with the reason, where there can be none.

    Parameters
    ----------
    mbit
        Rate each way, Mbit/s.
    round_trip
        s.
    loss
        Part of the packets that are lost, each way.
    congestion
        The congestion control of both ends' TCP; the kernel's own without.
    """
    ends = {f"ob{os.getpid()}{side}": side for side in "nf"}
    carrier = None
    try:
        for end in ends:
            _try("ip", "netns", "add", end)
        carrier = subprocess.Popen(
            [sys.executable, __file__, *ends, str(mbit), str(round_trip / 2), str(loss)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert carrier.stdout is not None
        assert carrier.stderr is not None
        if carrier.stdout.readline() != "ready\n":
            why = carrier.stderr.read().strip().rpartition("\n")[2]
            pytest.skip(f"this host makes no lossy link: {why}")
        for end, address, other in zip(ends, (NEAR, FAR), (FAR, NEAR), strict=True):
            inside = ["ip", "netns", "exec", end]
            _try("ip", "link", "set", end, "netns", end)
            _try(*inside, "ip", "addr", "add", address, "peer", other, "dev", end)
            _try(*inside, "ip", "link", "set", "lo", "up")
            _try(*inside, "ip", "link", "set", end, "up", "mtu", "1500")
            if congestion:
                setting = "/proc/sys/net/ipv4/tcp_congestion_control"
                _try(*inside, "sh", "-c", f"echo {congestion} > {setting}")
        near, far = ends
        yield LossyLink(near, far, carrier)
    finally:
        if carrier is not None:
            carrier.kill()
            carrier.communicate()
        for end in ends:
            subprocess.run(["ip", "netns", "del", end], capture_output=True, check=False)


def _try(*command: str) -> None:
    try:
        subprocess.run(command, capture_output=True, check=True, text=True)
    except FileNotFoundError:
        pytest.skip(f"{command[0]} is not installed")
    except subprocess.CalledProcessError as error:
        why = error.stderr.strip().partition("\n")[0]
        pytest.skip(f"this host makes no lossy link: {' '.join(command)}: {why}")


def _tun(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH", name.encode(), _TUN_WITHOUT_HEADER))
    return descriptor


def _carry(near: str, far: str, mbit: float, delay: float, loss: float) -> None:
    """Carry packets until the parent is gone."""
    tuns = [_tun(near), _tun(far)]
    other = {tuns[0]: tuns[1], tuns[1]: tuns[0]}
    line = dict.fromkeys(tuns, 0.0)  # until when each way is taken
    rate = mbit * 1e6 / 8
    flying: list[tuple[float, int, int, bytes]] = []
    chance = random.Random(19)
    n = 0
    is_cut = False
    counts = {"packets": 0, "bytes": 0, "lost": 0, "overflow": 0}
    print("ready", flush=True)
    while True:
        now = time.monotonic()
        while flying and flying[0][0] <= now:
            _, _, to, packet = heapq.heappop(flying)
            if not is_cut:
                with contextlib.suppress(OSError):  # its end is not up yet
                    os.write(to, packet)
        wait = max(0.0, flying[0][0] - now) if flying else 1.0
        readable, _, _ = select.select([*tuns, 0], [], [], wait)
        now = time.monotonic()
        for tun in readable:
            if tun == 0:
                asked = os.read(0, 4096).split()
                if not asked:
                    return
                for word in asked:
                    if word == b"counts":
                        print(json.dumps(counts), flush=True)
                        counts = dict.fromkeys(counts, 0)
                    else:
                        is_cut = word == b"cut"
                continue
            for _ in range(64):
                try:
                    packet = os.read(tun, 65536)
                except OSError:
                    break
                if is_cut:
                    continue
                if line[tun] - now > _QUEUE:
                    counts["overflow"] += 1
                    continue
                line[tun] = max(line[tun], now) + len(packet) / rate
                counts["packets"] += 1
                counts["bytes"] += len(packet)
                if chance.random() < loss:
                    counts["lost"] += 1
                    continue
                n += 1
                heapq.heappush(flying, (line[tun] + delay, n, other[tun], packet))


if __name__ == "__main__":
    first, second, *numbers = sys.argv[1:]
    _carry(first, second, *map(float, numbers))
