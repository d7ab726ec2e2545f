"""Simulated EPICS IOCs of a diffuse-scattering beamline, with a known truth."""
