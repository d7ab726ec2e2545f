"""``offbragg init`` asks the IOCs, writes what they say, and guesses nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pexpect
import pytest

from offbragg.beamline.config import ChannelAccess, load
from offbragg.beamline.init import Wanted, describe, named_prefixes, unfinished, write_beamline
from offbragg.doctor.examine import examine
from offbragg.errors import ConfigError, DeviceError

WANTED = Wanted(
    "SIM:cam1:", {"phi": "SIM:phi", "omega": "SIM:omega"}, {"detx": "SIM:detx"},
    cryostream="SIM:cryo:", monitor="SIM:mcs:", shutter="SIM:shutter:", ring="SIM:ring:current",
)  # fmt: skip
PHYSICS = {
    "sensor_material": '"Si"',
    "sensor_thickness": "0.45",
    "ring_threshold": "10.0",
    "wavelength": "0.7",
    "origin": "[8.3, 17.4, 100.0]",
    "fast": "[-1.0, 0.0, 0.0]",
    "slow": "[0.0, -1.0, 0.0]",
    "vector": "[0.0, 1.0, 0.0]",
}
PILATUS = {
    "Manufacturer_RBV": "Dectris", "Model_RBV": "Pilatus", "MaxSizeX_RBV": 1475,
    "MaxSizeY_RBV": 1679, "HDF1": "NDFileHDF5", "servers": ["10.0.0.5:5064"],
}  # fmt: skip
PHI = {"RTYP": "motor", "DESC": "phi\x1b[2J\nrm", "EGU": "deg", "VELO": 10, "LLM": -10, "HLM": 370}


def filled_in(text: str) -> str:
    """Do what the file asks for: write the values, and remove '# TODO '."""
    for key, value in PHYSICS.items():
        text = re.sub(rf"^# TODO {key} =(?= *#)", f"# TODO {key} = {value}", text, flags=re.M)
    return text.replace("# TODO ", "")


@pytest.mark.ioc
def test_the_file_of_a_new_beamline_loads_and_once_filled_in_passes_the_doctor(ioc, tmp_path: Path):
    out = tmp_path / "new" / "beamline.toml"

    written = write_beamline(WANTED, out, access=ChannelAccess())

    config = load(out)  # also before it is filled in
    assert config.make_geometry() is None
    assert "sensor_thickness" not in config.devices["pilatus"].parameters
    assert config.devices["pilatus"].parameters["model"] == ioc["detector"]["model"]
    assert {key.partition(" ")[0] for key in written.todo} == set(PHYSICS)
    failed = {f.check for f in examine(config, timeout=3.0, make_directories=True)
              if f.level == "failure"}  # fmt: skip
    assert failed == {"configuration", "geometry", "devices.pilatus", "devices.permit"}

    out.write_text(filled_in(out.read_text()))
    findings = list(examine(load(out), timeout=3.0))
    assert [f for f in findings if f.level == "failure"] == []
    assert "frame of pilatus" in [f.check for f in findings]


@pytest.mark.ioc
def test_it_overwrites_nothing_and_writes_nothing_if_a_record_is_silent(ioc, tmp_path: Path):
    out = tmp_path / "beamline.toml"
    wrong = Wanted("SIM:cam1:", {"phi": "SIM:nowhere"})
    with pytest.raises(DeviceError, match=r"phi: SIM:nowhere\.RTYP"):
        write_beamline(wrong, out, access=ChannelAccess(), timeout=0.5)
    assert not out.exists()

    out.write_text("mine")
    with pytest.raises(ConfigError, match="is not overwritten"):
        write_beamline(WANTED, out, access=ChannelAccess())
    assert out.read_text() == "mine"


@pytest.mark.ioc
def test_the_command_searches_the_addresses_that_it_is_given(ioc, tmp_path: Path):
    address = os.environ["EPICS_CA_ADDR_LIST"]
    done = subprocess.run(
        [sys.executable, "-m", "offbragg", "init", "--detector", "SIM:cam1:", "--axis",
         "phi=SIM:phi", "--shutter", "SIM:shutter:open,SIM:shutter:open_RBV", "--address-list",
         address, "--out", str(tmp_path / "b.toml"), "--json"],
        capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
        env={k: v for k, v in os.environ.items() if not k.startswith("EPICS_CA_ADDR")},
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["facts"]["phi"]["EGU"].startswith("deg")
    config = load(document["file"])
    assert config.channel_access.address_list == address
    assert config.devices["shutter"].records["state"] == "SIM:shutter:open_RBV"


def test_what_no_record_knows_is_absent_and_what_they_say_is_in_the_comments():
    text, notes = describe(Wanted("13PIL1:cam1:", {"phi": "IOC:m1"}),
                           {"pilatus": PILATUS, "phi": PHI}, ChannelAccess())  # fmt: skip

    assert notes == []
    assert "# TODO model = " in text
    assert '"PILATUS 2M" or "PILATUS3 X 2M"' in text
    assert "limits -10 to 370; VELO 10" in text
    assert "10.0.0.5:5064" in text
    assert "not used: HDF1" in text
    assert text.replace("\n", "").isprintable()
    tomllib.loads(text)
    # each key says what it is
    assert [line for line in text.splitlines() if "=" in line and "#" not in line] == []


def test_what_is_odd_is_noted():
    odd = {**PHI, "EGU": "mm", "HLM": -10, "SPMG": "Stop"}
    _, notes = describe(Wanted("P:cam1:", {"phi": "IOC:m1"}),
                        {"pilatus": {**PILATUS, "MaxSizeX_RBV": 0}, "phi": odd},
                        ChannelAccess())  # fmt: skip

    assert [note.partition(":")[0] for note in notes] == ["pilatus", "phi", "phi", "phi"]
    assert "is it a rotation" in notes[1]
    assert "SPMG is Stop" in notes[3]


@pytest.mark.parametrize("text", ["phi", "=IOC:m1", "phi=", "2phi=IOC:m1"])
def test_an_axis_that_is_no_pair_is_refused(text):
    with pytest.raises(ConfigError, match="is not NAME=PREFIX"):
        named_prefixes("--axis", [text])


def test_a_name_that_another_device_has_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="shutter is given twice"):
        write_beamline(Wanted("P:", {"shutter": "IOC:m1"}), tmp_path / "b", access=ChannelAccess())


def test_lines_that_have_their_value_but_are_comments_still_are_unfinished():
    assert unfinished("# TODO shape = [1, 2] # slow, fast\n") == ["shape (line 1)"]
    assert unfinished("shape = [1, 2]\n") == []


@pytest.mark.ioc
def test_at_a_terminal_it_asks_for_what_it_needs_and_elsewhere_it_says_so(ioc, tmp_path: Path):
    command = [sys.executable, "-m", "offbragg", "init", "--out", str(tmp_path / "b.toml")]
    silent = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
    )
    assert silent.returncode == 2
    assert "--detector" in silent.stderr

    asked = pexpect.spawn(command[0], command[1:], encoding="utf-8", timeout=60)
    asked.expect("Prefix of the detector")
    asked.sendline("SIM:cam1:")
    asked.expect("Rotation axes")
    asked.sendline("phi=SIM:phi omega=SIM:omega")
    asked.expect("to be filled in: ")
    asked.expect(pexpect.EOF)
    asked.close()

    assert asked.exitstatus == 0
    assert list(load(tmp_path / "b.toml").devices) == ["pilatus", "phi", "omega"]
