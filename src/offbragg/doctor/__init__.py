"""Checks of a beamline: versions, paths, disks, instruments, servers."""
