"""Cells in shells: counted again only where others are measured."""

from __future__ import annotations

import numpy as np

from offbragg.files.volume_shells import Shells
from offbragg.grid import Grid


def test_a_brick_is_counted_again_when_other_cells_are_measured():
    shells = Shells(Grid.box((-1, 1), (-1, 1), (-1, 1), step=0.1), None)
    weight = np.zeros((21, 21, 21))
    weight[3:9, 4:10, 5:11] = 2.0
    first = shells.count((0, 0, 0), weight)

    same = shells.count((0, 0, 0), 3.0 * weight, before=first)
    other = np.roll(weight, 7)
    moved = shells.count((0, 0, 0), other, before=first)

    assert same is first
    assert np.array_equal(moved.beyond, shells.count((0, 0, 0), other).beyond)
    assert not np.array_equal(moved.beyond, first.beyond)
