"""Runs in files of other programs' making: NeXus as suitcase-nxsas wrote it, and CSV."""
