"""NeXpy's dialogue of a catalog: samples, temperatures, runs; what is chosen is opened."""

# pyright: reportArgumentType=false, reportOptionalMemberAccess=false, reportMissingImports=false
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from nexpy.gui.plotview import NXPlotView, plotviews
from nexpy.gui.utils import get_mainwindow, report_error
from nexpy.gui.widgets import NXDialog
from qtpy import QtCore, QtWidgets

from offbragg.errors import CatalogError, OffbraggError
from offbragg.nexpy.arrays import array_behind
from offbragg.nexpy.follow import Following
from offbragg.nexpy.scan import region_of, scan
from offbragg.nexpy.tree import as_root, root_name
from offbragg.remote.connection import Connection, connect
from offbragg.remote.run import Run

_LISTED = 500  # runs, the newest
_RUN = QtCore.Qt.ItemDataRole.UserRole
_following: list[Following] = []


def open_catalog() -> None:
    """Show the dialogue."""
    CatalogDialog().show()


def stop_following() -> None:
    """Let everything stay as it is."""
    while _following:
        _following.pop().stop()


def scan_temperatures() -> None:
    """Plot the region that the main window shows against the temperature."""
    window = get_mainwindow()
    view = window.plotview
    try:
        signal = getattr(view.data, "nxsignal", None)
        if signal is None or array_behind(signal) is None:
            raise CatalogError("the plot is not of a catalog\nPlot a volume or frames first.")
        found = scan(window.treeview.tree, signal.nxpath, region_of(view))
        scanned = plotviews.get("Scan") or NXPlotView("Scan")
        scanned.plot(found)
        scanned.make_active()
    except OffbraggError as error:
        report_error("Scanning over temperature", error)


class CatalogDialog(NXDialog):
    """Connect, choose among samples, temperatures and runs, open."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.catalog: Connection | None = None
        self._address = QtWidgets.QLineEdit(os.environ.get("OFFBRAGG_CATALOG", ""))
        self._address.setPlaceholderText("http://127.0.0.1:8000")
        self._key = QtWidgets.QLineEdit(os.environ.get("OFFBRAGG_KEY", ""))
        self._key.setEchoMode(QtWidgets.QLineEdit.EchoMode.Password)
        self._key.setPlaceholderText("as offbragg key made it")
        self._text = QtWidgets.QLineEdit()
        self._text.setPlaceholderText("words anywhere in what is known of a run")
        form = QtWidgets.QFormLayout()
        form.addRow("Address", self._address)
        form.addRow("Key", self._key)
        form.addRow("Search", self._text)
        self.listed = QtWidgets.QTreeWidget()
        self.listed.setHeaderLabels(["Sample, temperature, run", "Frames", "State"])
        self.listed.setColumnWidth(0, 330)
        self.listed.setMinimumSize(560, 320)
        self._message = QtWidgets.QLabel("Not connected.")
        self.follows = QtWidgets.QCheckBox("Follow: what is being measured grows in the tree")
        self.set_layout(
            form,
            self.action_buttons(("Connect", self.connect_catalog)),
            self.listed,
            self._message,
            self.follows,
            self.action_buttons(("Open", self.open_chosen)),
            self.close_layout(close=True),
        )
        self.set_title("Open from a Catalog")

    def connect_catalog(self) -> None:
        """Connect, and list the newest runs."""
        try:
            address, key = self._address.text().strip(), self._key.text().strip()
            self.catalog = connect(address or None, key or None, timeout=5.0)
            words = self._text.text().strip()
            found = self.catalog.runs(text=words) if words else self.catalog.runs()
            self.show_runs(list(found[-_LISTED:]), len(found))
        except OffbraggError as error:
            report_error("Connecting to a catalog", error)

    def show_runs(self, runs: Sequence[Run], total: int) -> None:
        """List runs: by sample, then temperature, in the order in which they were measured."""
        self.listed.clear()
        for sample, of_sample in groupby(sorted(runs, key=_place), key=lambda run: run.sample):
            top = QtWidgets.QTreeWidgetItem(self.listed, [sample or "without a sample"])
            for kelvin, same in groupby(of_sample, key=lambda run: run.temperature):
                label = "no temperature" if kelvin is None else f"{kelvin:g} K"
                middle = QtWidgets.QTreeWidgetItem(top, [label])
                for run in same:
                    frames = run.row.get("frames") or {}
                    row = [
                        f"#{run.scan_id} {run.uid[:8]}",
                        f"{frames.get('stored', 0)} of {run.row.get('n_frames') or 0}",
                        run.state,
                    ]
                    item = QtWidgets.QTreeWidgetItem(middle, row)
                    item.setData(0, _RUN, run)
            top.setExpanded(True)
        self.listed.setSelectionMode(QtWidgets.QAbstractItemView.SelectionMode.ExtendedSelection)
        shown = "" if total <= len(runs) else f", the newest {len(runs)} are listed"
        self._message.setText(f"{total} runs{shown}. Choose samples, temperatures or runs.")

    def chosen(self) -> list[Run]:
        """Return the runs that are selected, or lie below what is selected."""
        found: dict[str, Run] = {}
        for item in self.listed.selectedItems():
            for run in _runs_below(item):
                found[run.uid] = run
        return sorted(found.values(), key=_place)

    def open_chosen(self) -> None:
        """Put what is selected into NeXpy's tree, and follow it if that is wanted."""
        runs = [run for run in self.chosen() if run.row.get("n_frames")]
        if not runs:
            self._message.setText("Choose runs that have frames.")
            return
        opened = 0
        try:
            for _, same in groupby(runs, key=_kind):
                group = list(same)
                put_into_tree(group)
                opened += len(group)
        except OffbraggError as error:
            report_error("Opening from a catalog", error)
        self._message.setText(f"{opened} of {len(runs)} runs are in the tree.")
        if self.follows.isChecked() and self.catalog is not None:
            _following.append(Following(self.catalog, get_mainwindow().treeview.tree, self))


def put_into_tree(runs: Sequence[Run]) -> None:
    """Put runs of one sample and temperature into NeXpy's tree; one of the name is replaced."""
    get_mainwindow().treeview.tree[root_name(runs[0].sample, runs[0].temperature)] = as_root(runs)


def _runs_below(item: QtWidgets.QTreeWidgetItem) -> list[Run]:
    run = item.data(0, _RUN)
    if run is not None:
        return [run]
    return [run for n in range(item.childCount()) for run in _runs_below(item.child(n))]


def _kind(run: Run) -> tuple[str, float]:
    return run.sample or "", -1.0 if run.temperature is None else run.temperature


def _place(run: Run) -> tuple[str, float, float]:
    return (*_kind(run), float(run.row.get("time") or 0.0))
