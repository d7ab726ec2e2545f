"""Names of the containers at the top of a catalog."""

CONTAINER = "raw"
"""Of the runs."""

VOLUMES = "volumes"
"""Of the volumes, beside the runs."""
