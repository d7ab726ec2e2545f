"""The record of a reduction: read as it was written, refused in words, computed once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measured import AS_SIMULATED, Measured

from offbragg.errors import ReductionError
from offbragg.files.volume_file import VolumeFile, read_volume
from offbragg.files.volume_writer import write_volume
from offbragg.workflows import sums, sweeps
from offbragg.workflows.choices import Choices
from offbragg.workflows.record import ReductionRecord
from offbragg.workflows.reduce import build_record, reduce_files
from offbragg.workflows.reproduce import reproduce
from offbragg.workflows.sums import reduce_record

CHOICES = Choices(step=0.1, corrections=AS_SIMULATED)


@pytest.fixture(scope="module")
def sweep() -> Measured:
    return Measured(n_frames=8, step=2.0, temperature=100.0)


@pytest.fixture(scope="module")
def scan_path(tmp_path_factory, sweep) -> Path:
    path = sweep.write(tmp_path_factory.mktemp("record") / "perovskite" / "c1" / "100K")
    air = Measured(n_frames=3, step=5.0, crystal_in=False, series=2)
    air.write(path.parents[1].with_name("c1_background") / "300K")
    return path


@pytest.fixture
def written(scan_path, tmp_path, sweep) -> dict[str, Any]:
    choices = replace(CHOICES, symmetry="m-3m", mask=sweep.mask_file(tmp_path))
    return build_record([scan_path], choices, say=lambda text: None).to_dict()


def test_a_record_is_plain_json_and_read_as_it_was_written(written):
    text = json.dumps(written, sort_keys=True)

    read = ReductionRecord.from_dict(json.loads(text))

    assert written["inputs"][0]["background"] is not None
    assert json.dumps(read.to_dict(), sort_keys=True) == text


def test_a_record_of_an_earlier_version_lacks_some_keys(written):
    sweep, mask = written["inputs"][0], written["mask"]
    del written["binned"], sweep["damaged"], sweep["background"]["damaged"]
    del mask["dataset"], mask["inverted"], mask["masked"]

    read = ReductionRecord.from_dict(written)

    assert read.binned == read.grid
    assert read.inputs[0].damaged == ()
    assert read.mask is not None
    assert (read.mask.dataset, read.mask.inverted) == (None, False)


def test_the_volume_of_a_record_that_was_read_is_the_same(scan_path, written):
    record = build_record([scan_path], CHOICES, say=lambda text: None)

    once = reduce_record(record)
    again = reduce_record(ReductionRecord.from_dict(record.to_dict()))

    np.testing.assert_array_equal(once.counts, again.counts)
    np.testing.assert_array_equal(once.weight, again.weight)


def test_hot_pixels_repeats_and_flux_are_found_once(scan_path, monkeypatch):
    """What is reported is what is used: for the sweep, and for its background."""
    calls: list[str] = []

    def counted(name: str, real: Any) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            calls.append(name)
            return real(*args, **named)

        return call

    for name in ("hot_pixels", "repeats", "frame_weights"):
        monkeypatch.setattr(sweeps, name, counted(name, getattr(sweeps, name)))

    sums._air.cache_clear()  # the same air run as in other tests
    reduce_files(scan_path, CHOICES)
    with_background = sorted(calls)
    calls.clear()
    reduce_files(scan_path, replace(CHOICES, background="none"))

    assert with_background == sorted(2 * ["hot_pixels", "repeats", "frame_weights"])
    assert sorted(calls) == sorted(["hot_pixels", "repeats", "frame_weights"])


def test_the_reduction_uses_what_the_record_carries(scan_path):
    record = build_record([scan_path], replace(CHOICES, background="none"), say=lambda text: None)
    (sweep,) = record.inputs
    assert sweep.selection is not None
    flux = sweep.selection.flux.copy()
    flux[1:] = 0.0
    one = replace(sweep, frames=1, selection=replace(sweep.selection, flux=flux))
    counted: list[tuple[int, int]] = []

    reduce_record(
        replace(record, inputs=(one,)), progress=lambda done, total: counted.append((done, total))
    )

    assert counted == [(1, 1)]


WRONG: list[tuple[list[Any], Any, str]] = [
    (["format"], 2, "record.format is 2: it must be 1"),
    (["hot"], "yes", "record.hot is 'yes': it must be true or false"),
    (["monitor"], 1, "record.monitor is 1: it must be true or false"),
    (["symmetry"], None, "record.symmetry is None: it must be text"),
    (["fold"], "mmm", "record.fold is 'mmm': it must be true or false"),
    (["background_exponents"], [1], "exponents is [1]: it must be two whole numbers"),
    (["background_exponents"], [1, "x"], "exponents[1] is 'x': it must be a whole number"),
    (["temperature"], "cold", "record.temperature is 'cold': it must be a number"),
    (["background_scale"], 0, "record.background_scale is 0: it must be a number above 0"),
    (["inputs"], [], "record.inputs is empty: it must be a list of sweeps"),
    (["inputs"], 3, "record.inputs is 3: it must be a list"),
    (["inputs", 0], "f1.h5", "record.inputs[0] is 'f1.h5': it must be an object"),
    (["inputs", 0, "frames"], 1.5, "record.inputs[0].frames is 1.5: it must be a whole number"),
    (["inputs", 0, "UB"], [[1, 0], [0, 1]], "it must be 3 × 3 numbers"),
    (["inputs", 0, "damaged"], ["x"], "damaged[0] is 'x': it must be a whole number"),
    (["inputs", 0, "file"], None, "record.inputs[0].file is None: it must be text"),
    (["inputs", 0, "geometry", "wavelength"], "x", "record.inputs[0].geometry cannot be read: "),
    (["inputs", 0, "background", "run"], 7, "background.run is 7: it must be text"),
    (["inputs", 0, "orientaton"], "x", "is unknown (did you mean 'orientation'?)"),
    (["grid"], {"first": 1}, "record.grid cannot be read: "),
    (["sample", "lable"], "x", "record.sample cannot be read: sample.lable is unknown"),
    (["corrections", "polarization"], 2, "record.corrections cannot be read: polarization is 2"),
    (["corrections", "air"], 1, "record.corrections.air is 1: it must be true or false"),
    (["oversample", "pixels"], 99, "record.oversample cannot be read: oversampling 99"),
    (["mask", "inverted"], 0, "record.mask.inverted is 0: it must be true or false"),
    (["versions"], "0.1", "record.versions is '0.1': it must be an object"),
]


@pytest.mark.parametrize(("keys", "value", "message"), WRONG, ids=[case[2] for case in WRONG])
def test_a_malformed_record_is_refused_in_words(written, keys, value, message):
    place = written
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value

    with pytest.raises(ReductionError) as refused:
        ReductionRecord.from_dict(written)

    assert message in str(refused.value)


@pytest.mark.parametrize("key", ["inputs", "sample", "corrections", "mask", "versions"])
def test_a_key_that_is_missing_is_named(written, key):
    del written[key]

    with pytest.raises(ReductionError, match=rf"record\.{key} is missing: it has inputs, "):
        ReductionRecord.from_dict(written)


def test_a_volume_with_a_malformed_record_is_not_reproduced(scan_path, tmp_path):
    reduce_files(scan_path, CHOICES, out=tmp_path / "v.h5")
    with VolumeFile(tmp_path / "v.h5") as file:
        record = file.record
    write_volume(tmp_path / "w.h5", read_volume(tmp_path / "v.h5"), {**record, "hot": "no"})

    with pytest.raises(ReductionError, match=r"w\.h5 cannot be reproduced: record\.hot is 'no'"):
        reproduce(tmp_path / "w.h5")


def test_a_volume_whose_bytes_lie_elsewhere_is_reproduced_all_the_same(scan_path, tmp_path):
    """As one of another version, which compressed its chunks in another way."""
    path = tmp_path / "v.h5"
    reduce_files([scan_path], CHOICES, out=path, say=lambda text: None)
    with path.open("ab") as file:
        file.write(b"\0")

    again = reproduce(path)

    assert (again.same, again.differences) == (True, ())
