"""Volumes of other programs in the catalog, once they are converted."""

from __future__ import annotations

import io

import numpy as np
import pytest
from catalog.test_volumes import published
from files.test_other_volumes import write_mantid, write_meerkat, write_scatty

from offbragg.workflows.convert import convert

WRITTEN = {
    "mantid": (write_mantid, "m.nxs", "Mantid"),
    "yell": (write_meerkat, "m.h5", "meerkat"),
    "hkl list": (write_scatty, "s_sc_list.txt", "Scatty"),  # without a unit cell
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_converted_volume_is_served_and_says_that_its_frames_are_not_known(
    server, http, cat, kind
):
    write, name, program = WRITTEN[kind]
    folder = server.root / f"converted-{name}"
    folder.mkdir()
    path, found, volume = convert(write(folder / name), "offbragg")
    assert found == kind

    key = published(server, path)

    served = cat.volumes[key]["intensity"][:].T  # the catalog has [l, k, h]
    np.testing.assert_array_equal(served, volume.intensity.astype(np.float32))
    plane = http.get(f"/volumes/{key}/plane?plane=hk0.75&format=npy")
    assert plane.status_code == 200, plane.text
    assert np.nanmax(np.load(io.BytesIO(plane.content))) == 7.0
    asked = http.get(f"/volumes/{key}/why?hkl=1,-0.5,0.75")
    assert asked.status_code == 409
    assert f"it was converted from {name}, a volume of {program}" in asked.text
