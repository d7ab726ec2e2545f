"""Names that the server of a catalog and its clients share."""

CONTAINER = "raw"
"""Container of the runs."""

VOLUMES = "volumes"
"""Container of the volumes, beside the runs."""

GROWING, FINISHED = "growing", "finished"
"""States of a volume; the first one is also the key of a record whose sweeps have not ended."""

MISSING, DAMAGED = "missing", "damaged"
"""States of a volume whose file is gone, or is not a volume any more."""

VOLUME_ARRAY = "application/x-offbragg-volume"
"""Media type of an array of a volume file."""
