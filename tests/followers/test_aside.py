"""What is refused is kept in the run's folder, with the reason, and never in place of anything."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from runs import counts_of

from offbragg.files import ScanFile, find_scan_file
from offbragg.files import quarantine as module
from offbragg.files.digest import LATER, digest_path, read_digest
from offbragg.files.scan_folders import scan_directory
from offbragg.followers.follow import follow
from offbragg.followers.stacker import Stacker
from sim_iocs.cbf import encode_cbf


def flip(content: bytes) -> bytes:
    return content[:-6000] + bytes([content[-6000] ^ 16]) + content[-5999:]


@pytest.fixture
def stacked(run):
    def stack() -> Path:
        failed = follow(run.journal_directory, [Stacker(run.experiment, late=run.late)], once=True)
        assert failed == {"stack": []}
        path = find_scan_file(scan_directory(run.experiment, run.start), run.uid)
        assert path is not None
        return path

    return stack


def note_of(kept: Path) -> dict:
    return json.loads(kept.with_name(f"{kept.name}.json").read_text())


def test_a_rejected_frame_is_kept_with_the_reason_and_takes_no_room(run, stacked):
    run.begin()
    run.write(0, 2)
    run.write(1, damage=flip)
    run.announce(3)
    run.end("abort")

    kept = stacked().parent / "f1.rejected" / "x_00001.cbf"

    assert kept.samefile(run.path(1))
    note = note_of(kept)
    assert note["frame"] == 1
    assert "does not have the checksum that it declares" in note["reason"]
    assert note["kept"] == "link"
    assert sorted(p.name for p in kept.parent.iterdir()) == ["x_00001.cbf", "x_00001.cbf.json"]


def test_a_good_file_that_comes_later_is_stored_and_the_bad_one_stays(run, stacked):
    run.begin()
    run.write(*range(10), damage=None)
    run.path(1).unlink()
    run.write(1, damage=flip)
    run.announce(10)
    run.end()
    path = stacked()
    bad = run.path(1).read_bytes()
    run.path(1).unlink()
    run.write(1)

    stacked()

    with ScanFile.open(path) as scan:
        assert scan.ledger.counts()["stored"] == 10
    assert (path.parent / "f1.rejected" / "x_00001.cbf").read_bytes() == bad


def test_another_bad_one_of_the_same_name_is_kept_beside_it_and_the_same_one_once(run, stacked):
    run.begin()
    run.write(*range(9))
    run.write(9, damage=flip)
    run.announce(10)
    run.end()
    path = stacked()
    stacked()
    run.path(9).unlink()
    run.write(9, damage=lambda content: flip(content).replace(b"test", b"TEST"))
    stacked()
    stacked()

    folder = path.parent / "f1.rejected"
    names = ["x_00009.2.cbf", "x_00009.2.cbf.json", "x_00009.cbf", "x_00009.cbf.json"]
    assert sorted(p.name for p in folder.iterdir()) == names
    assert (folder / names[0]).read_bytes() == run.path(9).read_bytes()


def test_a_file_that_takes_the_place_of_a_stored_one_is_kept_and_the_stored_one_stays(
    run, stacked, caplog
):
    run.begin()
    run.write(*range(9))
    run.announce(10)
    follower = Stacker(run.experiment, late=run.late).open(run.start)
    from offbragg.files.journal_file import read_journal

    path = run.journal_directory / f"{run.uid}.jsonl"
    documents, position = read_journal(path)
    for name, doc in documents:
        follower(name, doc)
    while follower.decided < 9:
        follower.poll()
    run.path(3).unlink()
    run.path(3).write_bytes(encode_cbf(counts_of(33), name="x", header=["other"]))
    content = run.path(5).read_bytes()
    run.path(5).write_bytes(content)  # the same once more
    run.write(9)
    run.end()
    for name, doc in read_journal(path, position)[0]:
        follower(name, doc)
    while not follower.poll():
        pass

    kept = follower.path.parent / "f1.rejected" / "x_00003.cbf"
    assert [p.name for p in kept.parent.glob("*.cbf")] == ["x_00003.cbf"]
    assert "holds other pixels than the frame that was stored" in note_of(kept)["reason"]
    with ScanFile.open(follower.path) as scan:
        np.testing.assert_array_equal(scan.stack.counts[3], counts_of(3))
    assert "frame 3: x_00003.cbf was changed after" in caplog.text


def test_on_another_disk_it_is_copied_up_to_a_limit(tmp_path, monkeypatch):
    def another(*_, **__):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", another)
    monkeypatch.setattr(module, "MOST_COPIED", 250)
    for n in range(3):
        (tmp_path / f"x_{n}.cbf").write_bytes(bytes([n]) * 100)

    kept = [
        module.quarantine(tmp_path / f"x_{n}.cbf", tmp_path / "f2.h5", number=n, reason="bad")
        for n in range(3)
    ]

    assert [note_of(each)["kept"].split(":")[0] for each in kept] == ["copy", "copy", "not copied"]
    assert kept[1].read_bytes() == bytes([1]) * 100
    assert not kept[2].exists()
    assert (tmp_path / "x_2.cbf").exists()


def test_what_changed_since_it_was_judged_is_not_kept_with_that_reason(tmp_path):
    (tmp_path / "x.cbf").write_bytes(b"new")

    kept = module.quarantine(
        tmp_path / "x.cbf", tmp_path / "f1.h5", number=0, reason="bad", signature=(5, 1)
    )

    assert kept is None
    assert not (tmp_path / "f1.rejected").exists()


def test_a_digest_that_was_lost_is_made_at_the_next_start(run, stacked):
    run.begin()
    run.write(0, 1)
    run.announce(2)
    run.end("abort")
    path = stacked()
    digest_path(path).unlink()

    stacked()

    assert read_digest(path).made == LATER
    again = digest_path(path).read_bytes()
    stacked()
    assert digest_path(path).read_bytes() == again
