"""Python from anywhere: runs, frames, volumes and series over HTTP, with few bytes.

`connection` is the door, ``offbragg.connect``. Only NumPy and httpx are imported, so that it is
installed and loaded in a moment, also where there is no Bluesky, no EPICS and no compiler. All it
asks are the routes that the page asks, too.
"""
