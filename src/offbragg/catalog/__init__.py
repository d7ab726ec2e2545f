"""The catalog: find, slice and follow runs over HTTP, also while they are being measured.

`server` runs Tiled, `client` connects to it, `adapters` reads our files.
"""
