"""Verify, repair and rebuild what was measured."""
