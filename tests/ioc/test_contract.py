"""The simulated records against those of a real IOC, record by record.

The tables were taken from a real ADPilatus IOC; they are no part of the repository, so without them
these tests are skipped, and say so. They are looked for in ``$OFFBRAGG_PV_TABLES`` and in
``shared/facts/pv_tables`` beside the repository or one of its parents.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.ioc

AREA_DETECTOR = ("cam1", "image1", "Stats1", "HDF1", "TIFF1", "ROI1", "Proc1")
KINDS = {"DBR_DOUBLE": "double", "DBR_LONG": "long", "DBR_ENUM": "enum", "DBR_STRING": "string",
         "DBR_CHAR": "char", "DBR_FLOAT": "float", "DBR_SHORT": "short"}  # fmt: skip

# what a simulation cannot share with the IOC that was looked at: its stand-in for camserver, its
# memory, its name, and the moment at which it was looked at
OWN_VALUES = {
    "cam1": {
        "Model_RBV", "Manufacturer_RBV", "SerialNumber_RBV", "PixelCutOff_RBV", "TVXVersion_RBV",
        "StringFromServer_RBV", "StringToServer_RBV", "ReadStatus",
    },
}  # fmt: skip


def tables() -> Path | None:
    """Find the folder of tables."""
    given = os.environ.get("OFFBRAGG_PV_TABLES")
    places = [Path(given)] if given else []
    places += [p / "shared" / "facts" / "pv_tables" for p in Path(__file__).resolve().parents]
    return next((place for place in places if place.is_dir()), None)


needs_tables = pytest.mark.skipif(
    tables() is None,
    reason="no shared/facts/pv_tables beside the repository, and OFFBRAGG_PV_TABLES is not set",
)


def table(name: str) -> dict[str, dict[str, Any]]:
    folder = tables()
    assert folder is not None
    return json.loads((folder / f"{name}.json").read_text())


ASK = """
import time
from epics import PV
names = json.load(open({names!r}))
pvs = {{name: PV(name, auto_monitor=False) for name in names}}
limit = time.monotonic() + 60
while time.monotonic() < limit and not all(pv.connected for pv in pvs.values()):
    time.sleep(0.02)
found = {{}}
for name, pv in pvs.items():
    if not pv.connected:
        continue
    meta = pv.get_with_metadata(form="ctrl", use_monitor=False, timeout=20, count=min(pv.nelm, 16))
    kind = pv.type.removeprefix("time_")
    value = meta["value"]
    if kind == "char" and pv.nelm > 1:
        value = pv.get(as_string=True, use_monitor=False, timeout=20)
    labels = [s.decode() if isinstance(s, bytes) else s for s in meta.get("enum_strs") or ()]
    found[name] = dict(
        type=kind, count=pv.nelm, labels=labels, units=meta.get("units") or "",
        precision=meta.get("precision"),
        value=value.tolist() if hasattr(value, "tolist") else value,
    )
