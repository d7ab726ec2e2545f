"""The client is light: few imports, none of a beamline, none that only POSIX systems have."""

from __future__ import annotations

import subprocess
import sys

REFUSED = (
    "bluesky", "ophyd", "tiled", "caproto", "epics", "databroker", "event_model", "pandas", "h5py",
    "scipy", "matplotlib", "dask", "IPython", "websockets", "pydantic", "sqlalchemy",
    "fcntl", "pwd", "grp", "resource", "termios",  # which Windows does not have
)  # fmt: skip

CODE = f"""
import sys, time
sys.modules.update(dict.fromkeys({REFUSED!r}))  # an import of one of them fails
begun = time.process_time()
import offbragg
light = time.process_time() - begun
assert "numpy" not in sys.modules
connect = offbragg.connect
print(light, time.process_time() - begun)
import numpy as np
from offbragg.catalog.sent_cuts import SentCut
from offbragg.remote.frames import Sums
from offbragg.remote.sent_ledger import SentLedger
from offbragg.remote.series import OrderParameter
from offbragg.remote.tables import as_table
table = as_table({{"x": [1.0, None], "s": ["a", "b"]}}, "x")
assert list(table) == ["x", "s"] and np.isnan(table["x"][1]) and table["s"][0] == "a"
row = np.zeros(2)
cut = SentCut(np.zeros((2, 2), np.float32), (row, row), ((1, 0, 0), (0, 1, 0)), (0, 0, 0), 1)
order = OrderParameter((0.5, 0.5, 0.5), row, row, row, ("a", "b"), (False, False))
shown = [cut, Sums(row, row, row), SentLedger.read({{"status": []}}, "uid"), order]
assert [each._repr_png_() for each in shown] == [None] * 4  # and no traceback
"""


def test_connecting_loads_numpy_and_httpx_only_and_in_less_than_a_second():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    light, connected = map(float, done.stdout.split())
    assert light < 0.1  # s of this process
    assert connected < 1.0
