"""Instruments as classic ophyd devices that fly by the Bluesky protocols."""
