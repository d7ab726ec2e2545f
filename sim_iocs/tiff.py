"""TIFF files as a Pilatus camserver writes them: a 4096-byte header, then int32 pixels."""

from __future__ import annotations

import struct
import time

import numpy as np
from numpy.typing import NDArray

HEADER_SIZE = 4096


def encode_tiff(counts: NDArray[np.int32], *, model: str, header: list[str], taken: float) -> bytes:
    """Make a whole TIFF file.

    Parameters
    ----------
    counts
        Pixels, shape (slow, fast).
    model
        Name of the detector.
    header
        Lines of the header, without the leading ``# ``; they go to ImageDescription.
    taken
        When the exposure began, POSIX seconds.
    """
    slow, fast = counts.shape
    description = "".join(f"# {line}\r\n" for line in header).encode("utf-8")
    stamp = time.strftime("%Y:%m:%d %H:%M:%S", time.localtime(taken)).encode() + b"\0"
    texts = {
        270: description + b"\0",
        272: model.encode() + b"\0",
        305: b"TVX TIFF v 1.3\0",
        306: stamp,
    }
    numbers = {
        256: (4, fast),
        257: (4, slow),
        258: (3, 32),
        259: (3, 1),
        262: (3, 1),
        273: (4, HEADER_SIZE),
        274: (3, 1),
        277: (3, 1),
        278: (4, slow),
        279: (4, 4 * counts.size),
        339: (3, 2),  # signed
    }
    tags = sorted([*texts, *numbers])
    place = 8 + 2 + 12 * len(tags) + 4
    entries, blobs = b"", b""
    for tag in tags:
        if tag in numbers:
            kind, value = numbers[tag]
            entries += struct.pack("<HHII", tag, kind, 1, value)
        elif len(texts[tag]) <= 4:
            entries += struct.pack("<HHI4s", tag, 2, len(texts[tag]), texts[tag])
        else:
            entries += struct.pack("<HHII", tag, 2, len(texts[tag]), place + len(blobs))
            blobs += texts[tag] + b"\0" * (len(texts[tag]) % 2)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + struct.pack("<I", 0) + blobs
    if len(head) > HEADER_SIZE:
        raise ValueError(f"the header takes {len(head)} bytes; a Pilatus TIFF has {HEADER_SIZE}")
    return head.ljust(HEADER_SIZE, b"\0") + counts.astype("<i4").tobytes()
