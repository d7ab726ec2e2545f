"""Files in, files out: index, reduce, order parameter, pair distribution."""
