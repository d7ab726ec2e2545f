"""Runs NXRefine, as it is, on a tree of offbragg: ``drive_nxrefine.py TREE SCAN_DIRECTORY``.

Maximum, peaks, refinement of the orientation, and the settings of the transform; ``seen.json`` in
the tree has what was seen.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

LAST, THRESHOLD, POLAR_MAX, TOLERANCE = 60, 60, 60.0, 0.1


def main(tree: Path, directory: Path) -> None:
    server = tree.parent / "nxserver"
    server.mkdir(exist_ok=True)
    os.environ["NX_SERVER"] = str(tree.parent)
    from nxrefine.nxsettings import NXSettings

    settings = NXSettings(server, create=True)
    settings.set("server", "concurrent", "spawn")
    settings.set("instrument", "instrument", "offbragg")
    settings.save()
    (tree / "tasks").mkdir(exist_ok=True)
    NXSettings(tree / "tasks", create=True)
    from nxrefine.nxreduce import NXReduce
    from nxrefine.nxrefine import NXRefine

    seen: dict[str, object] = {}
    common = {"first": 0, "last": LAST, "overwrite": True}
    NXReduce("f1", directory, maxcount=True, **common).nxmax()
    reduce = NXReduce("f1", directory, find=True, threshold=THRESHOLD, min_pixels=5, **common)
    entry = reduce.root["f1"]
    seen["beamline"] = reduce.beamline.name
    seen["monitor"] = [float(x) for x in reduce.read_monitor()]
    seen["maximum"] = float(entry["data"].attrs["maximum"])
    # it counts no pixel of the mask, nor outside the ring of Q in which it sums transmission
    excluded = (reduce.pixel_mask != 0) | reduce.transmission_coordinates()
    np.save(tree / "excluded.npy", excluded)
    radial = entry["radial_sum"]
    brightest = int(radial.nxsignal.nxdata.argmax())
    seen["radial_degree"] = float(radial["polar_angle"].nxdata[brightest])
    seen["radial_least"] = float(radial.nxsignal.nxdata.min())
    reduce.beamline.read_logs()
    seen["logs"] = sorted(reduce.root["f1/instrument/logs"])
    reduce.nxfind()
    seen["peaks"] = int(reduce.root["f1/peaks/x"].size)
    NXReduce(
        "f1", directory, refine=True, lattice=False, overwrite=True, polar_max=POLAR_MAX,
        hkl_tolerance=TOLERANCE,
    ).nxrefine()  # fmt: skip
    refine = NXRefine(NXReduce("f1", directory).root["f1"])
    refine.read_parameters()
    seen["angles"] = {name: float(getattr(refine, name)) for name in ("chi", "omega", "theta")}
    seen["UB"] = refine.UBmat.tolist()
    seen["hkl"] = [[float(x) for x in refine.hkl(i)] for i in range(seen["peaks"])]
    refine.h_start, refine.h_step, refine.h_stop = -3.0, 0.05, 3.0
    refine.k_start, refine.k_step, refine.k_stop = -3.0, 0.05, 3.0
    refine.l_start, refine.l_step, refine.l_stop = -3.0, 0.05, 3.0
    refine.define_grid()
    refine.write_settings(tree / "transform.pars")
    seen["settings"] = (tree / "transform.pars").read_text()
    (tree / "seen.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
