"""IPython profile and ``beamline.toml`` of the simulated beamline."""
