"""What is being measured grows in NeXpy's tree, and a plot of it shows the newest frame."""

# pyright: reportArgumentType=false, reportOptionalMemberAccess=false, reportMissingImports=false
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import logging
import threading
from typing import Any

from nexpy.gui.plotview import plotviews
from nexusformat.nexus import NXentry
from qtpy import QtCore

from offbragg.errors import OffbraggError
from offbragg.nexpy.arrays import array_behind
from offbragg.nexpy.tree import Growth, as_entry, as_root, grow, root_name
from offbragg.remote.connection import Connection
from offbragg.remote.run import Run

_EVERY = 2.0  # s
_RUNNING = "running"

log = logging.getLogger(__name__)


class Following(QtCore.QObject):
    """Asks a catalog every 2 s, in a thread, and brings the tree up to date in NeXpy's own.

    Parameters
    ----------
    catalog
        The catalog.
    tree
        NeXpy's tree.
    """

    _came = QtCore.Signal(object)

    def __init__(self, catalog: Connection, tree: Any, parent: Any = None) -> None:
        super().__init__(parent.mainwindow if parent is not None else None)
        self._catalog = catalog
        self._tree = tree
        self._open: dict[str, Run] = {}
        newest = list(catalog.runs()[-1:])
        self._since = max((run.row["time"] for run in newest), default=0.0)
        self._open.update((run.uid, run) for run in catalog.runs(status=_RUNNING))
        self._known = {run.uid for run in newest}
        self._ended = threading.Event()
        self._came.connect(self._show)
        self._thread = threading.Thread(target=self._ask, name="offbragg-nexpy", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._ended.set()

    def _ask(self) -> None:
        while not self._ended.wait(_EVERY):
            try:
                for run in self._catalog.runs(since=self._since):
                    self._since = max(self._since, run.row["time"])
                    if run.uid not in self._known:
                        self._open[run.uid] = run
                        self._known.add(run.uid)
                for uid, run in list(self._open.items()):
                    growth = Growth.ask(run.refresh())
                    if run.state != _RUNNING and run.ledger.complete:
                        del self._open[uid]
                    if growth.shape[0]:
                        self._came.emit(growth)
            except OffbraggError as error:  # away: it is asked again
                log.info("the catalog is not followed: %s", str(error).partition("\n")[0])

    def _show(self, growth: Growth) -> None:
        run = growth.run
        name = root_name(run.sample, run.temperature)
        if name not in self._tree:
            self._tree[name] = as_root([run])
            entry = self._tree[name]["f1"]
        elif (entry := entry_of(self._tree[name], run.uid)) is None:
            entry = add_entry(self._tree[name], run)
        elif not grow(entry, growth):
            return
        self._tree.set_changed()
        show_newest(entry)


def entry_of(root: Any, uid: str) -> NXentry | None:
    """Return the entry of a run in a root; None if it has none."""
    for name in root:
        if "offbragg" in root[name] and str(root[name]["offbragg/uid"]) == uid:
            return root[name]
    return None


def add_entry(root: Any, run: Run) -> NXentry:
    """Add a run to its root, as the next one."""
    number = 1 + max((int(name[1:]) for name in root if name[1:].isdigit()), default=0)
    root[f"f{number}"] = as_entry(run)
    return root[f"f{number}"]


def show_newest(entry: NXentry) -> None:
    """Show the newest frame in each window that shows frames of this entry."""
    array = array_behind(entry["data"].nxsignal)
    for view in list(plotviews.values()):
        signal = getattr(getattr(view, "data", None), "nxsignal", None)
        if signal is None or array_behind(signal) is not array:
            continue
        view.plot(entry["data"])
        view.zaxis.lo = view.zaxis.hi = float(array.shape[0] - 1)
        view.ztab.set_axis(view.zaxis)
        view.replot_data()
