# pyright: reportArgumentType=false, reportOptionalMemberAccess=false, reportMissingImports=false
# pyright: reportAttributeAccessIssue=false
"""A beamline of NXRefine: where it finds monitor and logs of a sweep that offbragg stacked.

NXRefine finds it by the entry point ``nxrefine.beamlines``; ``instrument = offbragg`` in its
``settings.ini`` chooses it. Wrapper and parent are there when a sweep ends, so nothing is imported.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from nexusformat.nexus import NeXusError, NXcollection, NXfield, NXinstrument
from numpy.typing import NDArray
from nxrefine.nxbeamline import NXBeamLine

from offbragg.files.nxrefine import write_wrapper
from offbragg.files.scan_file import ScanFile


class OffbraggBeamline(NXBeamLine):
    """Sweeps of any beamline that runs offbragg."""

    name = "offbragg"
    source_name = "offbragg"  # the wrapper has the beamline's own
    make_scans_enabled = False
    import_data_enabled = False

    @property
    def scan_file(self) -> Path:
        """The scan file of the rotation that is reduced."""
        return Path(self.directory) / f"{self.entry.nxname}.h5"

    def load_data(self, *_: Any, **__: Any) -> bool:
        """Bring wrapper and parent up to date; return whether the frames are there."""
        if not self.scan_file.is_file():
            return False
        write_wrapper(self.scan_file)
        return True

    def read_logs(self) -> None:
        """Write the columns and the start document of the sweep as ``instrument/logs``."""
        if not self.scan_file.is_file():
            raise NeXusError(f"{self.scan_file} is not there")
        with ScanFile.open(self.scan_file) as scan:
            columns = scan.frame_values()
            start = json.dumps(scan.start, sort_keys=True, default=str)
        logs = NXcollection()
        for name, values in columns.items():
            # HDF5 has no fixed length of Unicode
            logs[name] = NXfield(values.astype("S") if values.dtype.kind in "OSU" else values)
        logs["start_document"] = start
        with self.reduce:
            if "instrument" not in self.entry:
                self.entry["instrument"] = NXinstrument()
            if "logs" in self.entry["instrument"]:
                del self.entry["instrument/logs"]
            self.entry["instrument/logs"] = logs

    def read_monitor(self, monitor: str | None = None) -> NDArray[np.float64]:
        """Return the weight of each frame: monitor / its mean, 0 for frames that do not count.

        It is not smoothed, as NXRefine smooths that of its own beamlines: a frame without beam must
        not get the weight of its neighbours.
        """
        return np.asarray(self.entry["data/monitor_weight"].nxvalue, float)
