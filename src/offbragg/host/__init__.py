"""What runs on a beamline's host: services as children of one command, or as systemd units."""
