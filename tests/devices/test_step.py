"""The step-scan twin in Bluesky's own plans, over real Channel Access."""

from __future__ import annotations

import bluesky.plans as bp
import numpy as np
import pytest
from event_model import DocumentNames, schema_validators

from offbragg.errors import DeviceError
from offbragg.files import read_frame

pytestmark = pytest.mark.ioc


@pytest.fixture
def step(devices, config):
    device = devices["pilatus"].step
    device.exposure.put(0.05)
    devices["shutter"].set("open").wait(10)
    yield device
    devices["shutter"].set("closed").wait(10)


def frames(documents, config):
    (resource,) = documents.of("stream_resource")
    folder = config.paths.frames / resource["uri"].rstrip("/").rsplit("/", 1)[1]
    template = resource["parameters"]["template"]
    data = documents.of("stream_datum")
    assert [d["indices"]["stop"] for d in data] == list(range(1, len(data) + 1))
    assert sorted(p.name for p in folder.iterdir()) == [
        template.format(n) for n in range(len(data))
    ]
    return [read_frame(folder / template.format(n), number=n) for n in range(len(data))]


def test_count_takes_a_frame_per_point(RE, step, documents, config):
    RE(bp.count([step], num=3))

    taken = frames(documents, config)
    assert len(taken) == 3
    assert "KMnF3 crystal1" in taken[0].header["text"]
    sums = [int(frame.counts[frame.counts >= 0].sum()) for frame in taken]
    assert documents.rows("pilatus_step_sum") == sums
    assert min(sums) > 0
    for name, doc in documents:
        schema_validators[DocumentNames[name]].validate(doc)
    assert documents.stop()["exit_status"] == "success"
    assert step.cam.acquire.get() == 0


def test_scan_moves_the_axis_between_frames(RE, devices, step, documents, config):
    RE(bp.scan([step], devices["phi"], 0.0, 2.0, 3))

    taken = frames(documents, config)
    # the first and the last are of the baseline
    assert documents.rows("phi")[1:-1] == pytest.approx([0.0, 1.0, 2.0], abs=1e-3)
    assert len({frame.counts.tobytes() for frame in taken}) == 3
    assert documents.start()["hints"]["dimensions"][0][0] == ["phi"]


def test_grid_scan(RE, devices, step, documents, config):
    RE(
        bp.grid_scan(
            [step], devices["chi"], -0.5, 0.5, 2, devices["phi"], 0.0, 1.0, 2, snake_axes=False
        )
    )

    assert len(frames(documents, config)) == 4


def test_two_runs_have_two_folders(RE, step, documents):
    RE(bp.count([step]))
    RE(bp.count([step]))

    first, second = documents.of("stream_resource")
    assert first["uri"] != second["uri"]


def test_a_change_of_exposure_is_taken(RE, step, documents, config):
    RE(bp.count([step]))
    step.exposure.put(0.4)
    short = documents.rows("pilatus_step_sum")[0]

    RE(bp.count([step]))

    ratio = documents.rows("pilatus_step_sum")[1] / short
    assert 3.0 < ratio < 20.0
    configuration = documents.of("descriptor")[-1]["configuration"]["pilatus_step"]["data"]
    assert configuration["pilatus_step_exposure"] == 0.4


def test_triggering_without_staging_is_reported(step):
    with pytest.raises(DeviceError, match="without being staged"):
        step.trigger()


def test_a_frame_that_this_host_cannot_see_is_reported(RE, step, documents, tmp_path, monkeypatch):
    monkeypatch.setattr(step, "patience", 0.5)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(step, "write_path", str(elsewhere))
    make = step._make_directory

    def make_both(stem):
        directory = make(stem)
        (elsewhere / directory.name).mkdir()
        return directory

    monkeypatch.setattr(step, "_make_directory", make_both)

    with pytest.raises(Exception, match="pilatus_step") as caught:
        RE(bp.count([step]))

    assert "does this host see what the detector writes" in repr(caught.value.__cause__).lower()
    assert documents.stop()["exit_status"] == "fail"
    assert np.all(step.cam.acquire.get() == 0)
