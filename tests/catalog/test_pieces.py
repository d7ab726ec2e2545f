"""A sweep that was measured in pieces is read as one."""

from __future__ import annotations

import numpy as np
import pytest
from runs import counts_of

from offbragg.catalog.pieces import pieces_of, whole_sweep
from offbragg.errors import CatalogError


@pytest.fixture(scope="module")
def pieces(server, cat):
    """Frames 0 to 5, of which 4 and 5 are missing; then 3 to 9; and another sweep there."""
    from catalog.served import PublishedRun

    made = []
    for first, n_frames, sweep_of, missing in (
        (0, 6, [0, 1], {4, 5}), (3, 7, [0, 1], set()), (0, 4, [0, 0], set()),
    ):  # fmt: skip
        run = PublishedRun(
            server.root / f"pieces{len(made)}", client=cat, n_frames=n_frames,
            first=first, series={"uid": "pieces", "sweep_of": sweep_of, "index": len(made)},
            began=1e9 + len(made),
        )  # fmt: skip
        run.begin().create_scan_file()
        run.store(*(n for n in range(n_frames) if n not in missing))
        for number in missing:
            run.scan.mark(number, "missing", "the run had ended (fail)")
        run.finish("fail" if missing else "success")
        assert run.open().feed()
        made.append(run)
    return made


def test_each_angle_is_there_once_and_in_order(pieces, cat):
    whole = whole_sweep(cat, pieces[1].uid)

    assert whole.rows["angle"].tolist() == [0.5 * n + 0.25 for n in range(10)]
    assert whole.rows["status"].tolist() == ["stored"] * 10
    assert whole.rows["run"].tolist() == [pieces[0].uid] * 4 + [pieces[1].uid] * 6
    assert whole.rows["frame"].tolist() == [0, 1, 2, 3, 1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(whole.frames(3, 5), [counts_of(3), counts_of(1)])


def test_pieces_are_those_of_the_same_sweep_as_they_were_measured(pieces, cat):
    for run in pieces[:2]:
        assert [one.start["uid"] for one in pieces_of(cat, run.uid)] == [
            pieces[0].uid,
            pieces[1].uid,
        ]
    assert len(whole_sweep(cat, pieces[2].uid)) == 4


def test_a_run_of_no_series_is_its_own_only_piece(whole, cat):
    assert len(whole_sweep(cat, whole.uid)) == 10


def test_a_run_that_is_not_there_is_refused(cat):
    with pytest.raises(CatalogError, match="has no run"):
        whole_sweep(cat, "ffffffff")
