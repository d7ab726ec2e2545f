"""The beamline: ``beamline.toml`` becomes paths, devices and a RunEngine."""
