from __future__ import annotations

import numpy as np
import pytest

from offbragg.errors import RejectedFrame
from offbragg.frame import Frame


def test_a_frame_knows_rows_and_columns():
    assert Frame(0, np.zeros((3, 5), np.int32)).shape == (3, 5)


@pytest.mark.parametrize(
    ("number", "counts"),
    [
        (-1, np.zeros((3, 5), np.int32)),
        (0, np.zeros((3, 5), np.uint32)),
        (0, np.zeros((3, 5), np.float64)),
        (0, np.zeros(15, np.int32)),
    ],
)
def test_what_is_no_frame_is_refused(number: int, counts: np.ndarray):
    with pytest.raises(RejectedFrame, match=f"frame {number}"):
        Frame(number, counts)
