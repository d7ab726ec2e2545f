"""Order parameter of the simulated crystal: Tc = 150 K, β = 0.33."""

from __future__ import annotations

import json

import numpy as np
import pytest
from measured import AS_SIMULATED, Measured
from typer.testing import CliRunner

from offbragg.cli import app
from offbragg.errors import ReductionError
from offbragg.order import find_sweeps, fit_series, order_parameter
from offbragg.recipe import Choices
from sim_iocs import crystal

AT = (-1.5, 0.5, -0.5)
TEMPERATURES = (60, 80, 100, 115, 125, 132, 138, 142, 145, 147, 149, 151, 154, 160, 170, 190)


def sweep_at(kelvin: float, *, seconds: float = 1.0) -> Measured:
    probe = Measured(n_frames=360, step=1.0)
    _, _, z, _ = probe.geometry.predict([AT], probe.UB, probe.sweep)
    first = float(np.round(z[0])) - 12.0
    return Measured(
        n_frames=60, step=0.4, first=first, temperature=kelvin, seconds=seconds,
        series=int(kelvin * 10),
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series")
    for kelvin in TEMPERATURES:
        sweep_at(kelvin).write(folder / f"{kelvin}K")
    sweep_at(60).mask_file(folder)
    return folder


def test_the_transition_of_the_simulated_crystal(folder):
    choices = Choices(
        corrections=AS_SIMULATED, background="none", mask=folder / "beamstop.npy", hot=False
    )

    found = order_parameter(find_sweeps([folder]), AT, choices=choices)

    print(found.table())
    assert abs(found.Tc - crystal.TC) < 0.5
    assert abs(found.beta - crystal.BETA) < 0.05
    assert 0 < found.Tc_error < 0.5
    assert 0 < found.beta_error < 0.05
    kappa = {f.temperature: f.kappa for f in found.fits}
    assert kappa[151] == pytest.approx(crystal.inverse_correlation_length(151), rel=0.4)
    assert kappa[151] < kappa[170]


def test_typed(folder, tmp_path):
    few = [str(folder / f"{kelvin}K") for kelvin in TEMPERATURES[::3]]
    typed = ["series", *few, "--at=-1.5,0.5,-0.5", "--no-efficiency", "--background",
             "none", "--mask", str(folder / "beamstop.npy"),
             "--out", str(tmp_path / "order.png")]  # fmt: skip

    done = CliRunner().invoke(app, [*typed, "--json"], catch_exceptions=False)

    told = json.loads(done.output)
    assert abs(told["Tc"] - crystal.TC) < 2.0
    assert len(told["fits"]) == len(few)
    assert (tmp_path / "order.png").read_bytes()[:4] == b"\x89PNG"


def test_too_little_is_refused(folder, tmp_path):
    with pytest.raises(ReductionError, match="no sweep with a temperature"):
        find_sweeps([tmp_path])
    with pytest.raises(ReductionError, match="no sweep with a temperature"):
        find_sweeps([folder], series="another")
    with pytest.raises(ReductionError, match="at least 5 temperatures"):
        fit_series({}, AT)
