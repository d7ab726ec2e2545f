"""Names of the containers at the top of a catalog."""

CONTAINER = "raw"
"""Of the runs."""

VOLUMES = "volumes"
"""Of the volumes, beside the runs."""
VOLUME_ARRAY = "application/x-offbragg-volume"
"""Media type of an array of a volume file."""
