"""How ``catalog.tar.xz`` was made: run with the sources of commit 67cc690 (29 November 2026).

    git archive 67cc690 | tar x -C OLD
    cd OLD && PYTHONPATH=src:tests python .../make.py /tmp/offbragg-old OUT/catalog.tar.xz

That commit served SQLite only, and had no searched tables, no one-time links and no named keys.
"""

import sys
import tarfile
import uuid
from pathlib import Path

import numpy as np
from catalog.served import Documents, PublishedRun, Server

from offbragg.catalog.client import connect
from offbragg.catalog.volumes import publish_volume
from offbragg.files.volume_writer import write_volume
from offbragg.grid import Grid
from offbragg.sample import Sample
from offbragg.volume import Volume

UIDS = [str(uuid.UUID(int=n, version=4)) for n in range(1, 8)]

root, out = Path(sys.argv[1]), Path(sys.argv[2])
(root / "experiment").mkdir(parents=True)
server = Server.start(root / "catalog", root / "experiment")
cat = connect(server.url, server.key)
host, _, port = server.url.removeprefix("http://").partition(":")
for n, kelvin in enumerate((90.0, 95.0, 120.0)):
    run = PublishedRun(
        root / "experiment" / f"sweep{n}", client=cat, temperature=kelvin, uid=UIDS[n], n_frames=4
    )
    run.began = 1.76e9 + 3600.0 * n
    run.begin()
    run.create_scan_file()
    run.store(0, 2)
    run.scan.mark(3, "missing", "x_00003.cbf was not there 5 s after it was due")
    run.scan.mark(1, "rejected", "x_00001.cbf does not have the checksum that it declares")
    run.monitor_counted(list(range(4)))
    run.announce(4)
    run.finish()
    run.open()
    assert run.feed()
    run.journal.close()
one = Documents(
    cat,
    root / "experiment" / "count",
    time=1.77e9,
    scan_id=7,
    plan_name="count",
    sample={"name": "LSMO-140", "label": "c1"},
    note="walrus",
)
one.stream({"x": [1.0, 2.0, 3.5], "y": [3, 4, 5]}).stop().publish()
one.journal.close()
grid = Grid.parse("-1:1:0.25,-1:1:0.25,-1:1:0.25")
counts = np.arange(grid.shape[0] * grid.shape[1] * grid.shape[2], dtype=np.float64)
sample = Sample("LSMO-140", "c1", lattice=(4.0, 4.0, 4.0, 90.0, 90.0, 90.0))
volume = Volume(counts.reshape(grid.shape), np.ones(grid.shape), grid, sample=sample)
record = {"temperature": 90.0, "inputs": [{"run": UIDS[0], "file": "f1.h5"}]}
path = write_volume(root / "experiment" / "volume.h5", volume, record)
print(publish_volume(path, host=host, port=int(port), key=server.key))
server.process.terminate()
server.process.wait()
with tarfile.open(out, "w:xz") as tar:
    tar.add(root, arcname=".", filter=lambda i: None if i.name.endswith((".log", "lock")) else i)
print(out.stat().st_size, "bytes")
