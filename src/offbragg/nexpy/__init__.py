"""A plug-in of NeXpy: what a catalog has, over HTTP, in NeXpy's tree.

NeXpy finds it by the entry point ``nexpy.plugins``; it has to be allowed once, under *File, Manage
Plugins*.
"""

from __future__ import annotations

from collections.abc import Callable


def plugin_menu() -> tuple[str, list[tuple[str, Callable[[], None]]]]:
    """Return the name of the menu, and its actions."""
    from offbragg.nexpy.dialogs import open_catalog, scan_temperatures, stop_following

    return "offbragg", [
        ("Open from a Catalog…", open_catalog),
        ("Scan over Temperature", scan_temperatures),
        ("Stop Following", stop_following),
    ]
