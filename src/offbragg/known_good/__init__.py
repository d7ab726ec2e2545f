"""The versions that offbragg was tested with."""