json.dump(found, open({answer!r}, "w"))
print("{{}}")
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What a fresh IOC of the same detector size answers for every record of the tables."""
    import subprocess
    import sys
    import time

    folder = tmp_path_factory.mktemp("contract")
    ready = folder / "ready.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "sim_iocs", "--detector", "2M", "--ready", str(ready)],
        stdout=subprocess.DEVNULL,
    )
    try:
        limit = time.monotonic() + 60
        while not ready.exists():
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.02)
        announced = json.loads(ready.read_text())
        names = [f"SIM:{group}:{name}" for group in AREA_DETECTOR for name in table(group)]
        names += [f"SIM:phi{field}" for field in table("motor_m1_fields")]
        controllers = table("temperature_controllers")
        names += [f"SIM:cryo:{name}" for name in controllers["Oxford_CS800.db"]]
        names += [f"SIM:ls:{name}" for name in controllers["LakeShore336.db"]]
        (folder / "names.json").write_text(json.dumps(names))
        script = ASK.format(names=str(folder / "names.json"), answer=str(folder / "answer.json"))
        done = subprocess.run(
            [sys.executable, "-c", f"import json\n{script}"],
            env=os.environ | announced["environment"],
            capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        yield json.loads((folder / "answer.json").read_text())
    finally:
        process.terminate()
        process.wait(10)


def differences(row: dict[str, Any], found: dict[str, Any] | None, *, value: bool) -> list[str]:
    """Return in what a record differs from the real one."""
    if found is None:
        return ["is not there"]
    wrong = []
    if found["type"] != KINDS[row["dtype"]]:
        wrong.append(f"type {found['type']}, not {KINDS[row['dtype']]}")
    if found["count"] != row["count"]:
        wrong.append(f"count {found['count']}, not {row['count']}")
    # ADCore leaves the labels of some commands empty; a put by label needs them to differ
    if any(row.get("enums") or []) and found["labels"] != row["enums"]:
        wrong.append(f"labels {found['labels']}, not {row['enums']}")
    if row["dtype"] == "DBR_DOUBLE" and found["precision"] != row["precision"]:
        wrong.append(f"precision {found['precision']}, not {row['precision']}")
    if row["dtype"] in ("DBR_DOUBLE", "DBR_LONG") and found["units"] != (row["units"] or ""):
        wrong.append(f"units {found['units']!r}, not {row['units']!r}")
    if value and (row["count"] == 1 or row["dtype"] == "DBR_CHAR"):
        real, here = row["value"], found["value"]
        same = here == pytest.approx(real) if isinstance(real, float) else here == real
        if not same:
            wrong.append(f"value {here!r}, not {real!r}")
    return wrong


@needs_tables
@pytest.mark.parametrize("group", AREA_DETECTOR)
def test_every_record_is_as_in_the_real_ioc(answers, group):
    real = table(group)

    wrong = {
        name: differing
        for name, row in real.items()
        if (
            differing := differences(
                row,
                answers.get(f"SIM:{group}:{name}"),
                value=name not in OWN_VALUES.get(group, ()),
            )
        )
    }

    assert len(real) > 130
    assert wrong == {}


@needs_tables
def test_every_motor_field_is_as_in_the_real_ioc(answers):
    real = table("motor_m1_fields")

    wrong = {
        field: differing
        for field, row in real.items()
        if (differing := differences(row, answers.get(f"SIM:phi{field}"), value=False))
    }

    assert len(real) == 162
    assert wrong == {}


@needs_tables
@pytest.mark.parametrize(
    ("prefix", "database", "n_records"),
    [("cryo:", "Oxford_CS800.db", 85), ("ls:", "LakeShore336.db", 128)],
)
def test_every_record_of_a_temperature_controller_is_there(answers, prefix, database, n_records):
    kinds = {"ai": "double", "ao": "double", "calcout": "double", "mbbo": "enum", "mbbi": "enum",
             "bo": "enum", "bi": "enum", "stringin": "string", "stringout": "string"}  # fmt: skip
    real = table("temperature_controllers")[database]

    wrong = {}
    for name, row in real.items():
        found = answers.get(f"SIM:{prefix}{name}")
        expected = kinds.get(row["record_type"])
        if found is None:
            wrong[name] = "is not there"
        elif expected is not None and found["type"] != expected:
            wrong[name] = f"type {found['type']}, not {expected}"
        elif row.get("enums") and found["labels"] != row["enums"]:
            wrong[name] = f"labels {found['labels']}, not {row['enums']}"

    assert len(real) == n_records
    assert wrong == {}


# -- ophyd's classes; no tables are needed for these

AT_ONCE = {"lazy_wait_for_connection": False}  # not signal by signal


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("ImagePlugin_V35", "image1"), ("HDF5Plugin_V35", "HDF1"), ("TIFFPlugin_V35", "TIFF1"),
        ("StatsPlugin_V35", "Stats1"), ("ROIPlugin_V35", "ROI1"),
    ],
)  # fmt: skip
def test_the_classes_of_ophyd_connect_with_all_their_signals(ioc, kind, name):
    from ophyd.areadetector import plugins

    base = getattr(plugins, kind)
    plugin = type(kind, (base,), AT_ONCE)(f"{ioc['prefix']}{name}:", name=name)

    plugin.wait_for_connection(all_signals=True, timeout=60)

    assert plugin.connected
    plugin.destroy()


@pytest.mark.parametrize(
    ("kind", "group", "missing"),
    [
        ("ProcessPlugin_V35", "Proc1", ["high_clip", "low_clip"]),
        ("PilatusDetectorCam", "cam1", ["pool_max_buffers"]),
    ],
)
def test_a_class_of_ophyd_connects_without_what_the_real_ioc_does_not_have_either(
    ioc, kind, group, missing
):
    from ophyd.areadetector import cam, plugins

    base = getattr(plugins if group == "Proc1" else cam, kind)
    device = type(kind, (base,), AT_ONCE | dict.fromkeys(missing))(
        f"{ioc['prefix']}{group}:", name="device"
    )

    device.wait_for_connection(all_signals=True, timeout=60)

    assert device.connected
    device.destroy()
