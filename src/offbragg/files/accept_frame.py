"""Whether a scan file may take a frame: it has the sweep's shape and number, and none differs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import DamagedFrame, RejectedFrame
from offbragg.files import scan_layout
from offbragg.files.stored_sweep import StoredSweep
from offbragg.frame import PackedFrame


def check_belongs(
    scan: StoredSweep, number: int, source: str, shape: tuple[int, int], dtype: str
) -> None:
    """Refuse a frame that is not of a sweep.

    Parameters
    ----------
    scan
        The sweep's file.
    number
        Which frame of the sweep, from 0.
    source
        Name of the frame's file, for the message.
    shape, dtype
        Rows and columns of the frame, and the type of its pixels.

    Raises
    ------
    RejectedFrame
        If its shape, its type or its number is not one of the sweep's.
    """
    expected = scan.shape
    if shape != expected or dtype != "int32":
        raise RejectedFrame(
            f"frame {number} ({source}) is {dtype} of {shape[0]} rows × {shape[1]} columns: "
            f"expected int32, {expected[0]} × {expected[1]}"
        )
    if not 0 <= number < scan.n_frames:
        raise RejectedFrame(
            f"frame {number} ({source}) is not one of the {scan.n_frames} of this sweep"
        )


def check_same_counts(
    scan: StoredSweep, number: int, counts: NDArray[np.int32], source: str
) -> None:
    """Refuse counts that differ from those of a stored frame.

    Raises
    ------
    RejectedFrame
        If they differ, or the stored frame is damaged, so that it cannot be compared.
    """
    try:
        if np.array_equal(scan.stack.counts[number], counts):
            return
    except DamagedFrame as error:
        raise RejectedFrame(
            f"frame {number} ({source}) cannot be compared with the stored one, which is "
            "damaged\noffbragg stack --once --repair replaces it."
        ) from error
    raise RejectedFrame(
        f"frame {number} ({source}) has other pixels than the stored one "
        f"({scan.text_column('source')[number]}): the stored one is kept"
    )


def check_same_frame(scan: StoredSweep, frame: PackedFrame) -> None:
    """Refuse a compressed frame whose pixels differ from the stored ones, whoever compressed them.

    Raises
    ------
    RejectedFrame
        As from `check_same_counts`.
    """
    data: Any = scan.dataset
    _, chunk = data.id.read_direct_chunk((frame.number, 0, 0))
    if chunk != frame.chunk.tobytes():
        counts = scan_layout.unpack(frame.chunk, frame.shape)
        check_same_counts(scan, frame.number, counts, frame.source)
