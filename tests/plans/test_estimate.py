"""What sweeps cover is known before anything moves, and what adds nothing is named."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest

from offbragg.beamline import config as beamline
from offbragg.beamline.limits import lacking_room, make_paths
from offbragg.errors import ConfigError, GeometryError, SweepError
from offbragg.plans import estimate
from offbragg.plans.defaults import Defaults
from offbragg.plans.estimate import Estimate, coverage, same_axes
from offbragg.sweep import Sweep

TURN = Sweep("phi", start=0.0, step=0.1, n_frames=3600, exposure=0.097, period=0.1)


@pytest.fixture(scope="module")
def geometry():
    """phi in chi in omega; a small panel beside the beam."""
    file = beamline.profile_directory() / "beamline.toml"
    known = beamline.load(file).make_geometry()
    return replace(known, panel=replace(known.panel, origin=(60.0, 17.4752, 100.0)))


def test_at_chi_0_other_settings_of_omega_add_exactly_nothing(geometry):
    total = estimate(
        TURN, geometry=geometry, settings=[{"omega": 0.0}, {"omega": 15.0}, {"omega": -15.0}]
    )

    assert total.added[0] > 0.01
    assert total.added[1:] == (0.0, 0.0)
    assert total.coverage == total.added[0]
    assert total.notes[0].startswith("omega and phi are the same axis at chi = 0: another omega")
    assert "phi 0 to 360 at omega = 15 adds nothing" in total.notes[1]
    assert "% of reciprocal space" in str(total)


def test_at_chi_90_they_add_something(geometry):
    total = estimate(
        TURN, geometry=geometry,
        settings=[{"chi": -90.0, "omega": omega} for omega in (0.0, 15.0, -15.0)],
    )  # fmt: skip

    assert min(total.added[1:]) > 0.001
    assert total.notes == ()
    assert total.sweeps == 3
    assert total.frames == 3 * 3600


def test_a_second_full_turn_adds_nothing_and_half_a_turn_adds_less(geometry):
    half = replace(TURN, n_frames=1800)

    first, second, again = coverage(geometry, [half, replace(half, start=180.0), TURN])

    assert first > 0
    assert second > 0
    assert again == 0.0


def test_an_axis_inside_the_scan_axis_may_be_the_same_too(geometry):
    turned = replace(geometry, scan_axis="omega")

    assert same_axes(turned) == ("phi",)
    chi = replace(turned.axes[1], angle=-90.0)
    assert same_axes(replace(turned, axes=(turned.axes[0], chi, turned.axes[2]))) == ()


def test_nothing_is_guessed_without_a_geometry():
    assert estimate(TURN).coverage is None
    with pytest.raises(SweepError, match="settings need a geometry"):
        estimate(TURN, settings=[{"omega": 15.0}])


def test_a_setting_of_an_unknown_axis_is_refused_by_name(geometry):
    with pytest.raises(
        SweepError, match="setting 'kappa' is not an axis: there are phi, chi, omega"
    ):
        estimate(TURN, geometry=geometry, settings=[{"kappa": 1.0}])


def test_stills_cover_no_volume(geometry):
    with pytest.raises(GeometryError, match="stands still"):
        estimate(replace(TURN, step=0.0), geometry=geometry)


def test_an_estimate_takes_what_a_plan_takes_and_promises_no_bytes_of_an_unknown_detector():
    total = estimate(TURN.to_dict(), TURN)

    assert total.frames == 7200
    assert "frame files" not in str(total)


def test_a_small_sweep_takes_kilobytes_and_not_no_gigabytes():
    total = Estimate(sweeps=1, frames=2, seconds=1.0, bytes=80_000)

    assert str(total) == "1 sweep, 2 frames, 0 h 00 min 01 s, at most 80.0 kB of frame files"


def test_a_list_of_sweeps_or_a_single_setting_is_refused_in_words(geometry):
    with pytest.raises(SweepError, match="it must be a Sweep, or a mapping"):
        estimate([TURN])
    with pytest.raises(SweepError, match="settings is one setting"):
        estimate(TURN, geometry=geometry, settings={"omega": 15.0})


def test_what_cannot_be_estimated_is_refused():
    class Omega:
        name = "omega"

    with pytest.raises(SweepError, match="temperatures is 300: it must be a list"):
        estimate(TURN, temperatures=300)
    with pytest.raises(SweepError, match="turns 'phi' but the axis given is 'omega'"):
        estimate(TURN, axis=Omega())


class Detector:
    name = "pilatus"
    trigger_mode = "ext_trigger"

    def check(self, sweep):
        pass

    def frame_bytes(self):
        return 1_000_000


PHI, CRYO = SimpleNamespace(name="phi"), SimpleNamespace(name="cryostream")
COMPARE = SimpleNamespace(name="compare", gives_pulses=True)


@pytest.mark.parametrize(
    ("what", "given"),
    [
        ((Detector(), PHI, TURN), {"flyers": [COMPARE], "shutter": None, "permit": None}),
        ((TURN,), {"detector": Detector(), "axis": PHI, "flyers": [COMPARE]}),
        ((), {"sweep": TURN, "detector": Detector(), "flyers": [COMPARE], "md": {"a": 1}}),
        ((TURN,), {"defaults": Defaults({"phi": PHI}, detector=Detector(), axis=PHI,
                                        flyers=(COMPARE,))}),
    ],
)  # fmt: skip
def test_an_estimate_takes_exactly_what_the_plan_takes(what, given):
    total = estimate(*what, **given)

    assert (total.sweeps, total.frames, total.bytes) == (1, 3600, 3_600_000_000)


@pytest.mark.parametrize(
    ("what", "given"),
    [
        (([300, 200], TURN), {"reference": 300, "both_ways": True, "on_detector": "skip"}),
        (([300, 200, 300], [TURN]), {}),
        ((Detector(), PHI, CRYO, [300, 200, 300], [TURN]), {"flyers": [COMPARE]}),
        ((TURN,), {"temperatures": [1, 2, 3], "order": "warming"}),
    ],
)
def test_an_estimate_takes_what_a_series_takes(what, given):
    total = estimate(*what, settling=100.0, **given)

    assert (total.sweeps, total.frames) == (3, 10800)
    assert total.seconds == pytest.approx(3 * 360.0 + 3 * 100.0)


def test_an_estimate_refuses_what_the_plan_would():
    with pytest.raises(SweepError, match="no device would give any"):
        estimate(Detector(), PHI, TURN)
    with pytest.raises(
        SweepError,
        match=r"estimate has no parameter 'shuter' \(did you mean 'shutter'\?\): it has detector",
    ):
        estimate(TURN, shuter=None)
    with pytest.raises(SweepError, match="was given no sweep"):
        estimate(detector=Detector())


@pytest.fixture
def on_disks(tmp_path, monkeypatch):
    """Return the defaults of a beamline whose disks have this room, GB."""
    text = (beamline.profile_directory() / "beamline.toml").read_text()
    file = tmp_path / "beamline.toml"
    file.write_text(text)
    config = beamline.load(file)
    make_paths(config)

    class Pilatus(Detector):
        trigger_mode = "internal"

        def hardware(self):
            return {"shape": [1000, 1000], "format": "cbf"}

    def room_of(gigabytes):
        free = int((gigabytes + config.limits.free_disk) * 1e9)
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr("offbragg.beamline.limits.shutil.disk_usage", lambda _: usage)
        lacks = partial(lacking_room, config)
        return Defaults({"phi": PHI}, detector=Pilatus(), axis=PHI, lacks=lacks)

    return room_of


def test_a_sweep_that_a_disk_has_no_room_for_is_refused_as_the_plan_does(on_disks):
    # 3600 frames of 1.2 MB, as files and in the scan file
    with pytest.raises(
        ConfigError,
        match=r"^too little disk for the sweep: .* GB free in .*, 8\.64 GB needed and",
    ):
        estimate(TURN, defaults=on_disks(8.6))

    assert estimate(TURN, defaults=on_disks(8.7)).notes == ()


@pytest.mark.parametrize("what", [(TURN, TURN, TURN), ([300, 200, 100], TURN)])
def test_sweeps_that_do_not_fit_together_are_estimated_with_a_note(on_disks, what):
    total = estimate(*what, defaults=on_disks(20.0))

    (note,) = total.notes
    assert note.startswith("too little disk for all 3 sweeps: ")
    assert "25.92 GB needed" in note
    assert note in str(total)
    assert estimate(*what, defaults=on_disks(26.0)).notes == ()
