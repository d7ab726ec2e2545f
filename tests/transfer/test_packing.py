"""Pieces that go compressed: fewer bytes on the link, the same ones on the far disk."""

from __future__ import annotations

import gzip
import hashlib
import os
import threading
import zlib
from pathlib import Path

import pytest
import zstandard
from far_host import Far, Puppet
from runs import MeasuredRun

from offbragg.errors import TransferError
from offbragg.transfer.packing import Packer, Unpacker


@pytest.mark.parametrize(
    "content", [b"\0" * (1 << 20), b"abc" * 1000, bytes(range(50)) * 2, b"x"],
    ids=["zeros", "short", "bytes", "one"],
)  # fmt: skip
def test_what_is_packed_unpacks_to_the_same(content: bytes):
    packed = Packer().pack(content)

    if packed is not None:
        assert len(packed) < len(content)
        assert Unpacker().unpack(packed, len(content)) == content


def test_what_gets_no_smaller_goes_as_it_is():
    assert Packer().pack(os.urandom(100_000)) is None
    assert Packer().pack(b"") is None


def test_a_packed_piece_takes_no_more_memory_than_its_size():
    bomb = zstandard.ZstdCompressor().compress(b"\0" * (1 << 30))
    unknown = zstandard.ZstdCompressor(write_content_size=False).compress(b"abc")
    for packed in (bomb, unknown, b"", b"nonsense", bomb[:20]):
        with pytest.raises(TransferError, match="piece"):
            Unpacker().unpack(packed, 3)


def test_a_packed_piece_that_is_damaged_is_asked_for_again(far: Far):
    content = b"abcd" * 3000
    packed = Packer().pack(content)
    assert packed is not None
    piece = {"name": "a/x_1.cbf", "start": 0, "packed": True, "crc32": zlib.crc32(content)}
    with far.receiving() as receiver:
        puppet = Puppet(far)
        try:
            want = puppet.ask("offer", name="a/x_1.cbf", size=len(content),
                              sha256=hashlib.sha256(content).hexdigest())  # fmt: skip
            for wrong in (packed[:-3], b"", packed[:20] + b"\1" + packed[21:], content):
                again = puppet.ask("piece", wrong, **piece)
                assert (again.do, again.fields) == ("want", want.fields)
            assert puppet.ask("piece", packed, **piece).do == "have"
        finally:
            puppet.close()
    assert receiver.received.damaged == 4
    assert (far.folder / "frames/a/x_1.cbf").read_bytes() == content


def test_frames_take_fewer_bytes_of_the_link_and_arrive_as_they_were(far: Far, tmp_path: Path):
    run = MeasuredRun(tmp_path / "near", n_frames=4).begin()
    run.write(0, 1, 2, 3)
    run.path(3).write_bytes(os.urandom(100_000))  # not a frame, and does not get smaller
    run.announce(4)
    run.end()
    size = sum(run.path(n).stat().st_size for n in range(4))

    with far.receiving() as receiver:
        sent = far.sender(tmp_path / "near").run(threading.Event(), once=True)

    far.check(run, *range(4))
    assert sent.bytes == size
    assert receiver.received.bytes == size
    assert 100_000 < sent.link_bytes < 100_000 + (size - 100_000) / 2
    assert receiver.received.link_bytes >= 100_000


def test_a_frame_that_is_packed_already(far: Far, tmp_path: Path):
    run = MeasuredRun(tmp_path / "near", n_frames=1).begin()
    run.write(0)
    run.path(0).write_bytes(gzip.compress(run.path(0).read_bytes()))
    run.announce(1)
    run.end()

    with far.receiving():
        far.sender(tmp_path / "near").run(threading.Event(), once=True)

    far.check(run, 0)
