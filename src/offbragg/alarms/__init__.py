"""Disks that fill, detectors that hang, clocks that jump: looked at, judged, raised."""
