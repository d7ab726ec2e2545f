"""Single-crystal diffuse X-ray scattering with Bluesky and EPICS."""
