"""What must not be measured is refused while nothing has moved."""

from __future__ import annotations

import pytest

from offbragg.errors import MetadataError, SweepError
from offbragg.plans import rotation_scan, temperature_series
from offbragg.sweep import Sweep

pytestmark = pytest.mark.ioc

SWEEP = Sweep(axis="phi", start=0.0, step=0.5, n_frames=10, exposure=0.097, period=0.1)


def test_a_sweep_about_another_axis_than_the_one_that_turns(RE, devices):
    with pytest.raises(SweepError, match="turns 'phi' but the axis given is 'omega'"):
        RE(rotation_scan(devices["pilatus"], devices["omega"], SWEEP))


@pytest.mark.parametrize(
    ("md", "message"),
    [({"sample": {"label": "c1"}}, "sample.name"), ({"attenuation": "a bit"}, "attenuation")],
)
def test_a_series_whose_start_documents_are_wrong_sets_no_temperature(RE, devices, md, message):
    cryostream = devices["cryostream"]
    before = cryostream.target.get(use_monitor=False)

    with pytest.raises(MetadataError, match=message):
        RE(
            temperature_series(
                devices["pilatus"], devices["phi"], cryostream, [before + 20.0], [SWEEP], md=md
            )
        )

    assert cryostream.target.get(use_monitor=False) == before


@pytest.mark.parametrize("given_as", ["md of the plan", "RE.md", "an argument of RE"])
def test_a_series_that_could_never_be_published_sets_no_temperature(RE, devices, given_as):
    cryostream = devices["cryostream"]
    before = cryostream.target.get(use_monitor=False)
    bad = {"comment": {"count": 2**70}}
    plan = temperature_series(
        devices["pilatus"], devices["phi"], cryostream, [before + 20.0], [SWEEP],
        md=bad if given_as == "md of the plan" else {},
    )  # fmt: skip

    try:
        RE.md.update(bad if given_as == "RE.md" else {})
        with pytest.raises(MetadataError, match=r"^comment.count is 1180591620717411303424: "):
            RE(plan, **(bad if given_as == "an argument of RE" else {}))
    finally:
        RE.md.pop("comment", None)

    assert cryostream.target.get(use_monitor=False) == before
