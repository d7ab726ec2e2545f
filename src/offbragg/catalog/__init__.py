"""The catalog: runs that are found, sliced and followed over HTTP, also while they last.

`server` runs Tiled and connects to it, `publisher` writes runs, `adapters` reads our files.
"""
