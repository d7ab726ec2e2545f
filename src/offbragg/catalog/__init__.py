"""What people search and slice: a Tiled server and what publishes runs to it."""
