"""Drives NeXpy as a user does: allows the plug-in, opens what a catalog has, plots, scans, follows.

``drive_nexpy.py ADDRESS PICTURES ROOT FRAMES``; the last two are of a run that is measured
meanwhile. With the key in ``$OFFBRAGG_KEY``; ``seen.json`` beside the pictures has what was seen.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nexpy.gui import consoleapp, plotview
from nexpy.gui.utils import NXConfigParser
from nexusformat.nexus import NXroot
from qtpy import QtWidgets

PATIENCE = 60.0  # s


def main(address: str, pictures: Path, growing: str, frames: int) -> None:
    settings = Path.home() / ".nexpy" / "settings.ini"
    settings.parent.mkdir(parents=True, exist_ok=True)
    parser = NXConfigParser(settings)
    if not parser.has_section("plugins"):
        parser.add_section("plugins")
    parser.set("plugins", "offbragg.nexpy", "1")
    with settings.open("w") as file:
        parser.write(file)

    app = consoleapp.NXConsoleApp()
    app.initialize(argparse.Namespace(
        faulthandler=False, filenames=[], restore=False, debug=False, style=None,
    ))  # fmt: skip
    window = app.window
    window.resize(1280, 800)
    window.show()
    process = QtWidgets.QApplication.processEvents

    def until(condition: Callable[[], Any], what: str) -> Any:
        end = time.monotonic() + PATIENCE
        while not (found := condition()):
            if time.monotonic() > end:
                raise TimeoutError(what)
            process()
            time.sleep(0.02)
        return found

    def picture(widget: Any, name: str) -> None:
        for _ in range(20):
            process()
            time.sleep(0.02)
        widget.grab().save(str(pictures / f"{name}.png"))

    seen: dict[str, Any] = {}
    menus = [action.text() for action in window.menu_bar.actions()]
    seen["menu"] = "offbragg" in [name.replace("&", "").lower() for name in menus]
    (menu,) = [a.menu() for a in window.menu_bar.actions() if a.text().lower() == "offbragg"]
    menu.actions()[0].trigger()
    dialog = until(
        lambda: next((d for d in window.dialogs if type(d).__name__ == "CatalogDialog"), None),
        "the dialogue",
    )
    dialog._address.setText(address)
    dialog.connect_catalog()
    until(lambda: dialog.listed.topLevelItemCount(), "runs")
    top = dialog.listed.topLevelItem(0)
    seen["listed"] = {top.text(0): [top.child(n).text(0) for n in range(top.childCount())]}
    top.setSelected(True)
    dialog.follows.setChecked(True)
    picture(dialog, "nexpy-dialogue")
    began = time.monotonic()
    dialog.open_chosen()
    seen["opened_s"] = round(time.monotonic() - began, 2)
    tree = window.treeview.tree
    names = [name for name in tree if isinstance(tree[name], NXroot) and name != "w0"]
    seen["roots"] = sorted(names)
    dialog.close()
    tree.set_changed()

    root = tree[seen["roots"][0]]
    view = plotview.plotviews["Main"]
    began = time.monotonic()
    root["f1/data"].plot(log=True)
    seen["frame_s"] = round(time.monotonic() - began, 2)
    seen["frame_shape"] = list(view.plotdata.nxsignal.shape)
    seen["frame_sum"] = int(root["f1/data/data"][0].nxdata.clip(0).sum())
    picture(window, "nexpy-frame")
    if "transform" in root["entry"]:
        began = time.monotonic()
        root["entry/transform"].plot(log=True)
        seen["plane_s"] = round(time.monotonic() - began, 2)
        n = root["entry/transform"].nxsignal.shape[0]
        axis = view.zaxis
        axis.lo = axis.hi = float(axis.centers[n // 2])
        view.ztab.set_axis(axis)
        view.replot_data()
        picture(window, "nexpy-plane")

        view.otab.home()
        view.set_plot_limits(0.8, 1.2, 0.8, 1.2)
        process()
        began = time.monotonic()
        menu.actions()[1].trigger()
        scanned = until(lambda: plotview.plotviews.get("Scan"), "the scan")
        seen["scan_s"] = round(time.monotonic() - began, 2)
        seen["scan"] = [float(x) for x in scanned.data.nxsignal.nxdata]
        seen["temperatures"] = [float(x) for x in scanned.data.nxaxes[0].nxdata]
        picture(scanned, "nexpy-scan")
    if growing:
        (pictures / "ready").touch()
        until(lambda: growing in tree, "the run that is being measured")
        tree[growing]["f1/data"].plot(log=True)
        shapes = set()

        def is_whole() -> bool:
            shapes.add(tree[growing]["f1/data/data"].shape[0])
            return max(shapes) == frames

        until(is_whole, "all frames of the run that is being measured")
        seen["grew"] = sorted(shapes)
        view = plotview.plotviews["Main"]
        seen["shown_frame"] = float(view.zaxis.lo)
        seen["shown_sum"] = int(view.plotdata.nxsignal.nxdata.clip(0).sum())
        picture(window, "nexpy-follow")
    (pictures / "seen.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    os._exit(0)  # threads of Qt and of the kernel may still run
